"""Datamodules: one file a dataset family, all of them an AnomalyData."""

from padim_lit.data.datamodule import AnomalyData, reading
from padim_lit.data.elpv import ELPV
from padim_lit.data.folder import Folder
from padim_lit.data.mtd import MagneticTile
from padim_lit.data.mvtec import MVTec

__all__ = ["ELPV", "AnomalyData", "Folder", "MVTec", "MagneticTile", "reading"]
