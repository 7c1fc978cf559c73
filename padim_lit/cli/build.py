"""The only file that instantiates: data, model, logger and trainer from a config."""

import math
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate as hydra_instantiate
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from padim_lit.checkpoint.format import KEY, differences, read
from padim_lit.checkpoint.state import load_detector
from padim_lit.cli.instantiate import instantiate, require_targets
from padim_lit.cli.messages import one_line
from padim_lit.data import AnomalyData, reading
from padim_lit.errors import InputError
from padim_lit.model.backbone import Backbone
from padim_lit.model.projection import Projection
from padim_lit.padim import PaDiM
from padim_lit.sweep.ablation import Ablation
from padim_lit.sweep.gpus import claim, visible

#: Beginnings of the names of Lightning's strategies that split a model.
SHARDING = ("fsdp", "deepspeed", "model_parallel")
#: Values of trainer.accelerator that may mean a GPU of CUDA's.
GPU = ("auto", "gpu", "cuda")


def make_data(config: DictConfig) -> AnomalyData:
    with reading(config.picture_cache, config.picture_cache_gb, config.full_check):
        return instantiate(
            config.data,
            **preprocessing(config),
            batch_size=config.batch_size,
            num_workers=config.num_workers,
        )


def make_model(config: DictConfig, data: AnomalyData) -> PaDiM:
    # Before the backbone, whose weights may have to be fetched.
    if config.dim < 1:
        raise InputError(f"dim={config.dim}: must be at least 1")
    require_regular(config.eps, config.dim, data)
    backbone = instantiate(config.backbone, seed=config.seed)
    # The name is for tables and folders; a projection's class has its own.
    node = OmegaConf.masked_copy(config.proj, [k for k in config.proj if k != "name"])
    projection = instantiate(
        node, in_channels=backbone.embedding_dim, dim=config.dim, seed=config.seed
    )
    if config.proj_from:
        _adopt(projection, config.proj_from, backbone)
    model = PaDiM(
        backbone,
        projection,
        image_shape=data.image_shape,
        eps=config.eps,
        grid=config.grid,
        sigma=config.sigma,
        image_score=config.image_score,
    )
    weights = config.backbone.weights
    model.detector.provenance = {
        "data": data.name,
        **data.provenance,
        **preprocessing(config),
        "weights": weights,
    }
    return model


def _adopt(projection: Projection, path: str, backbone: Backbone) -> None:
    """Take over the Π of a checkpoint with the same backbone and options."""
    other = load_detector(path)
    asked = {"proj": projection.name, "dim": projection.dim, "proj_options": projection.options}
    wrong = differences(other.spec(), asked)
    if wrong or other.backbone.source_sha256 != backbone.source_sha256:
        raise InputError(
            f"proj_from={path} is of another config: {wrong or 'other backbone weights'}; give the "
            "same keys"
        )
    projection.adopt(other.projection.matrix)


def make_ablation(
    config: DictConfig, data: AnomalyData, backbone: Backbone, folder: Path, resamples: int = 0
) -> Ablation:
    """Runs the backbone over `data`; the feature maps lie in `folder` until it is closed."""
    return Ablation(
        backbone,
        data.image_shape,
        data.train_dataloader(),
        data.test_dataloader(),
        (len(data.train_items), len(data.test_items)),
        folder,
        config.grid,
        config.eps,
        config.sigma,
        config.image_score,
        resamples,
    )


def require_regular(eps: float, dim: int, data: AnomalyData) -> None:
    images = data.provenance["train_images"]
    if not 0 <= eps < math.inf:
        raise InputError(f"eps={eps}: must be finite, 0 or more; set eps > 0 (PaDiM: 0.01)")
    if eps == 0 and images <= dim:
        raise InputError(
            f"eps={eps} with {images} training images and dim={dim}: every covariance would be "
            "singular; set eps > 0 (PaDiM uses 0.01)"
        )


def data_was_given() -> bool:
    """Whether the command line names the data, so that the default's were not meant by silence."""
    return any(key.lstrip("+").startswith("data") for key in HydraConfig.get().overrides.task)


def preprocessing(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.masked_copy(config, ["image_size", "crop_size"]))


def load_model(config: DictConfig, data: AnomalyData) -> PaDiM:
    """The checkpoint's PaDiM, after checking that the config asks for just that one."""
    state = read(config.ckpt)[KEY]
    saved, provenance = state["spec"], state["provenance"]
    given: dict[str, Any] = {
        "backbone": {k: config.backbone[k] for k in ("model", "feature_location")},
        "proj": config.proj.name,
        "proj_options": _given_options(config.proj),
        "seed": config.seed,
        "eps": config.eps,
        "grid": config.grid,
        "image_shape": list(data.image_shape),
        "sigma": config.sigma,
        "image_score": config.image_score,
    }
    if config.backbone.layers is not None:
        given["backbone"]["layers"] = sorted(config.backbone.layers)
    if config.proj.name != "identity":
        given["dim"] = config.dim
    wrong = differences(saved, given)
    if provenance:  # a checkpoint of a plain Trainer has none: its preprocessing is the caller's
        asked = {**preprocessing(config), "weights": config.backbone.weights}
        known = str(provenance.get("data")).split(" + ")  # several after mode=merge
        if data.name in known and "split_seed" in data.provenance:
            # Another split would test on images that the checkpoint was fitted on.
            asked["split_seed"] = data.provenance["split_seed"]
        wrong = wrong or differences(provenance, asked)
    if wrong:
        raise InputError(f"ckpt={config.ckpt} is of another config: {wrong}; give the same keys")
    return PaDiM.load_from_checkpoint(config.ckpt)


def _given_options(proj: DictConfig) -> dict[str, Any]:
    options = {k: v for k, v in proj.items() if k not in ("_target_", "name")}
    return {k: v for k, v in options.items() if v != "auto"}  # auto has become a number


def make_logger(config: DictConfig) -> Logger | None:
    if not config.logger.get("_target_"):
        return None
    node = config.logger.copy()
    hydra = HydraConfig.get()
    if "group" in node and node.group is None and hydra.mode == RunMode.MULTIRUN:
        node.group = Path(hydra.sweep.dir).name
    return instantiate(node)


def make_trainer(config: DictConfig, logger: Logger | None, *callbacks: Callback) -> Trainer:
    if config.trainer.get("max_epochs") != 1:
        raise InputError(
            f"trainer.max_epochs={config.trainer.get('max_epochs')}: PaDiM fits in one pass over "
            "the images; leave it at 1"
        )
    strategy = str(config.trainer.get("strategy"))
    if strategy.startswith(SHARDING):
        raise InputError(
            f"trainer.strategy={strategy}: it shards what is trained, and here nothing is; "
            "backbone and moments are whole on every rank; use trainer=ddp"
        )
    root = HydraConfig.get().runtime.output_dir
    node = config.trainer.copy()
    if node.get("accelerator") == "auto" and not torch.cuda.is_available():
        node.accelerator = "cpu"  # Apple's GPUs have no float64, which the moments' mean needs
    sweep, gpus = HydraConfig.get().mode == RunMode.MULTIRUN, torch.cuda.device_count()
    if sweep and gpus > 1 and node.get("devices") == 1 and node.get("accelerator") in GPU:
        node.devices = [claim(visible(gpus))]  # not the first, which other jobs may be using
    require_targets(OmegaConf.to_container(node, resolve=True), "trainer")
    try:
        trainer = hydra_instantiate(
            node,
            _convert_="all",
            logger=logger or False,
            callbacks=list(callbacks),
            default_root_dir=root,
        )
    except InstantiationException as error:
        raise InputError(
            f"trainer: {one_line(error)}; choose trainer=auto, cpu, gpu or ddp, or mend its keys"
        ) from error
    if trainer.strategy.root_device.type == "mps":
        raise InputError("trainer.accelerator=mps has no float64, which the means need; use cpu")
    if trainer.world_size > 1 and sweep:
        # Lightning starts a process a device with this process's arguments: the whole sweep.
        raise InputError(
            f"a sweep uses one device a job, but trainer.devices gives {trainer.world_size}; set "
            "trainer=auto, or leave out -m"
        )
    return trainer
