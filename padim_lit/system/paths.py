"""Paths as users type them."""

import os
from pathlib import Path


def typed_path(given: str | os.PathLike) -> Path:
    """Return a path as the user typed it, ~ expanded; paths that were found must not come here.

    A text, not a Path, so that ./~/a is below a folder that is called ~.
    """
    return Path(os.path.expanduser(given))  # noqa: PTH111 - Path's raises for ~NOBODY
