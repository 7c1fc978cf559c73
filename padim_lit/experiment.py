"""One run from a config: build → fit → test → report. The only file that instantiates."""

import logging
import math
import platform
import sys
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.experimental.callback import Callback as HydraCallback
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import padim_lit
from padim_lit.ablation import Ablation, Sweep, progress
from padim_lit.anomaly_map import AnomalyMap
from padim_lit.config import explain, require_known_keys
from padim_lit.data import AnomalyData
from padim_lit.errors import InputError
from padim_lit.memory import peak_bytes, reset_peak
from padim_lit.module import PaDiM, differences, read_checkpoint
from padim_lit.projection import require_seed
from padim_lit.report.atomic import write_csv, write_json, write_text
from padim_lit.report.gallery import Gallery
from padim_lit.report.heatmaps import common_scale, save_heatmaps
from padim_lit.report.predictions import Prediction, predictions_of, write_predictions
from padim_lit.report.summary import print_summary
from padim_lit.report.sweep import as_job, collect, print_sweep_table, write_sweep_csv
from padim_lit.tracking import finish, log_run

log = logging.getLogger(__name__)

# Lightning's remarks on what is meant here: no optimiser, a backbone in eval mode, and on small
# machines no loader processes. Its hints on devices and loggers go with them.
QUIET = (
    ".*configure_optimizers. returned .None.*",
    ".*in eval mode at the start of training.*",
    ".*does not have many workers.*",
    ".*LeafSpec.*is deprecated.*",
)

PACKAGES = ("torch", "torchvision", "lightning", "timm", "torchmetrics", "numpy", "pillow")


def main(config: DictConfig) -> None:
    """Hydra's task: one run, or one job of a sweep.

    A job of a sweep that fails leaves ``failed.json`` and does not take the others with it;
    `SweepReport` names it at the end.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    job = ablate if config.projs or config.dims or config.seeds else run
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        job(config, folder)
        return
    try:
        job(config, folder)
    except Exception as error:
        if not isinstance(error, InputError):
            log.exception("this job failed")
        write_json(folder / "failed.json", {"error": one_line(error)})
        log.error("this job failed: %s", one_line(error))


def run(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Fit (or load ``config.ckpt``), test, and write everything into `folder`.

    Returns:
        The content of metrics.json.

    Raises:
        InputError: a config, file or image that cannot be used.
    """
    logger = None
    failed = True
    try:
        # The cheap checks come first: keys, data, then weights, then the trainer.
        require_known_keys(config)
        require_seed(config.seed)
        data = _data(config)
        model = _load(config, data) if config.ckpt else _build(config, data)
        logger = _logger(config)
        recorder = Recorder()
        trainer = _trainer(config, logger, recorder)
        results = _fit_and_test(config, data, model, trainer, recorder, folder)
        if trainer.is_global_zero:
            _report(config, results, recorder, logger, folder)
        failed = False
        return results
    finally:
        finish(logger, failed)


@torch.inference_mode()
def ablate(config: DictConfig, folder: Path) -> None:
    """Compare projections, dimensions and seeds in one pass, and write sweep.csv into `folder`.

    Raises:
        InputError: a config, file or image that cannot be used.
    """
    require_known_keys(config)
    sweep = Sweep(config.projs or [], config.dims or [], config.seeds or [])
    require_seed(config.seed)
    trainer = _trainer(config, None)
    if config.ckpt or trainer.world_size > 1 or trainer.precision != "32-true":
        raise InputError(
            "an ablation fits everything anew on one device in 32-true: leave out ckpt, "
            "trainer.devices and trainer.precision"
        )
    if (config.logger.get("_target_") or "csv.CSVLogger").rpartition(".")[2] != "CSVLogger":
        raise InputError("an ablation writes sweep.csv and scores.csv, to no logger: leave it out")
    data = _data(config)
    _require_regular(config.eps, max(sweep.dims), data)
    AnomalyMap((1, 1), data.image_shape, config.sigma)  # refuses a σ before the backbone runs
    backbone = _instantiate(config.backbone, seed=config.seed)
    heads = sweep.heads(backbone.embedding_dim)
    device = trainer.strategy.root_device
    ablation = Ablation(
        backbone.to(device),
        data.image_shape,
        data.train_dataloader(),
        data.test_dataloader(),
        (len(data.train_items), len(data.test_items)),
        folder,
        config.grid,
        config.eps,
        config.sigma,
    )
    try:
        rows, scores = [], {}
        largest = max(projection.width for projection, _ in heads)
        how = ablation.plan(largest, config.max_memory_gb)
        log.info("%s; %s", data.name, how.describe(len(heads), sweep.dims))
        shared = {
            "data": data.name,
            "split_seed": data.record.get("split_seed"),
            "backbone": backbone.name,
            "weights": backbone.source,
            "embedding_dim": backbone.embedding_dim,
            "grid": "x".join(map(str, ablation.grid)),
            "eps": config.eps,
            **_preprocessing(config),
            "backbone/seconds": ablation.backbone_seconds,
            "device": _device_name(device),
            **_versions(),
        }
        with progress() as bar:
            task = bar.add_task("heads", total=len(heads) * len(how.bands))
            for projection, dims in heads:
                found, new = ablation.rows(
                    projection, dims, how.bands, advance=lambda: bar.advance(task)
                )
                rows += [{**row, **shared} for row in found]
                scores |= new
    finally:
        ablation.close()
    path = write_csv(folder / "sweep.csv", list(rows[0]), rows)
    truth = {"path": ablation.truth.path, "label": ablation.truth.label.tolist()}
    columns = truth | {name: score.tolist() for name, score in scores.items()}
    images = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    write_csv(folder / "scores.csv", list(columns), images)
    print_sweep_table([as_job(row, "", {}) for row in rows])
    for note in data.notes:
        print(f"Note: {note}")
    print(f"\nsweep   {path.resolve()}\nscores  {path.with_name('scores.csv').resolve()}")
    # Last, and typed: what a multirun over several datasets gathers.
    write_json(folder / "rows.json", rows)


class Recorder(Callback):
    """Keeps each test image's prediction, and the few pictures worth looking at."""

    def __init__(self):
        self.predictions: list[Prediction] = []
        self.gallery = Gallery()

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.predictions += predictions_of(batch, outputs["score"])
        self.gallery.add(batch, outputs["score"], outputs["map"])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: PaDiM) -> None:
        if trainer.world_size == 1:
            return
        ranks: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(ranks, (self.predictions, self.gallery))
        self.predictions = [row for rows, _ in ranks for row in rows]
        self.gallery = ranks[0][1]
        for _, gallery in ranks[1:]:
            self.gallery.merge(gallery)


class SweepReport(HydraCallback):
    """Writes sweep.csv and prints the table of means when a multirun ends.

    Raises SystemExit where a job failed: Hydra turns any other exception into a warning.
    """

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        try:
            path = write_sweep_csv(folder)
            jobs = collect(folder)
        except InputError as error:
            sys.exit(f"error: {one_line(error)}")
        print_sweep_table(jobs)
        print(f"\nsweep  {path.resolve()}")
        bad = [job for job in jobs if job.status != "done"]
        if bad:
            sys.exit(f"error: {len(bad)} of {len(jobs)} jobs failed; the lines above say why")


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


def _instantiate(node: DictConfig, **kwargs: Any) -> Any:
    # Lists arrive as lists, not as OmegaConf's, because the objects keep and save them.
    try:
        return instantiate(node, _convert_="all", **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def _data(config: DictConfig) -> AnomalyData:
    return _instantiate(
        config.data,
        **_preprocessing(config),
        batch_size=config.batch_size,
        num_workers=config.num_workers,
    )


def _build(config: DictConfig, data: AnomalyData) -> PaDiM:
    # Before the backbone, whose weights may have to be fetched.
    if config.dim < 1:
        raise InputError(f"dim={config.dim}: must be at least 1")
    _require_regular(config.eps, config.dim, data)
    backbone = _instantiate(config.backbone, seed=config.seed)
    # The name is for tables and folders; a projection's class has its own.
    node = OmegaConf.masked_copy(config.proj, [k for k in config.proj if k != "name"])
    projection = _instantiate(
        node, in_channels=backbone.embedding_dim, dim=config.dim, seed=config.seed
    )
    model = PaDiM(
        backbone,
        projection,
        image_shape=data.image_shape,
        eps=config.eps,
        grid=config.grid,
        sigma=config.sigma,
    )
    weights = config.backbone.weights
    model.record = {"data": data.name, **data.record, **_preprocessing(config), "weights": weights}
    return model


def _require_regular(eps: float, dim: int, data: AnomalyData) -> None:
    images = data.record["train_images"]
    if not 0 <= eps < math.inf:
        raise InputError(f"eps={eps}: must be finite, 0 or more; set eps > 0 (PaDiM: 0.01)")
    if eps == 0 and images <= dim:
        raise InputError(
            f"eps={eps} with {images} training images and dim={dim}: every covariance would be "
            "singular; set eps > 0 (PaDiM uses 0.01)"
        )


def _preprocessing(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.masked_copy(config, ["image_size", "crop_size"]))


def _load(config: DictConfig, data: AnomalyData) -> PaDiM:
    """The checkpoint's PaDiM, after checking that the config asks for just that one."""
    state = read_checkpoint(config.ckpt)["padim_lit"]
    saved, record = state["spec"], state["record"]
    given: dict[str, Any] = {
        "backbone": {k: config.backbone[k] for k in ("model", "feature_location")},
        "proj": config.proj.name,
        "proj_options": _given_options(config.proj),
        "seed": config.seed,
        "eps": config.eps,
        "grid": config.grid,
        "image_shape": list(data.image_shape),
        "sigma": config.sigma,
    }
    if config.backbone.layers is not None:
        given["backbone"]["layers"] = sorted(config.backbone.layers)
    if config.proj.name != "identity":
        given["dim"] = config.dim
    wrong = differences(saved, given)
    if record:  # a checkpoint of a plain Trainer has none: its preprocessing is the caller's
        asked = {**_preprocessing(config), "weights": config.backbone.weights}
        if record["data"] == data.name and "split_seed" in data.record:
            # Another split would test on images that the checkpoint was fitted on.
            asked["split_seed"] = data.record["split_seed"]
        wrong = wrong or differences(record, asked)
    if wrong:
        raise InputError(f"ckpt={config.ckpt} is of another config: {wrong}; give the same keys")
    return PaDiM.load_from_checkpoint(config.ckpt)


def _given_options(proj: DictConfig) -> dict[str, Any]:
    options = {k: v for k, v in proj.items() if k not in ("_target_", "name")}
    return {k: v for k, v in options.items() if v != "auto"}  # auto has become a number


def _logger(config: DictConfig) -> Logger | None:
    if not config.logger.get("_target_"):
        return None
    node = config.logger.copy()
    hydra = HydraConfig.get()
    if "group" in node and node.group is None and hydra.mode == RunMode.MULTIRUN:
        node.group = Path(hydra.sweep.dir).name
    return _instantiate(node)


def _trainer(config: DictConfig, logger: Logger | None, *callbacks: Callback) -> Trainer:
    if config.trainer.get("max_epochs") != 1:
        raise InputError(
            f"trainer.max_epochs={config.trainer.get('max_epochs')}: PaDiM fits in one pass over "
            "the images; leave it at 1"
        )
    root = HydraConfig.get().runtime.output_dir
    node = config.trainer.copy()
    if node.get("accelerator") == "auto" and not torch.cuda.is_available():
        node.accelerator = "cpu"  # Apple's GPUs have no float64, which the moments' mean needs
    try:
        trainer = instantiate(
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
    if trainer.world_size > 1 and HydraConfig.get().mode == RunMode.MULTIRUN:
        # Lightning starts a process a device with this process's arguments: the whole sweep.
        raise InputError(
            f"a sweep uses one device a job, but trainer.devices gives {trainer.world_size}; set "
            "trainer=auto, or leave out -m"
        )
    return trainer


def _fit_and_test(
    config: DictConfig,
    data: AnomalyData,
    model: PaDiM,
    trainer: Trainer,
    recorder: Recorder,
    folder: Path,
) -> dict[str, Any]:
    device = trainer.strategy.root_device
    reset_peak(device)
    notes = _notes(config, data, model)
    if trainer.is_global_zero:
        log.info(_headline(data, model))
    fit_seconds = None
    if not config.ckpt:
        start = time.perf_counter()
        trainer.fit(model, datamodule=data)
        _require_finished(trainer)
        fit_seconds = time.perf_counter() - start
        if model.whitening is None:
            raise InputError(
                "nothing was fitted: trainer.max_epochs must be 1, and limits on batches above 0"
            )
        _save_checkpoint(trainer, folder / "model.ckpt")
    start = time.perf_counter()
    trainer.test(model, datamodule=data, verbose=False)
    _require_finished(trainer)
    test_seconds = time.perf_counter() - start
    metrics = dict(model.results)
    why = metrics.pop("why")
    # Contours need one threshold: the pixels' where truth is known.
    metrics["map_threshold"] = metrics.get("pixel_threshold", metrics.get("image_threshold"))
    return {
        **{f"test/{name}": value for name, value in metrics.items()},
        **{f"test/{name}_why": reason for name, reason in why.items()},
        "fit/seconds": fit_seconds,
        "fit/images": model.moments.count,
        "test/seconds": test_seconds,
        "test/images": len(recorder.predictions),
        "peak_memory_bytes": peak_bytes(device),
        "state_bytes": model.state_bytes,
        "device": _device_name(device),
        "backbone": model.backbone.name,
        "weights": model.backbone.source,
        "weights_sha256": model.backbone.source_sha256,
        "layers": model.backbone.layers,
        "embedding_dim": model.backbone.embedding_dim,
        "proj": model.projection.name,
        **{f"proj/{key}": value for key, value in model.projection.options.items()},
        "dim": model.projection.dim,
        "eps": model.eps,
        "seed": config.seed,
        "grid": list(model.map_grid),
        "sigma": model.sigma,
        **_preprocessing(config),
        "data": data.name,
        **{f"data/{key}": value for key, value in data.record.items()},
        **_versions(),
        "notes": notes,
    }


def _report(
    config: DictConfig,
    results: dict[str, Any],
    recorder: Recorder,
    logger: Logger | None,
    folder: Path,
) -> None:
    pictures, threshold = recorder.gallery.pictures(), results["test/map_threshold"]
    scale = common_scale(pictures)
    title = f"{results['data']}, {results['backbone']}, {results['proj']} to {results['dim']}"
    heatmaps = save_heatmaps(
        folder / "heatmaps",
        pictures,
        threshold,
        scale,
        title=title,
        image_threshold=results.get("test/image_threshold"),
    )
    write_predictions(folder / "predictions.csv", recorder.predictions)
    log_run(
        logger,
        config=OmegaConf.to_container(config, resolve=True),
        results=results,
        predictions=recorder.predictions,
        pictures=pictures,
        threshold=threshold,
        scale=scale,
    )
    # Hydra's own copy under .hydra/ keeps its interpolations.
    write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    # Last: a folder with metrics.json is complete.
    write_json(folder / "metrics.json", results)
    paths = {
        "metrics": folder / "metrics.json",
        "predictions": folder / "predictions.csv",
        "heat maps": heatmaps[-1] if heatmaps else folder,
        "checkpoint": config.ckpt or folder / "model.ckpt",
        "config": folder / "config.yaml",
    }
    print_summary(results, {k: str(Path(v).resolve()) for k, v in paths.items()}, results["notes"])


def _notes(config: DictConfig, data: AnomalyData, model: PaDiM) -> list[str]:
    notes = list(data.notes)
    if model.backbone.source.startswith("random"):
        notes.append("The backbone's weights are random: the metrics say nothing about detection.")
    if model.projection.name == "identity" and config.dim != model.projection.dim:
        notes.append(f"proj=identity keeps all {model.projection.dim} channels; dim is not used.")
    return notes


def _headline(data: AnomalyData, model: PaDiM) -> str:
    height, width = model.map_grid
    return (
        f"{data.name}: {data.record['train_images']} images to fit, {len(data.test_items)} to test;"
        f" {model.backbone.name} ({model.backbone.source}): C={model.backbone.embedding_dim} → "
        f"{model.projection.name} D={model.projection.dim}, grid {height}×{width}, ε={model.eps}, "
        f"seed {model.projection.seed}"
    )


def _save_checkpoint(trainer: Trainer, path: Path) -> None:
    # Complete or not there: a reader never meets half a file.
    part = path.with_name(path.name + ".part")
    trainer.save_checkpoint(part)
    if trainer.is_global_zero:
        part.replace(path)


def _require_finished(trainer: Trainer) -> None:
    # Lightning swallows Ctrl-C and would let the run go on with half the images.
    if trainer.interrupted:
        raise KeyboardInterrupt


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads, {platform.machine()}"


def _versions() -> dict[str, str]:
    versions = {f"version/{name}": metadata.version(name) for name in PACKAGES}
    return {
        "version/padim_lit": padim_lit.__version__,
        "version/python": platform.python_version(),
        **versions,
    }
