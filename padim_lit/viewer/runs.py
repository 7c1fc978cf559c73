"""Read what mode=fit left in a folder: metrics.json, predictions.csv, heatmaps/maps.npz."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from padim_lit.analysis.result_files import Scores, read_predictions, read_results, require
from padim_lit.errors import InputError
from padim_lit.visualization.gallery import GalleryEntry
from padim_lit.visualization.maps import read_maps

#: Keys of metrics.json that every run has.
TEXTS, WHOLE = ("data", "backbone", "weights", "proj"), ("dim", "seed")
#: Numbers of images that a run may have beside what `read_results` checks.
COUNTS = ("data/test_good", "data/test_defective", "threshold_images")


class Run(NamedTuple):
    """One finished run.

    Attributes:
        metrics: its content; the keys that this package reads have been checked.
        images: the test images in their order and their "score"; None without predictions.csv.
        pictures: of the gallery; None without heatmaps/maps.npz.
    """

    metrics: Mapping[str, Any]
    images: Scores | None
    pictures: list[GalleryEntry] | None


def read_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        InputError: a file is not what mode=fit writes; it is named.
    """
    file = folder / "metrics.json"
    (metrics,) = read_results(file)
    require(metrics, file, TEXTS, WHOLE, COUNTS)
    notes = metrics.setdefault("notes", [])
    if not (isinstance(notes, list) and all(isinstance(note, str) for note in notes)):
        raise InputError(f"{file}: notes={notes!r} must be a list of texts; run the job again")
    predictions, maps = folder / "predictions.csv", folder / "heatmaps" / "maps.npz"
    plants = bool(metrics.get("data/test_planted"))
    images = read_predictions(predictions, plants) if predictions.exists() else None
    return Run(metrics, images, read_maps(maps) if maps.exists() else None)
