"""PaDiM anomaly detection with random projections, on Lightning and Hydra."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from padim_lit.version import __version__

if TYPE_CHECKING:
    from padim_lit.deploy.predictor import Prediction, Predictor, load
    from padim_lit.errors import InputError
    from padim_lit.model.backbone import Backbone
    from padim_lit.model.both import Both
    from padim_lit.model.density import Density, PerPosition
    from padim_lit.model.detector import Detector
    from padim_lit.model.learned import NPCA, Fisher
    from padim_lit.model.mixture import Mixture
    from padim_lit.model.projection import JL, Identity, Orthogonal, Projection, Sparse, Subset
    from padim_lit.padim import PaDiM

__all__ = [
    "JL",
    "NPCA",
    "Backbone",
    "Both",
    "Density",
    "Detector",
    "Fisher",
    "Identity",
    "InputError",
    "Mixture",
    "Orthogonal",
    "PaDiM",
    "PerPosition",
    "Prediction",
    "Predictor",
    "Projection",
    "Sparse",
    "Subset",
    "__version__",
    "load",
]

_FILES = {
    "errors": ("InputError",),
    "deploy.predictor": ("Prediction", "Predictor", "load"),
    "model.backbone": ("Backbone",),
    "model.both": ("Both",),
    "model.density": ("Density", "PerPosition"),
    "model.detector": ("Detector",),
    "model.learned": ("NPCA", "Fisher"),
    "model.mixture": ("Mixture",),
    "model.projection": ("JL", "Identity", "Orthogonal", "Projection", "Sparse", "Subset"),
    "padim": ("PaDiM",),
}
_HOME = {name: file for file, names in _FILES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Only here, because torch and Lightning take seconds to import, and the command line sets how
    # torch's threads wait before it does.
    if name in _HOME:
        return getattr(import_module(f"padim_lit.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
