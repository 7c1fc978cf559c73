"""Read what mode=fit left in a folder: metrics.json, predictions.csv, heatmaps/maps.npz."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padim_lit.analysis.result_files import Scores, natural, read_predictions, read_results, require
from padim_lit.errors import InputError
from padim_lit.visualization.gallery import GalleryEntry
from padim_lit.visualization.maps import read_maps

#: Keys of metrics.json that every run has.
TEXTS, WHOLE = ("data", "backbone", "weights", "proj"), ("dim", "seed")


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run.

    Attributes:
        folder: where metrics.json lies.
        metrics: its content; the keys that this package reads have been checked.
        images: the test images in their order and their "score"; None without predictions.csv.
        pictures: of the gallery; None without heatmaps/maps.npz.
    """

    folder: Path
    metrics: Mapping[str, Any]
    images: Scores | None
    pictures: list[GalleryEntry] | None


def find_runs(paths: Iterable[str | os.PathLike]) -> tuple[list[Path], list[Path]]:
    """Every folder in or below `paths` with what mode=fit left, and with what mode=predict left.

    Both in natural order, each once.

    Raises:
        InputError: a path is no folder, or none has a run.
    """
    names = ("metrics.json", "predictions.jsonl")
    found: tuple[dict[Path, Path], ...] = {}, {}
    paths = [Path(path) for path in paths]
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path} is no folder; give folders of results, such as outputs/")
        for name, folders in zip(names, found, strict=True):
            for file in sorted(path.rglob(name), key=natural):
                folders.setdefault(file.parent.resolve(), file.parent)
    if not any(found):
        raise InputError(
            f"no run (metrics.json or predictions.jsonl) in {', '.join(map(str, paths))}; make one "
            "with `python run.py`, or give another folder"
        )
    fits, scored = (list(folders.values()) for folders in found)
    return fits, scored


def read_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        InputError: a file is not what mode=fit writes; it is named.
    """
    file = folder / "metrics.json"
    (metrics,) = read_results(file)
    require(metrics, file, TEXTS, WHOLE)
    notes = metrics.setdefault("notes", [])
    if not (isinstance(notes, list) and all(isinstance(note, str) for note in notes)):
        raise InputError(f"{file}: notes={notes!r} must be a list of texts; run the job again")
    predictions, maps = folder / "predictions.csv", folder / "heatmaps" / "maps.npz"
    plants = bool(metrics.get("data/test_planted"))
    return Run(
        folder,
        metrics,
        read_predictions(predictions, plants) if predictions.exists() else None,
        read_maps(maps) if maps.exists() else None,
    )
