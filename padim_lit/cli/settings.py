"""Keys that several modes read; each mode's file adds its own.

A mode's settings are a dataclass. It is the schema that Hydra checks the command line with, its
defaults are the keys' defaults, its docstring is what ``--help`` says, and an instance of it, with
plain values, is all that a mode's `run` gets.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from padim_lit.cli.targets import default_of
from padim_lit.data.datamodule import AnomalyData
from padim_lit.deploy.calibration import require_rate
from padim_lit.errors import InputError
from padim_lit.model.anomaly_map import require_image_score
from padim_lit.model.detector import Detector
from padim_lit.model.grid import require_alignment, require_neighbourhood
from padim_lit.model.projection import MAX_DIM, require_seed
from padim_lit.model.ridge import Ridge
from padim_lit.model.rotations import require_rotations
from padim_lit.model.tiles import as_tiles
from padim_lit.sweep.ablation import Sweep

#: Keys that hold whole numbers, with the lowest and the highest. Numbers of which nothing is
#: allocated end at what a machine counts to.
WHOLE_NUMBERS = {
    "batch_size": (1, 2**20),
    "num_workers": (0, 1024),
    "dim": (1, MAX_DIM),
    "port": (1, 65535),
    **dict.fromkeys(("full_check", "calibration", "resamples"), (0, 2**31)),
    **dict.fromkeys(("rows", "positions"), (1, 2**31)),
}
#: Keys whose numbers must be above 0.
POSITIVE_NUMBERS = ("max_mb", "watch_settle", "watch_idle", "max_memory_gb", "threshold")
#: Keys with a check of their own.
CHECKS: dict[str, Callable[[Any], None]] = {
    "seed": require_seed,
    "eps": Ridge,
    "eps_unit": lambda unit: Ridge(unit=unit),
    "neighbourhood": require_neighbourhood,
    "rotations": require_rotations,
    "image_score": require_image_score,
    "alignment": require_alignment,
    "tiles": as_tiles,
    "false_alarm_rate": require_rate,
}


@dataclass
class Settings:
    """What every mode has; the modules that the groups name are imported before a checkpoint is.

    Args:
        own: packages of yours whose classes a config may name: own=[mine], typed, not in a file

    Raises:
        InputError: a value that no mode allows; a mode adds its own checks.
    """

    #: Groups of which a mode reads no key: it only needs that their modules are imported.
    imported: ClassVar[tuple[str, ...]] = ("backbone", "proj", "density")

    mode: str = MISSING
    backbone: Any = MISSING
    proj: Any = MISSING
    density: Any = MISSING
    own: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if value is None:
                continue
            if key in WHOLE_NUMBERS and not WHOLE_NUMBERS[key][0] <= value <= WHOLE_NUMBERS[key][1]:
                low, high = WHOLE_NUMBERS[key]
                raise InputError(f"{key}={value}: must be at least {low} and at most {high}")
            if key in POSITIVE_NUMBERS and not 0 < value < math.inf:
                raise InputError(f"{key}={value}: must be above 0 and finite")
            if key in CHECKS:
                CHECKS[key](value)

    @property
    def fits(self) -> bool:
        """Whether training images are needed: a test of a checkpoint takes none."""
        return True

    @property
    def unread(self) -> dict[str, str]:
        """Keys that this run would not read, with what reads them; refused where typed."""
        return {}


@dataclass
class OnDevice(Settings):
    """Modes that run images through a model.

    Args:
        batch_size: images at a time; less where a GPU's memory does not suffice
    """

    trainer: Any = MISSING
    batch_size: int = default_of(AnomalyData, "batch_size")


@dataclass
class Deciding(OnDevice):
    """Modes that score with a fitted model.

    Args:
        ckpt: model.ckpt of an earlier run
        threshold: score from which an image is called defective; null: the checkpoint's
        false_alarm_rate: share of good images called defective; null: the checkpoint's
        undecided: true: serve or watch even without a threshold, for scores without decisions
    """

    ckpt: str = MISSING
    threshold: float | None = None
    false_alarm_rate: float | None = None
    undecided: bool = False


@dataclass
class Loading(OnDevice):
    """Modes that load images by loader processes.

    Args:
        num_workers: processes that read images; null: chosen from the number of cores
    """

    num_workers: int | None = default_of(AnomalyData, "num_workers")


@dataclass
class WithData(Loading):
    """Modes that take a data set.

    Args:
        seed: draws the projection, centroids, the data's split and planted defects
        full_check: look for broken files first: decode up to this many images, else only headers
        picture_cache: folder that keeps decoded, resized pictures for later runs
    """

    data: Any = None
    seed: int = 0
    full_check: int = default_of(AnomalyData, "full_check")
    picture_cache: str | None = None


@dataclass
class Embedding(WithData):
    """Modes that fit anew.

    Args:
        image_size: shorter side in pixels before the crop, without one both; auto: the data's
        crop_size: centre crop in pixels; null keeps all; auto: the data's, 224 or null
        tiles: cut a large image into so many a side for the backbone, or [rows,columns]
        grid: patch positions along the longer side; auto: the second finest layer's; null: finest
        eps: ε, added to every variance, so that none is too small
        eps_unit: of ε: variance (a share of the mean variance) or feature (absolute, as in PaDiM)
    """

    imported: ClassVar[tuple[str, ...]] = ("proj", "density")

    data: Any = MISSING
    image_size: Any = "auto"  # int, [h, w] or auto
    crop_size: Any = "auto"  # int, [h, w], null or auto
    tiles: Any = 1  # int or [rows, columns]
    grid: Any = default_of(Detector, "grid")  # noqa: RUF009 - a constant
    eps: float = default_of(Detector, "eps")
    eps_unit: str = default_of(Detector, "eps_unit")

    @property
    def size(self) -> dict[str, Any]:
        """The sizes that were given; the data brings the others."""
        both = {"image_size": self.image_size, "crop_size": self.crop_size}
        return {key: size for key, size in both.items() if size != "auto"}


@dataclass
class Scoring(Embedding):
    """Modes that fit anew and test.

    Args:
        neighbourhood: a patch is the mean of n × n patches around it; 1: itself alone
        rotations: learn each good image turned in so many directions; for few images; 1: unturned
        sigma: blur of the anomaly map in pixels
        image_score: max of the map; topk: mean of the top 2 % of the patch distances; contrast:
            topk less half of their median
        alignment: auto: draw the map where the backbone looks, as measured; null: not, as in PaDiM
    """

    imported: ClassVar[tuple[str, ...]] = ("proj",)

    neighbourhood: int = default_of(Detector, "neighbourhood")
    rotations: int = default_of(Detector, "rotations")
    sigma: float = default_of(Detector, "sigma")
    image_score: str = default_of(Detector, "image_score")
    alignment: Any = default_of(Detector, "alignment")  # noqa: RUF009 - a constant


@dataclass
class OneDim:
    """Modes that project to one dimension.

    Args:
        dim: D, dimensions after the projection
    """

    dim: int = 100


@dataclass
class Projs(Settings):
    """Modes that compare projections in one pass over the images.

    Args:
        projs: names of the projections
    """

    projs: list[str] = field(default_factory=lambda: ["subset", "jl"])


@dataclass
class Comparing(Projs):
    """Modes that compare dimensions and seeds, too.

    Args:
        dims: dimensions that each projects to
        seeds: draw projections and centroids; seed draws the data's split, which they all share
    """

    dims: list[int] = field(default_factory=lambda: [50, 100, 150])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sweep = Sweep(self.projs, self.dims, self.seeds)  # refuses strange ones


@dataclass
class Memory:
    """Modes that keep moments of all images at once.

    Args:
        max_memory_gb: memory for the sums of all fits, in GB; if too little, more passes
    """

    max_memory_gb: float = 4.0
