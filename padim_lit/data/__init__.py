"""Datamodules: one file a dataset family, all of them an AnomalyData."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from padim_lit.data.datamodule import AnomalyData, Split, reading
    from padim_lit.data.datasets.elpv import ELPV
    from padim_lit.data.datasets.folder import Folder
    from padim_lit.data.datasets.mtd import MagneticTile
    from padim_lit.data.datasets.mvtec import MVTec
    from padim_lit.data.datasets.mvtec_like import BTAD, MPDD, MVTecAD2, MVTecLOCO
    from padim_lit.data.datasets.real_iad import RealIAD
    from padim_lit.data.datasets.visa import VisA

__all__ = [
    "BTAD",
    "ELPV",
    "MPDD",
    "AnomalyData",
    "Folder",
    "MVTec",
    "MVTecAD2",
    "MVTecLOCO",
    "MagneticTile",
    "RealIAD",
    "Split",
    "VisA",
    "reading",
]

_FILES = {
    "AnomalyData": "datamodule",
    "Split": "datamodule",
    "reading": "datamodule",
    "BTAD": "datasets.mvtec_like",
    "MPDD": "datasets.mvtec_like",
    "MVTecAD2": "datasets.mvtec_like",
    "MVTecLOCO": "datasets.mvtec_like",
    "ELPV": "datasets.elpv",
    "Folder": "datasets.folder",
    "MVTec": "datasets.mvtec",
    "MagneticTile": "datasets.mtd",
    "RealIAD": "datasets.real_iad",
    "VisA": "datasets.visa",
}


def __getattr__(name: str) -> Any:
    # Only here, because datamodules import Lightning, and reading one image does without it.
    if name in __all__:
        return getattr(import_module(f"padim_lit.data.{_FILES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
