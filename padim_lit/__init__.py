"""PaDiM anomaly detection with random projections, on Lightning and Hydra."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from padim_lit.version import __version__

if TYPE_CHECKING:  # `as` itself: to be imported from here
    from padim_lit.deploy.predictor import Prediction as Prediction
    from padim_lit.deploy.predictor import Predictor as Predictor
    from padim_lit.deploy.predictor import load as load
    from padim_lit.errors import InputError as InputError
    from padim_lit.model.backbone import Backbone as Backbone
    from padim_lit.model.both import Both as Both
    from padim_lit.model.density import Density as Density
    from padim_lit.model.density import PerPosition as PerPosition
    from padim_lit.model.detector import Detector as Detector
    from padim_lit.model.learned import NPCA as NPCA
    from padim_lit.model.learned import Fisher as Fisher
    from padim_lit.model.mixture import Mixture as Mixture
    from padim_lit.model.projection import JL as JL
    from padim_lit.model.projection import Identity as Identity
    from padim_lit.model.projection import Orthogonal as Orthogonal
    from padim_lit.model.projection import Projection as Projection
    from padim_lit.model.projection import Sparse as Sparse
    from padim_lit.model.projection import Subset as Subset
    from padim_lit.padim import PaDiM as PaDiM

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
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    # Only here, because torch and Lightning take seconds to import, and the command line sets how
    # torch's threads wait before it does.
    if name in _HOME:
        return getattr(import_module(f"padim_lit.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
