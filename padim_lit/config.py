"""Typed schema of the config: every key that ``run.py`` knows, its type and its default.

The YAML files under conf/ choose values; a value of another type, or a key that is not here, is
refused by Hydra before anything runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from padim_lit.errors import InputError
from padim_lit.folders import Override
from padim_lit.launchers import EXTRAS


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
class FisherConfig(ProjectionConfig):
    warmup: int = 100
    shrinkage: float = 0.1


@dataclass
class MinorConfig(ProjectionConfig):
    warmup: int = 100
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

    mode: str = "fit"  # a key of padim_lit.experiment.MODES
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
        "minor": MinorConfig,
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


def read_overrides(words: Sequence[str]) -> list[Override]:
    """The KEY=VALUEs of a command line as Hydra reads them.

    Raises:
        OverrideParseException: a word is none.
    """
    found = []
    for override in OverridesParser.create().parse_overrides(list(words)):
        swept = override.is_sweep_override()
        value = override.value()
        values = getattr(value, "list", [value]) if swept else [value]
        found.append(
            Override(
                override.key_or_group,
                override.input_line.partition("=")[2],
                override.input_line,
                swept,
                null=not override.is_delete()
                and not all(isinstance(v, str | QuotedString) for v in values),
            )
        )
    return found


def refuse_null_groups(overrides: Sequence[Override], conf: Path) -> None:
    """Refuse GROUP=null or =7, of which Hydra makes a traceback; `conf` holds a folder a group.

    Raises:
        InputError: the group and its options.
    """
    for override in overrides:
        if override.null and (conf / override.key).is_dir():
            options = sorted(file.stem for file in (conf / override.key).glob("*.yaml"))
            raise InputError(
                f"{override.text}: {override.key} is no value but a file of conf/{override.key}; "
                f"leave it out, or choose {', '.join(options)}"
            )


def require_known_keys(config: DictConfig, prefix: str = "") -> None:
    """Refuse what ``+KEY=VALUE`` added where a schema says which keys exist.

    Raises:
        InputError: the unknown key and those that are known beside it.
    """
    schema = OmegaConf.get_type(config)
    if not is_dataclass(schema):  # trainer and logger take what Lightning takes
        return
    for key in config:
        if key not in _keys(schema):
            raise InputError(_unknown(f"{prefix}{key}", schema))
        if not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            require_known_keys(config[key], f"{prefix}{key}.")


def explain(error: HydraException | OmegaConfBaseException) -> str:
    """One line for a config that Hydra or OmegaConf refuses: what was given, what to do."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    if isinstance(error, MissingConfigException) and (extra := _extra(error.missing_cfg_file)):
        return f"this hydra/launcher needs a package more; pip install -e '.[{extra}]'"
    if isinstance(error, MissingConfigException) and error.options:
        return f"no {error.missing_cfg_file}; allowed: {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r}: {first}; write KEY=VALUE, and quote what the shell would split"
    _, missing, key = first.partition("Missing mandatory value: ")
    if missing:
        return f"{key} is not set; give {key}=VALUE"
    cause = error.__cause__
    if not isinstance(error, ConfigCompositionException) or cause is None:
        return first
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        if is_dataclass(cause.object_type):
            return _unknown(cause.full_key, cause.object_type)
        return " ".join(lines)
    # The exception names the override, its cause what is wrong with it.
    return f"{first}: {str(cause).splitlines()[0]}; `python run.py --help` lists the keys"


def _extra(file: str | None) -> str | None:
    group, _, name = (file or "").rpartition("/")
    return EXTRAS.get(name) if group == "hydra/launcher" else None


def _keys(schema: type) -> list[str]:
    return [f.name for f in fields(schema)]


def _unknown(key: str, schema: type) -> str:
    return f"unknown key {key}; known here: {', '.join(k for k in _keys(schema) if k[0] != '_')}"


def one_line(error: BaseException) -> str:
    """What went wrong, on one line, without the framework's wrapping around our own errors."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain(error)
    text = str(error).strip() or type(error).__name__
    if "Original Traceback" in text:  # raised in a loader's process: its last line is the message
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())
