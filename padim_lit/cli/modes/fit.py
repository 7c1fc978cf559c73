"""mode=fit: build → fit (or load a checkpoint) → test → report."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import MISSING

from padim_lit import digests
from padim_lit.checkpoint import format as checkpoint_format
from padim_lit.checkpoint.state import facts_of
from padim_lit.cli import build, thresholds
from padim_lit.cli.config import as_asked
from padim_lit.cli.good_images import removed
from padim_lit.cli.settings import OneDim, Scoring
from padim_lit.cli.tracking import finish, log_run, survived
from padim_lit.data import AnomalyData
from padim_lit.data.datamodule import count_tests
from padim_lit.data.loaders import of_all_ranks, require_one_each
from padim_lit.deploy.calibration import BY_HAND, recalibrate
from padim_lit.deploy.explanation import explain
from padim_lit.deploy.model_card import model_card
from padim_lit.deploy.predictor import ModelInput
from padim_lit.errors import InputError
from padim_lit.model.both import MAX_POSITION_WEIGHT
from padim_lit.model.detector import Detector
from padim_lit.model.region_of_interest import share
from padim_lit.model.ridge import pooled
from padim_lit.padim import PaDiM
from padim_lit.system.atomic import write_json, write_text
from padim_lit.system.console import percent
from padim_lit.system.memory import peak_bytes, reset_peak
from padim_lit.system.paths import typed_path
from padim_lit.system.resource_errors import halving
from padim_lit.system.versions import written_with
from padim_lit.visualization.gallery import Gallery, write_maps
from padim_lit.visualization.heatmaps import Look, remove_heatmaps, save_heatmaps
from padim_lit.visualization.overlay import colours
from padim_lit.visualization.panels import common_scale
from padim_lit.visualization.predictions import TestScore, predictions_of, write_predictions
from padim_lit.visualization.summary import MEANING, print_summary

log = logging.getLogger(__name__)

# How much longer one side of a patch must be than the other before it is.
SQUEEZED = 0.05
# Of the variance within a Gaussian: below, ε changes nothing; above all of it, little else counts.
LEAST_EPS = 1e-3
# Patches that the limits of w were set on, and how little is little (docs/choices.md).
PATCHES, HEARD = 28 * 28, 0.4


@dataclass
class Fit(OneDim, Scoring):
    """Fit a model, or load one that `ckpt` names, and test it.

    Args:
        ckpt: model.ckpt of an earlier run: test it instead of fitting
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
        work = _Work(settings, data, model, tested, logger, folder)
        results = work.fit_and_test()
        if work.trainer.is_global_zero:
            work.report(results)
        failed = False
        return results
    finally:
        with survived("the end"):
            finish(logger, failed)


class Recorder(Callback):
    """Keeps each test image's prediction, and the few pictures worth looking at.

    Attributes:
        started: when work began, further ranks being there.
        predictions, gallery: of the last test; empty before one, and where there is none.
    """

    started: float
    predictions: list[TestScore]
    gallery: Gallery

    def setup(self, trainer: Trainer, pl_module: PaDiM, stage: str) -> None:
        self.started = time.perf_counter()
        # A test that ran out of memory starts anew.
        self.predictions, self.gallery = [], Gallery()

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        roi = pl_module.detector.anomaly_map.roi
        self.predictions += predictions_of(batch, outputs["score"], roi)
        self.gallery.add(batch, outputs["score"], outputs["map"], roi)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: PaDiM) -> None:
        ranks = of_all_ranks((self.predictions, self.gallery), trainer.world_size)
        self.predictions = [row for rows, _ in ranks for row in rows]
        self.gallery = ranks[0][1]
        for _, gallery in ranks[1:]:
            self.gallery.merge(gallery)


@dataclass
class _Work:
    """What one run does, with a Trainer that may be replaced on the way.

    Args:
        tested: which checkpoint the model was read from, if from one.
    """

    settings: Fit
    data: AnomalyData
    model: PaDiM
    tested: str | None
    logger: Logger | None
    folder: Path
    recorder: Recorder = field(default_factory=Recorder)

    def __post_init__(self) -> None:
        self.trainer = build.make_trainer(self.settings.trainer, self.logger, self.recorder)

    def fit_and_test(self) -> dict[str, Any]:
        """The content of metrics.json."""
        settings, data, detector = self.settings, self.data, self.model.detector
        device = self.trainer.strategy.root_device
        if data.test_items:  # now, and not after hours of fitting
            require_one_each(len(data.test_items), self.trainer.world_size)
        reset_peak(device)
        notes = list(_notes(settings, data, detector))
        if self.trainer.is_global_zero:
            # Those of an earlier run here would look like this one's, were it killed.
            of_the_model = () if settings.ckpt else ("model_card.md",)
            for name in ("metrics.json", "predictions.csv", *of_the_model):
                (self.folder / name).unlink(missing_ok=True)
            remove_heatmaps(self.folder / "heatmaps")
            log.info(_headline(data, detector))
        fit_seconds = None
        if not settings.ckpt:
            fit_seconds = self.fit()
            notes += _notes_on_fit(settings, detector)
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
            "patch_pixels": _patch_pixels(data, detector),
            **build.look_of(detector.backbone),
            "embedding_dim": detector.backbone.embedding_dim,
            **{f"proj/{key}": value for key, value in detector.projection.options.items()},
            **{f"density/{key}": value for key, value in detector.density.options.items()},
            **thresholds.at_threshold(settings.false_alarm_rate, data, detector, scores),
            **data.size,
            "data": data.name,
            **{f"data/{key}": value for key, value in counted.items()},
            **written_with(device),
            "notes": notes,
        }

    def fit(self) -> float:
        """Fit, choose a threshold, write model.ckpt; seconds of the fit alone."""
        seconds = self.timed("fit", lambda trainer: trainer.fit(self.model, self.data))
        path, detector = self.settings.learnt_from, self.model.detector
        elsewhere = path is not None and not _may_have_seen(path, detector)
        detector.provenance["learnt_elsewhere"] = elsewhere
        self.trainer.strategy.checkpoint_io = _WholeFile()
        self.trainer.save_checkpoint(self.folder / "model.ckpt")
        return seconds - self.model.threshold_seconds

    def timed(self, what: str, work: Callable[[Trainer], Any]) -> float:
        """Do `work`, anew with half the batch where the GPU's memory runs out; the last's seconds.

        Each attempt has a Trainer of its own, because one that failed keeps its old loaders.
        Several ranks would have to agree on a size: they stop instead.
        """
        first = self.data.batch_size

        def attempt(size: int) -> None:
            if size != first:
                self.data.batch_size = size
                self.trainer = build.make_trainer(self.settings.trainer, self.logger, self.recorder)
            with _interruptible(self.trainer):
                work(self.trainer)

        if self.trainer.world_size > 1:
            attempt(first)
        else:
            halving(first, attempt, what)
        return time.perf_counter() - self.recorder.started

    def report(self, results: dict[str, Any]) -> None:
        """Write all that a run leaves beside its checkpoint, metrics.json last; print the most."""
        settings, detector, folder = self.settings, self.model.detector, self.folder
        # Said after what they are about.
        said = thresholds.contradiction(results)
        notes = [*results["notes"], *thresholds.notes_on(results), *said]
        if words := self.model.look_at:
            notes.append(f"{words[0].upper()}{words[1:]}.")
        results["notes"] += said
        predictions, pictures = self.recorder.predictions, self.recorder.gallery.pictures()
        title = "{data}, {backbone}, {proj} to {dim}".format(**results)
        known = detector.calibration
        # Of the test set, where none is deployed; on the maps that of pixels, if truth is known.
        image, pixel = (results.get(f"test/{one}_f1max_threshold") for one in ("image", "pixel"))
        at = image if pixel is None else pixel
        look = Look(at, image, common_scale([p.shown for p in pictures]), title)
        if known is not None:
            known = recalibrate(known, settings.false_alarm_rate)
            if known["threshold"] is not None:  # what the checkpoint decides by
                how = "by hand" if known["method"] == BY_HAND else "from good images alone"
                source = f"Thresholds, set {how}"
                scale = colours(known["map_maxima"].numpy(), known["map_threshold"])  # as predict
                look = Look(
                    known["map_threshold"], known["threshold"], scale or look.scale, title, source
                )
        why = [explain(detector, ModelInput(one.image).tensor()) for one in pictures]
        heatmaps = save_heatmaps(folder / "heatmaps", pictures, look, why)
        write_maps(folder / "heatmaps" / "maps.npz", pictures)
        table = folder / "predictions.csv"
        if predictions:
            write_predictions(table, predictions, known)
        # Hydra's own copy under .hydra/ keeps its interpolations.
        config = as_asked(asdict(settings))
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        write_text(folder / "config.yaml", text)
        sha256 = self.tested or checkpoint_format.sha256_of(folder / "model.ckpt")
        results[checkpoint_format.SHA256] = sha256
        if not settings.ckpt:
            items = self.data.test_items
            counted = [p for p in sorted(predictions) if items[p.index].count_image]
            bad = Counter(p.kind for p in counted if p.label)
            write_text(folder / "model_card.md", model_card(detector, sha256, results, bad))
        # Last: a folder with metrics.json is complete.
        write_json(folder / "metrics.json", results)
        with survived("the results"):
            log_run(
                self.logger,
                folder,
                config=config,
                results=results,
                predictions=predictions,
                pictures=pictures,
                threshold=look.threshold,
                calibration=known,
            )
        paths = {
            "metrics": folder / "metrics.json",
            **({"predictions": table} if predictions else {}),
            **({"heat maps": heatmaps[-1]} if heatmaps else {}),
            "checkpoint": typed_path(settings.ckpt) if settings.ckpt else folder / "model.ckpt",
            "config": folder / "config.yaml",
        }
        print_summary(results, paths, notes, thresholds.table_of_choices(results))


def _notes(settings: Fit, data: AnomalyData, detector: Detector) -> Iterator[str]:
    """What to say before a fit or a test."""
    yield from build.notes_on(data, detector.backbone.source)
    if detector.projection.name == "identity" and settings.dim != detector.projection.dim:
        yield f"proj=identity keeps all {detector.projection.dim} channels; dim is not used."
    if settings.ckpt and settings.calibration != Fit.calibration:
        yield (
            f"calibration={settings.calibration} is of a fit: the threshold of ckpt="
            f"{settings.ckpt} stays; mode=calibrate sets another."
        )
    if (part := share(detector.anomaly_map)) < 1:
        yield (
            f"Region of interest: {percent(part, 1)} of what the model sees counts; the rest "
            "counts neither for scores nor for thresholds and metrics."
        )
    # Turned ones are distorted; a half turn is none.
    height, width = _patch_pixels(data, detector)
    squeezed = not data.mixed_proportions and abs(height / width - 1) > SQUEEZED
    if detector.rotations > 2 and squeezed:
        yield (
            f"Photos are squeezed (a patch is {height:g} x {width:g} of their pixels), so turned "
            "ones are distorted; give image_size=[h,w] in the photos' proportions."
        )


def _notes_on_fit(settings: Fit, detector: Detector) -> Iterator[str]:
    """What to say of a fit's moments: ε, and images that count twice or were seen before."""
    state = detector.require_state()
    # An absolute ε is nothing, or everything, for some features.
    eps, within = detector.ridge.eps, pooled(state.moments).diagonal().mean()
    ratio = eps / float(within) if within else math.inf
    if detector.ridge.unit == "feature" and eps and not LEAST_EPS <= ratio <= 1:
        small, large = "too small to steady the covariances", "larger than it, so it decides"
        kind = small if ratio < 1 else large
        yield (
            f"eps={eps:g} is {ratio:.2g} times the mean variance of these features, {kind}; "
            "eps_unit=variance, the default, means the same for every backbone."
        )
    if settings.learnt_from and not detector.provenance["learnt_elsewhere"]:
        yield (
            f"learnt_from={settings.learnt_from} may have learnt from some of these images: the "
            "threshold is too low then; mode=calibrate sets it from other images."
        )
    weight, finer = detector.density.learnt.get("position_weight", 1), detector.positions > PATCHES
    if finer and weight < HEARD and "position_weight" not in detector.density.options:
        yield (
            f"How much a position's own distance counts ({percent(weight)}) is learnt by a rule "
            "that was set on 28 x 28 patches. On this finer grid density.position_weight="
            f"{MAX_POSITION_WEIGHT:g} may find more, if parts lie the same way in all photos."
        )
    # That no look at the files found, because full_check was too low.
    if state.digests is not None and (twice := digests.repeats(state.digests)):
        yield (
            f"Training images that are the same picture as another one: {twice}. Each counts, and "
            "the threshold is too low; a larger full_check finds them first."
        )


def _may_have_seen(path: str, detector: Detector) -> bool:
    """Whether what a checkpoint has learnt may have seen an image of this fit."""
    other = checkpoint_format.read(path)[checkpoint_format.KEY]
    known, mine = other["digests"], detector.require_state().digests
    # What it took over itself it may have from any image.
    if known is None or mine is None or "learnt_from" in other["provenance"]:
        return True
    seen = removed(other["provenance"]).union(digests.keys(known))
    return not seen.isdisjoint(digests.keys(mine))


def _patch_pixels(data: AnomalyData, detector: Detector) -> list[float]:
    """Height and width of a patch in pixels of the largest photo: what is told apart in it."""
    rows, columns = detector.map_grid
    seen = [data.resize_crop.seen(*size) for size in data.photo_sizes]
    patches = [
        [round((bottom - top) / rows, 1), round((right - left) / columns, 1)]
        for left, top, right, bottom in seen
    ]
    return max(patches, key=lambda patch: (math.prod(patch), patch))


def _headline(data: AnomalyData, detector: Detector) -> str:
    height, width = detector.map_grid
    kinds = Counter(item.kind for item in data.test_items if item.label)
    bad = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return (
        f"{data.name}: {data.provenance['train_images']} good images to learn from, "
        f"{len(data.test_items)} to test{bad and f' (with defects: {bad})'}. Each is seen as "
        f"{height}×{width} patches; {detector.backbone.name} ({detector.backbone.source}) "
        f"describes a patch by {detector.backbone.embedding_dim} channels (C), "
        f"proj={detector.projection.name} turns these into {detector.projection.dim} numbers (D)"
    )


class _WholeFile(TorchCheckpointIO):
    """Lightning's own takes the memory of the file once more, and a temporary folder's room."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, **_: Any) -> None:
        checkpoint_format.write(Path(path), checkpoint)


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    """Raise KeyboardInterrupt after Ctrl-C, in whichever way Lightning takes it."""
    try:
        yield
    except SystemExit:
        # Its exit status 1 would say that something failed.
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    except MisconfigurationException as error:
        raise InputError(f"trainer: {' '.join(str(error).split())}") from error
    # It would let the run go on with half the images; SIGTERM it looks for at batches alone.
    if trainer.interrupted or trainer.received_sigterm:
        raise KeyboardInterrupt
