"""Datamodules: one file a dataset family, all of them an AnomalyData."""

import lazy_loader

# What __init__.pyi names is imported where it is asked for: datamodules import Lightning, and
# reading one image does without it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
