"""PaDiM anomaly detection with random projections, on Lightning and Hydra."""

from typing import TYPE_CHECKING, Any

from padim_lit.deploy.predictor import Prediction, Predictor, load
from padim_lit.errors import InputError
from padim_lit.model.backbone import Backbone
from padim_lit.model.detector import Detector
from padim_lit.model.learned import NPCA, Fisher
from padim_lit.model.projection import JL, Identity, Orthogonal, Projection, Sparse, Subset
from padim_lit.version import __version__

if TYPE_CHECKING:
    from padim_lit.padim import PaDiM

__all__ = [
    "JL",
    "NPCA",
    "Backbone",
    "Detector",
    "Fisher",
    "Identity",
    "InputError",
    "Orthogonal",
    "PaDiM",
    "Prediction",
    "Predictor",
    "Projection",
    "Sparse",
    "Subset",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    # Only here, because Lightning takes seconds to import and scoring does without it.
    if name == "PaDiM":
        from padim_lit.padim import PaDiM

        return PaDiM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
