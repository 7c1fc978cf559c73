"""mode=fit: build → fit (or load a checkpoint) → test → report."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import MISSING

from padim_lit.checkpoint import format as checkpoint_format
from padim_lit.checkpoint.state import facts_of
from padim_lit.cli import build, fit_notes
from padim_lit.cli.fit_results import report
from padim_lit.cli.settings import OneDim, Scoring
from padim_lit.cli.thresholds import at_threshold
from padim_lit.cli.tracking import finish, survived
from padim_lit.cli.trainer_parts import Recorder, WholeFile, interruptible
from padim_lit.data import AnomalyData
from padim_lit.data.datamodule import count_tests
from padim_lit.data.loaders import require_one_each
from padim_lit.data.trainer import as_it_runs, require_trainer
from padim_lit.deploy.calibration import set_threshold
from padim_lit.deploy.over_images import Loop
from padim_lit.errors import InputError
from padim_lit.model.region_of_interest import share
from padim_lit.padim import PaDiM
from padim_lit.system.memory import peak_bytes, reset_peak
from padim_lit.system.paths import typed_path
from padim_lit.system.resource_errors import halving
from padim_lit.system.versions import written_with
from padim_lit.visualization.heatmaps import remove_heatmaps
from padim_lit.visualization.summary import MEANING

log = logging.getLogger(__name__)


@dataclass
class Fit(OneDim, Scoring):
    """Fit a model, or load one that `ckpt` names, and test it.

    Args:
        ckpt: model.ckpt of an earlier run: test it, by its own keys; folders need no train/ then
        calibration: training images at most that a threshold is chosen from; 0: none
        false_alarm_rate: share of good images that the threshold calls defective; null: 0.01
        learnt_from: model.ckpt whose learnt parts are used again, so that mode=merge can join both
        roi: mask as large as the images, white where it counts; or corners [[x,y],...]; null: all
    """

    imported: ClassVar[tuple[str, ...]] = ()

    mode: str = "fit"
    logger: Any = MISSING
    ckpt: str | None = None
    calibration: int = 500
    false_alarm_rate: float | None = None
    learnt_from: str | None = None
    roi: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ckpt and self.learnt_from:
            raise InputError(
                f"ckpt={self.ckpt} is tested as it is and learnt_from={self.learnt_from} is for a "
                "fit; give one of the two"
            )

    @property
    def fits(self) -> bool:
        return not self.ckpt

    @property
    def unread(self) -> dict[str, str]:
        decides = self.calibration or self.ckpt
        return {} if decides else {"false_alarm_rate": "calibration=NUMBER above 0"}


def run(settings: Fit, folder: Path) -> dict[str, Any]:
    """Fit (or load ``settings.ckpt``), test, and write everything into `folder`.

    Returns:
        The content of metrics.json.

    Raises:
        InputError: a config, file or image that cannot be used.
    """
    logger = None
    failed = True
    old, given = folder / "model.ckpt", typed_path(settings.ckpt or "")
    if settings.ckpt and old.exists() and given.exists() and not old.samefile(given):
        raise InputError(
            f"{old} is of another fit than ckpt={settings.ckpt}, whose metrics would lie beside "
            "it; give another hydra.run.dir"
        )
    try:
        # The cheap checks come first: data, then weights, then the trainer.
        data = build.make_data(settings, settings.size, test=bool(settings.ckpt))
        if settings.ckpt:
            model, tested = build.load_model(settings, data)
        else:
            model, tested = build.make_model(settings, data), None
        logger = build.make_logger(settings.logger)
        work = FitRun(settings, data, model, logger, folder)
        results = work.fit_and_test()
        if work.trainer.is_global_zero:
            sha256 = tested or checkpoint_format.sha256_of(folder / "model.ckpt")
            results[checkpoint_format.SHA256] = sha256
            report(results, settings, data, model, work.recorder, logger, folder)
        failed = False
        return results
    finally:
        with survived("the end"):
            finish(logger, failed)


@dataclass
class FitRun:
    """One run of mode=fit; its Trainer may be replaced where memory runs out."""

    settings: Fit
    data: AnomalyData
    model: PaDiM
    logger: Logger | None
    folder: Path
    recorder: Recorder = field(default_factory=Recorder)

    def __post_init__(self) -> None:
        self.trainer = build.make_trainer(self.settings.trainer, self.logger, self.recorder)
        require_trainer(self.trainer)  # in a spawned rank, an error would be a traceback

    def fit_and_test(self) -> dict[str, Any]:
        """Fit and test; return the content of metrics.json."""
        settings, data, detector = self.settings, self.data, self.model.detector
        device = self.trainer.strategy.root_device
        if data.test_items:  # now, and not after hours of fitting
            require_one_each(len(data.test_items), self.trainer.world_size)
        reset_peak(device)
        notes = list(fit_notes.before(settings, data, detector))
        if self.trainer.is_global_zero:
            # Were this run killed, an earlier run's files would look like its own.
            of_the_model = () if settings.ckpt else ("model_card.md",)
            for name in ("metrics.json", "predictions.csv", *of_the_model):
                (self.folder / name).unlink(missing_ok=True)
            remove_heatmaps(self.folder / "heatmaps")
            log.info(fit_notes.headline(data, detector))
        fit_seconds = None
        if not settings.ckpt:
            fit_seconds = self.fit()
            notes += fit_notes.on_fit(settings, detector)
            detector.fit_state = None  # the file has the moments, and a test needs none
        test_seconds = None
        names = [name.removeprefix("test/") for name in MEANING]
        metrics, why = dict.fromkeys(names), dict.fromkeys(names, "there are no test images")
        if data.test_items:
            test_seconds = self.timed("test", lambda t: t.test(self.model, data, verbose=False))
            metrics = dict(self.model.results)
            why = metrics.pop("why")
        scores = self.recorder.predictions
        counted = dict(data.provenance)
        if len(scores) < len(data.test_items):  # what is found and missed is of those alone
            counted |= count_tests([data.test_items[one.index] for one in scores])
        seen = None
        if scores and not counted["test_planted"]:
            seen = sum(one.shown for one in scores)
        return {
            **{f"test/{name}": value for name, value in metrics.items()},
            **{f"test/{name}_why": reason for name, reason in why.items()},
            "fit/seconds": fit_seconds,
            "fit/images": detector.count,
            "test/pixel_defective": seen,
            "test/seconds": test_seconds,
            "test/images": len(scores),
            "test/seconds_per_image": test_seconds and test_seconds / max(len(scores), 1),
            "peak_memory_bytes": peak_bytes(device),
            "state_bytes": detector.state_bytes,
            "precision": self.trainer.precision,
            **facts_of(detector),
            "roi_share": share(detector.anomaly_map),
            "patch_pixels": fit_notes.patch_pixels(data, detector),
            "stretch": fit_notes.stretch(data, detector),
            **build.look_of(detector.backbone),
            "embedding_dim": detector.backbone.embedding_dim,
            **{f"proj/{key}": value for key, value in detector.projection.options.items()},
            **{f"density/{key}": value for key, value in detector.density.options.items()},
            **at_threshold(settings.false_alarm_rate, data, detector, scores),
            **data.size,
            "data": data.name,
            "data_sha256": data.sha256,
            **{f"data/{key}": value for key, value in counted.items()},
            **written_with(device),
            "notes": notes,
        }

    def fit(self) -> float:
        """Fit, choose a threshold and write model.ckpt; return the seconds of the fit alone."""
        seconds = self.timed("fit", lambda trainer: trainer.fit(self.model, self.data))
        path, detector = self.settings.learnt_from, self.model.detector
        elsewhere = path is not None and not fit_notes.may_have_seen(path, detector)
        detector.provenance["learnt_elsewhere"] = elsewhere
        if path is not None and not elsewhere and detector.calibration is not None:
            self.set_threshold_anew()
        self.trainer.strategy.checkpoint_io = WholeFile()
        self.trainer.save_checkpoint(self.folder / "model.ckpt")
        return seconds - self.model.threshold_seconds

    def set_threshold_anew(self) -> None:
        """Set the threshold by fits that learn anew: what was taken over knows these images."""
        detector, loader = self.model.detector, self.trainer.train_dataloader
        detector.calibration, self.model.look_at = None, ""
        if self.trainer.world_size > 1:
            return
        for part in (detector.projection, detector.density):
            part.fit_images = part.options.get("fit_images", 0)
        loop = Loop.like(loader, self.trainer.strategy.root_device)
        how = self.model.calibration, self.model.false_alarm_rate, loop
        with as_it_runs(self.trainer):
            self.model.look_at = set_threshold(detector, loader.dataset, *how, in_order=False)

    def timed(self, what: str, work: Callable[[Trainer], Any]) -> float:
        """Do `work`, and again with half the batch where a GPU's memory runs out.

        Returns the seconds of the last attempt.

        Each attempt has a Trainer of its own, because one that failed keeps its old loaders.
        Several ranks would have to agree on a size: they stop instead.
        """
        first = self.data.batch_size

        def attempt(size: int) -> None:
            if size != first:
                self.data.batch_size = size
                self.trainer = build.make_trainer(self.settings.trainer, self.logger, self.recorder)
            with interruptible(self.trainer):
                work(self.trainer)

        if self.trainer.world_size > 1:
            attempt(first)
        else:
            halving(first, attempt, what)
        return time.perf_counter() - self.recorder.started
