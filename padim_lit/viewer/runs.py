"""Read what mode=fit left in a folder: metrics.json, predictions.csv, heatmaps/maps.npz."""

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padim_lit.analysis.result_files import PLANTED, natural
from padim_lit.errors import InputError
from padim_lit.metrics import METRICS
from padim_lit.visualization.gallery import GalleryEntry
from padim_lit.visualization.maps import read_maps
from padim_lit.visualization.predictions import COLUMNS


@dataclass(frozen=True, slots=True)
class Row:
    """One line of predictions.csv; `planted` images do not count in the image metrics."""

    path: str
    kind: str
    label: int
    score: float
    planted: bool


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run.

    Attributes:
        folder: where metrics.json lies.
        metrics: its content; the keys that this package reads have been checked.
        rows: the test images in their order; None without predictions.csv.
        pictures: of the gallery; None without heatmaps/maps.npz.
    """

    folder: Path
    metrics: Mapping[str, Any]
    rows: list[Row] | None
    pictures: list[GalleryEntry] | None


def find_runs(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """Every folder with a metrics.json in or below `paths`, in natural order, each once.

    Raises:
        InputError: a path is no folder, or none has a run.
    """
    found: dict[Path, Path] = {}
    paths = [Path(path) for path in paths]
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path} is no folder; give folders of results, such as outputs/")
        for file in sorted(path.rglob("metrics.json"), key=natural):
            found.setdefault(file.parent.resolve(), file.parent)
    if not found:
        raise InputError(
            f"no run (metrics.json) in {', '.join(map(str, paths))}; make one with "
            "`python run.py`, or give another folder"
        )
    return list(found.values())


def read_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        InputError: a file is not what mode=fit writes; it is named.
    """
    metrics = _read_metrics(folder / "metrics.json")
    predictions, maps = folder / "predictions.csv", folder / "heatmaps" / "maps.npz"
    return Run(
        folder,
        metrics,
        _read_rows(predictions, bool(metrics.get("data/test_planted"))),
        read_maps(maps) if maps.exists() else None,
    )


def _read_metrics(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
        for key in ("data", "backbone", "weights", "proj"):
            if not isinstance(found.get(key), str):
                raise ValueError(f"{key} must be a text")
        for key in ("dim", "seed"):
            if type(found.get(key)) is not int:
                raise ValueError(f"{key} must be a whole number")
        numbers = ("test/image_threshold", "test/pixel_threshold", "test/map_threshold")
        times = ("threshold", "state_bytes", "test/seconds", "test/images")
        for key in (*METRICS, *numbers, *times, "test/seconds_per_image", "threshold_rate"):
            value = found.get(key)
            if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
                raise ValueError(f"{key} must be a finite number")
        notes = found.get("notes", [])
        if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
            raise ValueError("notes must be a list of texts")
    # RecursionError: JSON nested deeper than Python's stack.
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(file, error) from error
    return found


def _read_rows(file: Path, planted: bool) -> list[Row] | None:
    if not file.exists():
        return None
    rows = []
    try:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as opened:
            lines = csv.reader(opened, strict=True)
            if tuple(next(lines, ())) != COLUMNS:
                raise ValueError(f"line 1 must be {','.join(COLUMNS)}")
            for line in lines:
                path, kind, label, score = line
                if label not in ("0", "1") or not math.isfinite(float(score)):
                    raise ValueError(f"line {lines.line_num}: label={label}, score={score}")
                is_planted = planted and kind.startswith(PLANTED)
                rows.append(Row(path, kind, int(label), float(score), is_planted))
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(file, error) from error
    return rows


def _unreadable(file: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(f"{file} cannot be read ({reason}); remove it, or run mode=fit again")
