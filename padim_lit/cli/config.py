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
    _target_: str = "padim_lit.model.backbone.Backbone"
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
class FisherConfig(ProjectionConfig):
    fit_images: int = 100
    shrinkage: float = 0.1


@dataclass
class MinorConfig(ProjectionConfig):
    fit_images: int = 100
    sketch: int = 300


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
    download: bool = False
    url: str | None = None
    sha256: str | None = None


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
class CategoryConfig:
    _target_: str = MISSING
    root: str = MISSING
    category: str = MISSING


@dataclass
class ValidationConfig(CategoryConfig):
    validation: str = "unused"


@dataclass
class RealIADConfig(CategoryConfig):
    resolution: int = 1024


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

    mode: str = "fit"  # a key of padim_lit.cli.experiment.MODES
    dim: int = 100
    eps: float = 0.01
    seed: int = 0
    image_size: Any = 256  # int, or [h, w]
    crop_size: Any = 224  # int, [h, w], or null
    grid: Any = "auto"  # auto, null or a number of positions
    sigma: float = 4.0
    image_score: str = "max"
    batch_size: int = 32
    num_workers: int | None = None
    full_check: int = 2000
    picture_cache: str | None = None
    picture_cache_gb: float = 20.0
    ckpt: str | None = None
    calibration: int = 500  # training images scored leave-one-out for the threshold; 0: none
    false_alarm_rate: float | None = None

    # mode=merge, update, remove, export
    ckpts: list[str] | None = None
    proj_from: str | None = None
    images: str | None = None  # a file, folder or pattern
    repeats: str = "refuse"

    # mode=predict
    overlays: str = "anomalous"
    explain: bool = False
    watch: bool = False
    watch_settle: float = 1.0  # seconds
    watch_idle: float | None = None  # seconds

    # mode=export
    format: str = "onnx"
    precision: str = "fp32"
    preprocess: bool = False
    output: str | None = None
    threshold: float | None = None  # of mode=predict too

    # One pass over the images instead of one run: experiment=ablation.
    projs: list[str] | None = None
    dims: list[int] | None = None
    seeds: list[int] | None = None
    max_memory_gb: float = 4.0
    rows: int = 6  # of experiment=figure4
    positions: int = 64  # patch positions of experiment=distortion
    resamples: int = 1000  # of the test images, for intervals; 0: none
    # D of a backbone by its name, for dims that follow the backbone: experiment=table1.
    paper_dims: dict[str, int] = field(default_factory=dict)


def register() -> None:
    """Make the schema known to Hydra under the names that conf/ refers to."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for name, node in {
        "projection": ProjectionConfig,
        "sparse": SparseConfig,
        "fisher": FisherConfig,
        "npca": MinorConfig,
    }.items():
        store.store(group="schema/proj", name=name, node=node)
    for name, node in {
        "elpv": ELPVConfig,
        "mvtec": MVTecConfig,
        "mtd": MagneticTileConfig,
        "folder": FolderConfig,
        "visa": CategoryConfig,
        "btad": CategoryConfig,
        "mpdd": CategoryConfig,
        "loco": ValidationConfig,
        "mvtec_ad2": ValidationConfig,
        "real_iad": RealIADConfig,
    }.items():
        store.store(group="schema/data", name=name, node=node)
