"""Send a finished run to Weights & Biases, MLflow, TensorBoard or a CSV file."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from padim_lit.analysis.result_files import PREDICTIONS
from padim_lit.errors import InputError, refusing, told
from padim_lit.model.calibration import Calibration
from padim_lit.visualization.gallery import GalleryEntry
from padim_lit.visualization.heatmaps import Look
from padim_lit.visualization.panels import overlay
from padim_lit.visualization.predictions import TestScore, table_of

log = logging.getLogger(__name__)


def wandb_logger(
    save_dir: str | os.PathLike,
    *,
    project: str = "padim_lit",
    name: str | None = None,
    group: str | None = None,
    entity: str | None = None,
    tags: Sequence[str] | None = None,
    offline: bool = True,
) -> WandbLogger:
    """Make a Lightning logger for Weights & Biases; its run starts when it is first used.

    Args:
        save_dir: folder that receives ``wandb/``; made if it is missing.
        project, name, group, entity, tags: as in ``wandb.init``.
        offline: write files for a later ``wandb sync`` and never touch the network; wandb's error
            reporting is off for the process, unless WANDB_ERROR_REPORTING says otherwise.

    Raises:
        InputError: wandb is not installed; ``offline`` is False and there is no usable API key.
    """
    if offline:
        # wandb reports its use to its server when the process ends, even in offline mode.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    what = "logger=wandb needs the package wandb, which is not installed"
    with refusing(what, "run `pip install wandb` or choose logger=csv", ImportError):
        import wandb
    if not offline:
        _require_key(wandb)
    # wandb falls back to a temporary folder where this one is missing.
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    logger = WandbLogger(
        save_dir=save_dir,
        project=project,
        name=name,
        group=group,
        entity=entity,
        tags=tags,
        # Not Lightning's `offline`, which sets WANDB_MODE for the rest of the process.
        mode="offline" if offline else "online",
        # Lightning's default "allow" would continue the run that WANDB_RUN_ID names.
        resume=None,
    )
    # Lightning always passes this argument and wandb warns that it is obsolete.
    logger._wandb_init.pop("anonymous", None)
    return logger


def mlflow_logger(
    save_dir: str | os.PathLike,
    *,
    experiment_name: str = "padim_lit",
    run_name: str | None = None,
    tracking_uri: str | None = None,
) -> MLFlowLogger:
    """Make a Lightning logger for MLflow; its run starts when it is first used.

    Args:
        save_dir: folder that receives ``mlflow/`` where no server is named.
        experiment_name, run_name: as in ``mlflow.start_run``.
        tracking_uri: of a server or another store; None: MLFLOW_TRACKING_URI, else those files.

    Raises:
        InputError: mlflow is not installed.
    """
    # mlflow reports its use to its makers otherwise.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        # A database would need sqlalchemy, and one file for many jobs of a sweep.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = (Path(save_dir) / "mlflow").absolute().as_uri()
    what = "logger=mlflow needs the package mlflow-skinny or mlflow, which is not installed"
    with refusing(what, "run `pip install mlflow-skinny` or choose logger=csv", ImportError):
        return MLFlowLogger(experiment_name, run_name, uri)


def log_run(
    logger: Logger | None,
    folder: Path,
    *,
    config: Mapping[str, Any],
    results: Mapping[str, Any],
    predictions: Sequence[TestScore],
    pictures: Sequence[GalleryEntry],
    look: Look,
    calibration: Calibration | None = None,
) -> None:
    """Log a finished run as far as its logger can hold it; None logs nothing.

    W&B gets everything, MLflow the numbers and the files that say the rest, TensorBoard and CSV the
    numbers.

    Args:
        folder: the run's, in which its files lie by now.
        config: the resolved config, plain containers.
        results: the content of metrics.json.
        predictions: one row per test image.
        pictures: from ``Gallery.pictures``.
        look: how the run's own pictures are drawn; without a threshold there are no prediction
            masks.
        calibration: the detector's, for p-values and decisions.
    """
    if logger is None:
        return
    numbers = {key: value for key, value in results.items() if type(value) in (int, float)}
    if not isinstance(logger, WandbLogger):
        logger.log_metrics(numbers, step=0)
        if isinstance(logger, MLFlowLogger):
            logger.log_hyperparams(dict(config))
            for name in ("metrics.json", "predictions.csv", "heatmaps"):
                if (folder / name).exists():
                    logger.experiment.log_artifact(logger.run_id, str(folder / name))
        return
    import wandb

    run = logger.experiment
    run.config.update(dict(config), allow_val_change=True)
    rows = [
        [sendable(cell) if isinstance(cell, str) else cell for cell in row]
        for row in table_of(predictions, calibration)
    ]
    table = wandb.Table(columns=list(PREDICTIONS), data=rows)
    content = {**numbers, "predictions": table}
    if pictures:
        content["pictures"] = [_wandb_image(wandb, one, look.threshold) for one in pictures]
        content["heatmaps"] = [
            wandb.Image(overlay(p.image, p.shown, look.scale), caption=_caption(p))
            for p in pictures
        ]
    # Lightning makes this key the x-axis of every chart.
    run.log({**content, "trainer/global_step": 0})
    # Strings and nulls have no chart, so history cannot hold them; numbers are there already, but
    # an explicit summary does not depend on what was logged last.
    run.summary.update(dict(results))


@rank_zero_only
def finish(logger: Logger | None, failed: bool) -> None:
    """Close the logger's files; call it in a ``finally``.

    An open W&B run would be continued by the next job of a multirun; ``failed`` marks it as
    crashed.
    """
    if isinstance(logger, WandbLogger):
        import wandb

        if wandb.run is not None:
            wandb.finish(exit_code=int(failed))
    elif logger is not None:
        logger.finalize("failed" if failed else "success")


def sendable(text: str) -> str:
    """Escape the odd bytes of a file's name, so that any tracker takes the text as UTF-8.

    >>> sendable("café.png")
    'café.png'
    """
    return text.encode("utf-8", "backslashreplace").decode()


@contextmanager
def survived(what: str) -> Iterator[None]:
    """Turn a failure of a tracker's server, file or package into a warning: the run is complete."""
    try:
        yield
    except Exception as error:
        log.warning("logger: %s of this run could not be sent (%s)", what, told(error))


def _require_key(wandb: Any) -> None:
    # Asked now, because wandb.init would ask or fail only when fitting starts.
    try:
        why = "" if wandb.login(prompt=False, verify=False) else "there is no W&B API key"
    except (wandb.Error, ValueError) as error:
        why = f"the W&B API key cannot be used ({' '.join(str(error).split())})"
    if why:
        raise InputError(
            f"logger.offline=false, but {why}; run `wandb login`, set WANDB_API_KEY, unset "
            "WANDB_MODE, or set logger.offline=true"
        )


def _wandb_image(wandb: Any, picture: GalleryEntry, threshold: float | None) -> Any:
    predicted = None if threshold is None else picture.map >= threshold
    masks = {
        name: {"mask_data": mask.astype(np.uint8), "class_labels": {0: "good", 1: "defect"}}
        for name, mask in (("truth", picture.truth), ("prediction", predicted))
        if mask is not None
    }
    return wandb.Image(picture.image, caption=_caption(picture), masks=masks)


def _caption(picture: GalleryEntry) -> str:
    stem = PurePath(picture.path).stem
    return f"{picture.role} {picture.rank}: {picture.kind} {stem}, score {picture.score:.2f}"
