"""What the threshold of a fit, and others, make of the test images."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from rich.table import Table

from padim_lit.data import AnomalyData
from padim_lit.deploy.calibration import contradicts, describe, needed, recalibrate
from padim_lit.model.detector import Detector
from padim_lit.system.console import score_text
from padim_lit.visualization.predictions import TestScore

#: False-alarm rates whose thresholds a run shows beside its own.
RATES = (0.005, 0.01, 0.02, 0.05, 0.1)


def at_threshold(
    rate: float | None, data: AnomalyData, detector: Detector, predictions: Iterable[TestScore]
) -> dict[str, Any]:
    """Return metrics.json's keys on thresholds: the run's own, what it finds, and some others."""
    counted = [p for p in predictions if data.test_items[p.index].count_image]
    bad = [p.score for p in counted if p.label]
    if detector.calibration is None:
        return {"threshold_misses": _kinds(None, counted)}
    calibration = recalibrate(detector.calibration, rate)
    scores, (low, high) = calibration.scores, calibration.interval or (None, None)
    good = [p.score for p in counted if not p.label]
    parts = len({data.test_items[p.index].part for p in counted if not p.label})
    found = {
        "threshold_misses": _kinds(calibration.threshold, counted),
        "threshold": calibration.threshold,
        "threshold_method": calibration.method,
        "threshold_why": calibration.why,
        "threshold_said": describe(calibration),
        "threshold_images": len(scores),
        "threshold_largest": float(scores[-1]) if len(scores) else None,
        "threshold_rate": calibration.false_alarm_rate,
        "threshold_rate_low": low,
        "threshold_rate_high": high,
        "threshold_map": calibration.map_threshold,
        "threshold_contradicted": None,
        **_wrong(calibration.threshold, good, bad, "test/"),
    }
    if (alarms := found["test/false_alarms"]) is not None and good:
        found["threshold_contradicted"] = contradicts(calibration, alarms, len(good), parts)
    choices = [(each, recalibrate(calibration, each).threshold) for each in RATES]
    found["threshold_choices"] = [
        {"false_alarm_rate": each, "threshold": threshold, **_wrong(threshold, good, bad)}
        for each, threshold in choices
    ]
    return found


def _kinds(threshold: float | None, counted: Iterable[TestScore]) -> list[dict[str, Any]]:
    """Return for each kind of defect how many images there are, and how many are missed."""
    scores: dict[str, list[float]] = {}
    for p in sorted(counted):
        if p.label:
            scores.setdefault(p.kind, []).append(p.score)
    return [
        {"kind": kind, "images": len(those), "misses": _wrong(threshold, [], those)["misses"]}
        for kind, those in scores.items()
    ]


def _wrong(
    threshold: float | None, good: list[float], bad: list[float], where: str = ""
) -> dict[str, Any]:
    names = (f"{where}false_alarms", f"{where}misses")
    if threshold is None or not good + bad:
        return dict.fromkeys(names)
    counts = (sum(s >= threshold for s in good), sum(s < threshold for s in bad))
    return dict(zip(names, counts, strict=True))


def table_of_choices(results: Mapping[str, Any]) -> Table | None:
    """Return a table of what other thresholds would do; None where no test image is defective."""
    choices = [c for c in results.get("threshold_choices", []) if c["misses"] is not None]
    good, bad = results["data/test_good"], results["data/test_defective"]
    if not choices or not bad:
        return None
    title = "Other thresholds, set by false_alarm_rate=… (mode=predict: or threshold=…)"
    table = Table(title=title, title_justify="left")
    for name in ("false_alarm_rate", "threshold", "false alarms", "missed", "good images needed"):
        table.add_column(name, justify="right", overflow="fold")
    # Of few images several rates have one threshold, above all of their scores.
    for threshold, same in groupby(choices, key=lambda one: one["threshold"]):
        one, *others = same
        rates = [each["false_alarm_rate"] for each in (one, *others[-1:])]
        said = " to ".join(f"{rate:g}" for rate in rates)
        takes = " to ".join(str(needed(rate)) for rate in rates)
        wrong = (f"{one['false_alarms']} of {good}", f"{one['misses']} of {bad}")
        table.add_row(said, score_text(threshold), *wrong, takes)
    return table
