"""Datamodules: one file a dataset family, all of them an AnomalyData."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `as` itself: to be imported from here
    from padim_lit.data.datamodule import AnomalyData as AnomalyData
    from padim_lit.data.datamodule import Split as Split
    from padim_lit.data.datasets.elpv import ELPV as ELPV
    from padim_lit.data.datasets.folder import Folder as Folder
    from padim_lit.data.datasets.mtd import MagneticTile as MagneticTile
    from padim_lit.data.datasets.mvtec import MVTec as MVTec
    from padim_lit.data.datasets.mvtec_like import BTAD as BTAD
    from padim_lit.data.datasets.mvtec_like import MPDD as MPDD
    from padim_lit.data.datasets.mvtec_like import MVTecAD2 as MVTecAD2
    from padim_lit.data.datasets.mvtec_like import MVTecLOCO as MVTecLOCO
    from padim_lit.data.datasets.real_iad import RealIAD as RealIAD
    from padim_lit.data.datasets.visa import VisA as VisA

_FILES = {
    "datamodule": ("AnomalyData", "Split"),
    "datasets.elpv": ("ELPV",),
    "datasets.folder": ("Folder",),
    "datasets.mtd": ("MagneticTile",),
    "datasets.mvtec": ("MVTec",),
    "datasets.mvtec_like": ("BTAD", "MPDD", "MVTecAD2", "MVTecLOCO"),
    "datasets.real_iad": ("RealIAD",),
    "datasets.visa": ("VisA",),
}
_HOME = {name: file for file, names in _FILES.items() for name in names}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    # Only here, because datamodules import Lightning, and reading one image does without it.
    if name in _HOME:
        return getattr(import_module(f"padim_lit.data.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
