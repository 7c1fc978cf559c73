"""The threshold that mode=fit chooses without the test set, and what it does to that set."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer

from padim_lit.cli.good_images import over_images
from padim_lit.data import AnomalyData
from padim_lit.data.items import Item, ItemDataset, prepare
from padim_lit.deploy.calibration import RATE, calibrate, describe, measure, recalibrate
from padim_lit.model.detector import Detector
from padim_lit.model.learned import evenly_spaced
from padim_lit.visualization.predictions import TestScore

log = logging.getLogger(__name__)


def choose_threshold(
    data: AnomalyData, detector: Detector, trainer: Trainer, images: int, rate: float | None
) -> None:
    """Score training images as if each had been left out of the fit; sets ``detector.calibration``.

    Args:
        images: that are scored, at most; 0: none, and no threshold.
        rate: share of good images that the threshold calls defective; None: the default.
    """
    if not images:
        return
    if detector.count != len(data.train_items) or detector.count < 3:
        log.warning(
            "no threshold: the fit took %d of %d training images; it needs all, and at least 3",
            *(detector.count, len(data.train_items)),
        )
        return
    rate = RATE if rate is None else rate
    items = _unseen(data.train_items, detector.projection.fit_images, rate)
    items = [items[i] for i in evenly_spaced(len(items), images)]
    dataset = ItemDataset(items, data.resize_crop, data.reading.cache or prepare)
    device = trainer.strategy.root_device
    with trainer.precision_plugin.forward_context():
        found, data.batch_size = over_images(
            detector, dataset, lambda batches: measure(detector, batches, device), device,
            data.batch_size, data.num_workers, "threshold",
        )  # fmt: skip
    detector.calibration = calibrate(found, rate)
    log.info("%s", describe(detector.calibration))


def _unseen(items: Sequence[Item], fit_images: int, rate: float) -> Sequence[Item]:
    """The items that the projection has not learnt from, if they suffice for the rate; else all.

    Those that it has seen score lower: on ELPV by 5 to 10 % on the median.
    """
    seen = set(evenly_spaced(len(items), fit_images))
    unseen = [item for i, item in enumerate(items) if i not in seen]
    return unseen if len(unseen) + 1 >= 1 / rate else items


def at_threshold(
    rate: float | None, data: AnomalyData, detector: Detector, predictions: Iterable[TestScore]
) -> dict[str, Any]:
    """For metrics.json: the threshold and what it makes of the test images that count."""
    if detector.calibration is None:
        return {}
    known = recalibrate(detector.calibration, rate)
    threshold, interval = known["threshold"], known["interval"] or (None, None)
    counted = [p for p in predictions if data.test_items[p.index].count_image]
    found = {
        "threshold": threshold,
        "threshold_method": known["method"],
        "threshold_why": known["why"],
        "threshold_images": len(known["scores"]),
        "threshold_rate": known["false_alarm_rate"],
        "threshold_rate_low": interval[0],
        "threshold_rate_high": interval[1],
        "threshold_map": known["map_threshold"],
        "test/false_alarms": None,
        "test/misses": None,
    }
    if threshold is not None:
        found["test/false_alarms"] = sum(not p.label and p.score >= threshold for p in counted)
        found["test/misses"] = sum(p.label and p.score < threshold for p in counted)
    return found


def notes_on(results: Mapping[str, Any]) -> list[str]:
    """Sentences on `at_threshold`'s part of metrics.json."""
    if "threshold" not in results:
        return []
    if results["threshold"] is None:
        return [f"No threshold: {results['threshold_why']}."]
    return [
        (
            f"Threshold {results['threshold']:.4g}: an image that scores as high is called "
            "defective. It was set from good images alone, so that about "
            f"{results['threshold_rate']:.2%} of good images are called defective; so few images "
            f"tell that only roughly: {results['threshold_rate_low']:.2%} to "
            f"{results['threshold_rate_high']:.2%}. On the test set it calls "
            f"{results['test/false_alarms']} of {results['data/test_good']} good images defective "
            f"and misses {results['test/misses']} of {results['data/test_defective']} defective "
            "ones."
        ),
        "F1-max and the outlines in the heat maps use other thresholds, chosen on the test set: "
        "they look better than new images will.",
    ]
