"""Typed schema of the config: every key that ``run.py`` knows, its type and its default.

The YAML files under conf/ choose values; a value of another type, or a key that is not here, is
refused by Hydra before anything runs.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class BackboneConfig:
    _target_: str = "padim_lit.backbone.Backbone"
    name: str = MISSING
    model: str = MISSING
    layers: list[int] | None = None
    weights: str = "pretrained"
    feature_location: str | None = None


@dataclass
class ProjectionConfig:
    _target_: str = MISSING
    name: str = MISSING


@dataclass
class SparseConfig(ProjectionConfig):
    density: Any = "auto"  # a number, or auto


@dataclass
class ELPVConfig:
    _target_: str = "padim_lit.data.ELPV"
    cells: str = "mono"
    planted: bool = True
    split_seed: int = 0


@dataclass
class MVTecConfig:
    _target_: str = "padim_lit.data.MVTec"
    root: str = MISSING
    category: str = MISSING


@dataclass
class MagneticTileConfig:
    _target_: str = "padim_lit.data.MagneticTile"
    root: str = MISSING
    split_seed: int = 0
    test_good: int = 150
    whole_tiles: bool = True


@dataclass
class FolderConfig:
    _target_: str = "padim_lit.data.Folder"
    root: str = MISSING


@dataclass
class Config:
    """One run. Groups (backbone, proj, data, trainer, logger) are files under conf/."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    # Each option brings its own schema, so that an option's keys are checked too.
    proj: Any = MISSING
    data: Any = MISSING
    # Lightning's Trainer and loggers check their own arguments.
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)

    dim: int = 100
    eps: float = 0.01
    seed: int = 0
    image_size: Any = 256  # int, or [h, w]
    crop_size: Any = 224  # int, [h, w], or null
    grid: int | None = None
    sigma: float = 4.0
    batch_size: int = 32
    num_workers: int | None = None
    ckpt: str | None = None


def register() -> None:
    """Make the schema known to Hydra under the names that conf/ refers to."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for name, node in {
        "projection": ProjectionConfig,
        "sparse": SparseConfig,
    }.items():
        store.store(group="schema/proj", name=name, node=node)
    for name, node in {
        "elpv": ELPVConfig,
        "mvtec": MVTecConfig,
        "mtd": MagneticTileConfig,
        "folder": FolderConfig,
    }.items():
        store.store(group="schema/data", name=name, node=node)
