"""timm without wandb, which it would import for the logs of its training scripts."""

import sys

# What is None here cannot be imported, which timm takes for not installed. Seconds, and wandb's
# own settings at import, are nothing that scoring an image needs.
_hidden = "wandb" not in sys.modules
if _hidden:
    sys.modules["wandb"] = None
try:
    import timm
finally:
    if _hidden:
        del sys.modules["wandb"]

__all__ = ["timm"]
