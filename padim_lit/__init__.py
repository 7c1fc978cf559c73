"""PaDiM anomaly detection with random projections, on Lightning and Hydra."""

from padim_lit.backbone import Backbone
from padim_lit.errors import InputError
from padim_lit.module import PaDiM
from padim_lit.projection import JL, Fisher, Identity, Minor, Orthogonal, Projection, Sparse, Subset
from padim_lit.version import __version__

__all__ = [
    "JL",
    "Backbone",
    "Fisher",
    "Identity",
    "InputError",
    "Minor",
    "Orthogonal",
    "PaDiM",
    "Projection",
    "Sparse",
    "Subset",
    "__version__",
]
