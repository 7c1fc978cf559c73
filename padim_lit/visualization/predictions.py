"""One line per test image: ``predictions.csv``."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from padim_lit.analysis.result_files import PREDICTIONS
from padim_lit.deploy.calibration import p_value
from padim_lit.deploy.prediction import DECISIONS
from padim_lit.model.calibration import Calibration
from padim_lit.system.atomic import write_csv


class TestScore(NamedTuple):
    """The image score of one test image.

    Attributes:
        path: the image file; a planted copy has the path of the image it was made from.
        kind: "good", "crack", "planted_crack", ...
        label: 0 good, 1 defective.
        score: Mahalanobis distance, not squared.
        index: position in the test set.
        shown: whether pixel metrics count a defect of it.
    """

    path: str
    kind: str
    label: int
    score: float
    index: int
    shown: bool


def predictions_of(
    batch: Mapping[str, Any], score: Tensor, roi: Tensor | None = None
) -> list[TestScore]:
    """Pair a collated batch of B images with their ``score`` (B,), in order.

    roi (h,w) bool is what counts; None: all.
    """
    mask = batch["mask"].bool() if roi is None else batch["mask"].bool() & roi
    shown = mask.flatten(1).any(dim=1) & batch["count_pixel"]
    numbers = (batch["label"], score, batch["index"], shown)
    rows = zip(batch["path"], batch["kind"], *(n.tolist() for n in numbers), strict=True)
    return [TestScore(*row) for row in rows]


def table_of(
    predictions: Iterable[TestScore], calibration: Calibration | None = None
) -> list[tuple]:
    """Return the rows of predictions.csv in the order of the test set.

    Args:
        calibration: the detector's; without one there is no p-value, and without its threshold no
            decision.
    """
    threshold = None if calibration is None else calibration.threshold
    return [
        (
            row.path,
            row.kind,
            row.label,
            row.score,
            None if calibration is None else p_value(row.score, calibration),
            DECISIONS[None if threshold is None else row.score >= threshold],
        )
        for row in sorted(predictions, key=lambda row: row.index)
    ]


def write_predictions(
    path: str | os.PathLike,
    predictions: Iterable[TestScore],
    calibration: Calibration | None = None,
) -> Path:
    """Write `table_of` as CSV, scores exact.

    Raises:
        InputError: the file cannot be written.
    """
    rows = (dict(zip(PREDICTIONS, row, strict=True)) for row in table_of(predictions, calibration))
    return write_csv(path, PREDICTIONS, rows)
