"""The only file that instantiates: data, model, logger and trainer from a mode's settings."""

import os
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment

from padim_lit.checkpoint.format import KEY, SHA256, differences, read
from padim_lit.checkpoint.state import load_detector, spec_of
from padim_lit.cli.messages import one_line
from padim_lit.cli.roi import read_roi
from padim_lit.cli.settings import Deciding, Embedding, Scoring, Settings, WithData
from padim_lit.cli.targets import READING_KEYS, instantiate
from padim_lit.data import AnomalyData
from padim_lit.data.cache import digest_of, stamp
from padim_lit.data.files import find_images
from padim_lit.data.trainer import require_float64
from padim_lit.deploy.combine import adopt
from padim_lit.deploy.predictor import Predictor, load
from padim_lit.errors import InputError, require_kinds
from padim_lit.model.backbone import Backbone
from padim_lit.model.density import Density
from padim_lit.model.grid import resolve_grid
from padim_lit.model.region_of_interest import RestrictedMap
from padim_lit.model.ridge import Ridge
from padim_lit.model.tiles import as_tiles
from padim_lit.padim import PaDiM
from padim_lit.sweep.ablation import Ablation
from padim_lit.sweep.gpus import claim, visible
from padim_lit.system.paths import typed_path
from padim_lit.system.versions import made_with

if TYPE_CHECKING:
    from padim_lit.cli.modes.fit import Fit

#: Values of trainer.accelerator that may mean a GPU of CUDA's.
GPU_ACCELERATORS = ("auto", "gpu", "cuda")
#: Settings of a detector that stand beside a sweep's results.
FACT_KEYS = ("eps", "eps_unit", "neighbourhood", "rotations", "sigma", "image_score", "alignment")


def make_data(settings: WithData, size: dict[str, Any], test: bool = True) -> AnomalyData:
    """The data set, at the sizes in `size`; where a key is missing at its own.

    Raises InputError where it has no test images and `test` needs them.
    """
    how = {key: getattr(settings, key) for key in READING_KEYS}
    data = instantiate(settings.data, **size, **how, fits=settings.fits)
    require_kinds((data, AnomalyData))
    if test:
        data.require_test()
    return data


def content_of(settings: Settings) -> dict[str, str]:
    """Return digests of the files that the settings name: images, masks, checkpoints, weights, …"""
    found = {}
    if getattr(settings, "data", None) is not None:
        size = getattr(settings, "size", {})
        data = instantiate(settings.data, **size, look=False, fits=settings.fits)
        found["data"] = data.content()
    values = {**vars(settings), "weights": settings.backbone.get("weights")}
    for key in ("ckpt", "ckpts", "learnt_from", "weights", "roi", "images", "good"):
        given = values.get(key)
        for name in listed(given):
            if not isinstance(name, str):
                continue
            for file in find_images(name, key) if key in ("images", "good") else [typed_path(name)]:
                if file.is_file():  # what is missing is the mode's to judge
                    found[f"{key}: {file}"] = digest_of(stamp(file))
    return found | own_code(settings)


def listed(given: Any) -> list[Any]:
    """Return what a key holds that takes one value or a list of them."""
    return given if isinstance(given, list) else [given]


def own_code(settings: Settings) -> dict[str, str]:
    """Return digests of the Python files of the packages in ``own``."""
    files: list[Path] = []
    for spec in filter(None, map(find_spec, settings.own)):
        for folder in spec.submodule_search_locations or ():
            files += Path(folder).rglob("*.py")
        if spec.origin and not spec.submodule_search_locations:
            files.append(Path(spec.origin))
    return {f"own: {file}": digest_of(stamp(file)) for file in sorted(files) if file.is_file()}


def make_backbone(settings: Embedding) -> Backbone:
    # A backbone of one's own need not know of tiles.
    tiles = {} if as_tiles(settings.tiles) == [1, 1] else {"tiles": settings.tiles}
    return instantiate(settings.backbone, seed=settings.seed, **tiles)


def make_model(settings: "Fit", data: AnomalyData) -> PaDiM:
    # Before the backbone, whose weights may have to be fetched.
    if data.fits:
        require_regular(settings, settings.dim, data)
    if settings.roi is not None and settings.rotations > 1:
        raise InputError(
            f"roi={settings.roi} lies still, and rotations={settings.rotations} turns what it "
            "shows; give one of the two"
        )
    backbone = make_backbone(settings)
    projection = instantiate(
        _nameless(settings.proj),
        in_channels=backbone.embedding_dim, dim=settings.dim, seed=settings.seed,
    )  # fmt: skip
    density = make_density(settings)(projection.dim, settings.seed)
    how = {key: getattr(settings, key) for key in ("grid", *FACT_KEYS)}
    model = PaDiM(backbone, projection, data.image_shape, density, **how)
    model.calibration, model.false_alarm_rate = settings.calibration, settings.false_alarm_rate
    model.detector.provenance = {**data.facts, "weights": settings.backbone.get("weights")}
    if settings.learnt_from:
        path = settings.learnt_from
        adopt(model.detector, load_detector(path, key="learnt_from"), path)
    if settings.roi is not None:
        detector = model.detector
        detector.anomaly_map = RestrictedMap(detector.anomaly_map, read_roi(settings.roi, data))
        detector.provenance["roi"] = str(settings.roi)
    return model


def make_density(settings: Scoring) -> Callable[[int, int], Density]:
    """Return a function that makes the density for a D and a seed."""
    node = _nameless(settings.density)
    return lambda dim, seed: instantiate(node, dim=dim, seed=seed)


def _nameless(node: dict[str, Any]) -> dict[str, Any]:
    """Return the node without its name: tables and folders use that, and a class brings its own."""
    return {key: value for key, value in node.items() if key != "name"}


def make_ablation(
    settings: Scoring, data: AnomalyData, backbone: Backbone, folder: Path, resamples: int = 0
) -> Ablation:
    """Run the backbone over `data`, and keep its feature maps in `folder` until it is closed."""
    return Ablation(
        backbone, data, folder, settings.grid, settings.sigma, make_density(settings),
        Ridge(settings.eps, settings.eps_unit), settings.image_score, settings.neighbourhood,
        settings.rotations, resamples, settings.alignment,
    )  # fmt: skip


def make_compared(
    settings: Embedding, dim: int, device: torch.device
) -> tuple[AnomalyData, Backbone]:
    """Make what a comparison of projections needs: the data, and the backbone on `device`.

    Raises InputError where every covariance would be singular at D = `dim`.
    """
    data = make_data(settings, settings.size)
    require_regular(settings, dim, data)
    return data, make_backbone(settings).to(device)


def require_regular(settings: Embedding, dim: int, data: AnomalyData) -> None:
    """Raise InputError where every covariance would be singular."""
    images = data.provenance["train_images"]
    patches = images * getattr(settings, "rotations", 1)
    if settings.eps == 0 and patches <= dim and not make_density(settings)(dim, 0).shrinkage:
        raise InputError(
            f"eps={settings.eps} with {images} training images and dim={dim}: every covariance "
            "would be singular; set eps > 0 (PaDiM uses 0.01)"
        )


def notes_on(data: AnomalyData, weights: str) -> list[str]:
    """Return the notes on the data, and one on random weights, by their source in `Backbone`."""
    random = "The backbone's weights are random: no number here says how well defects are found."
    return [*data.notes, random] if weights.startswith("random") else list(data.notes)


def facts(settings: Embedding, data: AnomalyData, backbone: Backbone) -> dict[str, Any]:
    """Return the facts that a sweep's results share: data, weights, settings, device, versions."""
    counts = ("train_images", "test_good", "test_defective", "test_planted", "test_groups")
    return {
        "data": data.name,
        "data_sha256": data.sha256,
        **{key: data.provenance.get(key) for key in ("split_seed", *counts, "pixel_truth")},
        **data.size,
        "backbone": backbone.name,
        "weights": backbone.source,
        "weights_sha256": backbone.source_sha256,
        "embedding_dim": backbone.embedding_dim,
        "grid": "x".join(map(str, resolve_grid(backbone.grids(data.image_shape), settings.grid))),
        **look_of(backbone),
        **{key: getattr(settings, key) for key in FACT_KEYS if hasattr(settings, key)},
        **(_density_of(settings) if isinstance(settings, Scoring) else {}),
        **made_with(backbone.pixel_mean.device),
    }


def look_of(backbone: Backbone) -> dict[str, list[int]]:
    """Return which layers a backbone gives, and in how many tiles it sees an image."""
    return {"layers": backbone.layers, "tiles": getattr(backbone, "tiles", [1, 1])}


def _density_of(settings: Scoring) -> dict[str, Any]:
    options = _nameless(settings.density).items()
    named = {f"density/{key}": value for key, value in options if key != "_target_"}
    return {"density": settings.density.get("name"), **named}


def load_model(settings: "Fit", data: AnomalyData) -> tuple[PaDiM, str]:
    """Load a checkpoint's PaDiM and its `SHA256`; refuse settings that contradict it."""
    content = read(settings.ckpt)
    saved, provenance = content[KEY]["spec"], content[KEY]["provenance"]
    backbone = dict(settings.backbone)
    if "weights" in backbone:  # they lie in the checkpoint, and need not be at hand
        backbone["weights"] = "random"
    spec = spec_of(make_model(replace(settings, backbone=backbone), data).detector)
    spec["backbone"] |= {key: saved["backbone"][key] for key in ("weights", "name")}
    wrong = differences(saved, spec)
    asked = {**data.size, "weights": settings.backbone.get("weights")}
    if settings.roi is not None:  # the checkpoint holds its own
        asked["roi"] = str(settings.roi)
    names = str(provenance.get("data")).split(" + ")  # several after mode=merge
    if data.name in names and "split_seed" in data.provenance:
        # Another split would test on images that the checkpoint was fitted on.
        asked["split_seed"] = data.provenance["split_seed"]
        if len(names) == 1:  # with more images it may be another one, too
            asked["split"] = data.provenance["split"]
    # A fit in Python notes less: what it does not note, the caller has to know.
    asked = {k: asked[k] for k in asked if k in provenance or k == "roi"}
    wrong = wrong or differences(provenance, asked)
    if wrong:
        todo = "give the same keys"
        if "split" in wrong and data.provenance.get("split_seed") == settings.seed:
            todo += ", or where images came since: fit again, or put new ones into test/KIND"
        raise InputError(f"ckpt={settings.ckpt} is of another config: {wrong}; {todo}")
    return PaDiM.load_from_checkpoint(settings.ckpt), content[SHA256]


def make_predictor(settings: Deciding, live: bool) -> Predictor:
    """The checkpoint's, on the trainer's device; on the CPU each image is a batch of its own.

    `live`, where no person looks at the scores, InputError without a threshold, unless asked for.
    """
    device = device_of(settings.trainer)
    predictor = load(
        settings.ckpt,
        device=device,
        batch_size=1 if device.type == "cpu" else settings.batch_size,
        threshold=settings.threshold,
        false_alarm_rate=settings.false_alarm_rate,
    )
    if live and predictor.threshold is None and not settings.undecided:
        raise InputError(
            f"ckpt={settings.ckpt}: {predictor.threshold_source}, so no part would be called "
            "defective; calibrate it with images=GOOD_IMAGES, or give threshold=NUMBER; for scores "
            "alone give undecided=true"
        )
    return predictor


def make_logger(node: dict[str, Any]) -> Logger | None:
    if not node.get("_target_"):
        return None
    hydra = HydraConfig.get()
    if node.get("group", "") is None and hydra.mode == RunMode.MULTIRUN:
        node = {**node, "group": Path(hydra.sweep.dir).name}
    if node.get("save_dir", "") is None:
        node = {**node, "save_dir": hydra.runtime.output_dir}
    return instantiate(node)


def make_trainer(
    node: dict[str, Any], logger: Logger | None = None, *callbacks: Callback
) -> Trainer:
    node = dict(node)
    hydra = HydraConfig.get()
    if node.get("accelerator") == "auto" and not torch.cuda.is_available():
        node["accelerator"] = "cpu"  # Apple's GPUs have no float64, which the moments' mean needs
    sweep, gpus = hydra.mode == RunMode.MULTIRUN, torch.cuda.device_count()
    on_gpu = node.get("accelerator") in GPU_ACCELERATORS
    if sweep and gpus > 1 and on_gpu and node.get("devices") == 1:
        node["devices"] = [claim(visible(gpus))]  # not the first, which other jobs may be using
    if "SLURM_NTASKS" in os.environ and alone(node):
        # The allocation may have several tasks, and this process is one of its own.
        node.setdefault("plugins", [LightningEnvironment()])
    try:
        trainer = instantiate(
            node,
            logger=logger or False,
            callbacks=list(callbacks),
            default_root_dir=hydra.runtime.output_dir,
        )
    except InstantiationException as error:
        raise InputError(
            f"trainer: {one_line(error)}; choose trainer=auto, cpu, gpu or ddp, or correct its keys"
        ) from error
    require_float64(trainer.strategy.root_device)
    if trainer.world_size > 1 and sweep:
        # Lightning starts a process a device with this process's arguments: the whole sweep.
        raise InputError(
            f"a sweep uses one device per job, but trainer.devices gives {trainer.world_size}; set "
            "trainer=auto, or leave out -m"
        )
    return trainer


def alone(node: dict[str, Any] | None) -> bool:
    """Whether the trainer that `node` describes runs in one process; so does a missing trainer."""
    if node is None:
        return True
    devices = node.get("devices")
    one = devices == 1 or (isinstance(devices, list) and len(devices) == 1)
    return one and node.get("num_nodes", 1) == 1


def device_of(node: dict[str, Any]) -> torch.device:
    """The first device of the trainer that `node` describes."""
    return make_trainer(node).strategy.root_device
