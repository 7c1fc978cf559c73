"""Datamodules: one file a dataset family, all of them an AnomalyData."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from padim_lit.data.btad import BTAD
    from padim_lit.data.datamodule import AnomalyData, reading
    from padim_lit.data.elpv import ELPV
    from padim_lit.data.folder import Folder
    from padim_lit.data.loco import MVTecLOCO
    from padim_lit.data.mpdd import MPDD
    from padim_lit.data.mtd import MagneticTile
    from padim_lit.data.mvtec import MVTec
    from padim_lit.data.mvtec_ad2 import MVTecAD2
    from padim_lit.data.real_iad import RealIAD
    from padim_lit.data.visa import VisA

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
    "VisA",
    "reading",
]

_FILES = {
    "AnomalyData": "datamodule",
    "MVTecLOCO": "loco",
    "MVTecAD2": "mvtec_ad2",
    "MagneticTile": "mtd",
    "RealIAD": "real_iad",
    "reading": "datamodule",
}


def __getattr__(name: str) -> Any:
    # Only here, because datamodules import Lightning, and reading one image does without it.
    if name in __all__:
        return getattr(import_module(f"padim_lit.data.{_FILES.get(name, name.lower())}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
