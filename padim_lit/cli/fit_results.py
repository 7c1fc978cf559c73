"""What mode=fit makes of its results: pictures, files, a tracker's run, a printed summary."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lightning.pytorch.loggers import Logger

from padim_lit.checkpoint import format as checkpoint_format
from padim_lit.cli import fit_notes
from padim_lit.cli.config import as_asked
from padim_lit.cli.thresholds import table_of_choices
from padim_lit.cli.tracking import log_run, survived
from padim_lit.cli.trainer_parts import Recorder
from padim_lit.data import AnomalyData
from padim_lit.deploy.calibration import BY_HAND, recalibrate
from padim_lit.deploy.explanation import explain
from padim_lit.deploy.model_card import model_card
from padim_lit.deploy.prediction import ModelInput
from padim_lit.model.calibration import Calibration
from padim_lit.padim import PaDiM
from padim_lit.system.atomic import write_json, write_text
from padim_lit.system.paths import typed_path
from padim_lit.visualization.gallery import GalleryEntry, write_maps
from padim_lit.visualization.heatmaps import Look, save_heatmaps
from padim_lit.visualization.overlay import colours
from padim_lit.visualization.panels import common_scale
from padim_lit.visualization.predictions import write_predictions
from padim_lit.visualization.summary import print_summary

if TYPE_CHECKING:
    from padim_lit.cli.modes.fit import Fit


def report(
    results: dict[str, Any],
    settings: "Fit",
    data: AnomalyData,
    model: PaDiM,
    recorder: Recorder,
    logger: Logger | None,
    folder: Path,
) -> None:
    """Write all files beside the checkpoint, metrics.json last, and print the summary.

    Args:
        results: the content of metrics.json, whose notes a contradicted threshold joins.
        recorder: of the test.
    """
    contradiction = fit_notes.contradiction(results)
    # Said after what they are about.
    notes = [*results["notes"], *fit_notes.on_threshold(results), *contradiction]
    if model.look_at:
        notes.append(fit_notes.sentence(model.look_at))
    results["notes"] += contradiction
    detector = model.detector
    calibration = detector.calibration
    if calibration is not None:
        calibration = recalibrate(calibration, settings.false_alarm_rate)
    predictions, pictures = recorder.predictions, recorder.gallery.pictures()
    look = replace(_look_of(pictures, results, calibration), stretch=results["stretch"])
    results["map_colours"] = look.scale  # for the viewer too
    checkpoint = typed_path(settings.ckpt) if settings.ckpt else folder / "model.ckpt"
    paths = {"metrics": folder / "metrics.json"}
    why = [explain(detector, ModelInput(one.image).tensor()) for one in pictures]
    heatmaps = save_heatmaps(folder / "heatmaps", pictures, look, why)
    write_maps(folder / "heatmaps" / "maps.npz", pictures)  # for the viewer
    if predictions:
        paths["predictions"] = folder / "predictions.csv"
        write_predictions(paths["predictions"], predictions, calibration)
    if heatmaps:
        paths["heat maps"] = heatmaps[-1]
    paths |= {"checkpoint": checkpoint, "config": folder / "config.yaml"}
    # Hydra's own copy under .hydra/ keeps its interpolations.
    config = as_asked(asdict(settings))
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    write_text(paths["config"], text)
    if not settings.ckpt:
        text = model_card(detector, results[checkpoint_format.SHA256], results)
        write_text(folder / "model_card.md", text)
    # Last: a folder with metrics.json is complete.
    write_json(paths["metrics"], results)
    with survived("the results"):
        log_run(
            logger,
            folder,
            config=config,
            results=results,
            predictions=predictions,
            pictures=pictures,
            look=look,
            calibration=calibration,
        )
    print_summary(results, paths, notes, table_of_choices(results))


def _look_of(
    pictures: Sequence[GalleryEntry],
    results: Mapping[str, Any],
    calibration: Calibration | None,
) -> Look:
    """Choose how pictures are drawn: by the model's thresholds, else by the test's best."""
    title = "{data}, {backbone}, {proj} to {dim}".format(**results)
    scale = common_scale([picture.shown for picture in pictures])
    if calibration is None or calibration.threshold is None:
        # Maps take the best threshold of pixels, if their truth is known.
        image, pixel = (results.get(f"test/{one}_f1max_threshold") for one in ("image", "pixel"))
        return Look(image if pixel is None else pixel, image, scale, title)
    how = "by hand" if calibration.method == BY_HAND else "from good images alone"
    at = calibration.map_threshold
    scale = colours(calibration.map_maxima.numpy(), at) or scale  # as mode=predict has it
    return Look(at, calibration.threshold, scale, title, f"Thresholds, set {how}")
