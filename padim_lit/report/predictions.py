"""One line per test image: ``predictions.csv``."""

import csv
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from padim_lit.errors import InputError
from padim_lit.report.atomic import write_csv

COLUMNS = ("path", "kind", "label", "score")
PLANTED = "planted"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The image score of one test image.

    Attributes:
        path: the image file; a planted copy has the path of the image it was made from.
        kind: "good", "crack", "planted_crack", ...
        label: 0 good, 1 defective.
        score: Mahalanobis distance, not squared.
        counts_image: the image counts in the image metrics (planted copies do not).
        index: position in the test set.
    """

    path: str
    kind: str
    label: int
    score: float
    counts_image: bool
    index: int


def predictions_of(batch: Mapping[str, Any], score: Tensor) -> list[Prediction]:
    """Pair a collated batch of B images with their ``score`` (B,), in the batch's order."""
    columns = (
        batch["path"],
        batch["kind"],
        batch["label"].tolist(),
        score.tolist(),
        batch["count_image"].tolist(),
        batch["index"].tolist(),
    )
    return [Prediction(*row) for row in zip(*columns, strict=True)]


def write_predictions(path: str | os.PathLike, predictions: Iterable[Prediction]) -> Path:
    """Write ``path,kind,label,score`` in the order of the test set, scores exact.

    Raises:
        InputError: the file cannot be written.
    """
    ordered = sorted(predictions, key=lambda row: row.index)
    return write_csv(path, COLUMNS, ({c: getattr(row, c) for c in COLUMNS} for row in ordered))


def read_predictions(path: str | os.PathLike) -> list[Prediction]:
    """Read what ``write_predictions`` wrote.

    ``index`` is the number of the row, and ``counts_image`` follows from the kind, because
    the file holds neither.

    Raises:
        InputError: the file is missing or is not such a table.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.reader(file)
            header = next(table, [])
            if header != list(COLUMNS):
                raise ValueError(f"its header is {','.join(header)!r}")
            return [
                Prediction(name, kind, int(label), float(score), not is_planted(kind), index)
                for index, (name, kind, label, score) in enumerate(table)
            ]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read as predictions ({error}); "
            f"give a predictions.csv with the header {','.join(COLUMNS)}"
        ) from error


def is_planted(kind: str) -> bool:
    """Whether images of this kind carry a defect that was planted, not a real one."""
    return kind.startswith(PLANTED)
