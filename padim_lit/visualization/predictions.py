"""One line per test image: ``predictions.csv``."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from padim_lit.analysis.result_files import PREDICTIONS
from padim_lit.system.atomic import write_csv


@dataclass(frozen=True, slots=True)
class TestScore:
    """The image score of one test image.

    Attributes:
        path: the image file; a planted copy has the path of the image it was made from.
        kind: "good", "crack", "planted_crack", ...
        label: 0 good, 1 defective.
        score: Mahalanobis distance, not squared.
        index: position in the test set.
    """

    path: str
    kind: str
    label: int
    score: float
    index: int


def predictions_of(batch: Mapping[str, Any], score: Tensor) -> list[TestScore]:
    """Pair a collated batch of B images with their ``score`` (B,), in the batch's order."""
    columns = (
        batch["path"],
        batch["kind"],
        batch["label"].tolist(),
        score.tolist(),
        batch["index"].tolist(),
    )
    return [TestScore(*row) for row in zip(*columns, strict=True)]


def write_predictions(path: str | os.PathLike, predictions: Iterable[TestScore]) -> Path:
    """Write ``path,kind,label,score`` in the order of the test set, scores exact.

    Raises:
        InputError: the file cannot be written.
    """
    ordered = sorted(predictions, key=lambda row: row.index)
    lines = ({column: getattr(row, column) for column in PREDICTIONS} for row in ordered)
    return write_csv(path, PREDICTIONS, lines)
