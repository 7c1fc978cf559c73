"""Read what mode=predict left in a folder, or has left so far, and describe it for the page."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from padim_lit.analysis.result_files import BROKEN, load, reading, require
from padim_lit.deploy.prediction_log import read_lines
from padim_lit.errors import InputError
from padim_lit.report.text import known
from padim_lit.visualization.gallery import GalleryEntry
from padim_lit.visualization.maps import read_maps


@dataclass(frozen=True, slots=True)
class Scored:
    """Images without labels and their scores.

    Attributes:
        folder: where predictions.jsonl lies.
        model: the content of model.json; the keys that are read here have been checked.
        lines: of the images in the order of scoring, each file's last.
        unreadable: how many files could not be read.
    """

    folder: Path
    model: Mapping[str, Any]
    lines: list[dict[str, Any]]
    unreadable: int


def read_scored(folder: Path) -> Scored:
    """What lies in a folder.

    Raises:
        InputError: a file is not what mode=predict writes; it is named.
    """
    file, about = folder / "predictions.jsonl", folder / "model.json"
    model = load(about, dict)
    require(model, about, ("source", "threshold_source", "image_score"))
    require(model, about, numbers=("threshold", "map_threshold"))
    good = model.get("good_scores")
    if good is not None and not (isinstance(good, list) and all(map(known, good))):
        raise InputError(f"{about}: good_scores must be numbers; run the job again")
    with reading(file, OSError, *BROKEN):
        rows = read_lines(file)
        lines = [_checked(row, file) for row in rows if "error" not in row]
    return Scored(folder, model, lines, len(rows) - len(lines))


def _checked(row: dict[str, Any], file: Path) -> dict[str, Any]:
    require(row, f"{file}, the line of {row['path']}", ("path",), ("mtime_ns",))
    if not known(row["score"]) or not known(row["p_value"] or 0):
        raise ValueError(f"{row['path']} has no score")
    regions = [
        [*map(float, r["box"]), float(r["area"]), float(r["peak"])] for r in row["regions"] or ()
    ]
    if not all(len(region) == 6 and all(map(math.isfinite, region)) for region in regions):
        raise ValueError(f"{row['path']}: its regions are none")
    return row | {"regions": regions}


def read_pictures(scored: Scored, most: int) -> tuple[list[GalleryEntry], int]:
    """The pictures of the highest scores, at most `most`, and how many are left out.

    Raises:
        InputError: one of their files cannot be read.
    """
    shown = [i for i, line in enumerate(scored.lines) if isinstance(line.get("viewer"), str)]
    shown.sort(key=lambda i: -scored.lines[i]["score"])
    found = []
    for rank, index in enumerate(shown[:most], 1):
        file = scored.folder / "heatmaps" / PurePath(scored.lines[index]["viewer"]).name
        found += [replace(one, rank=rank, index=index) for one in read_maps(file)[:1]]
    return found, len(shown) - len(found)


def describe(scored: Scored, name: str) -> dict[str, Any]:
    """What the page holds of a folder; what a script reads alike of fits has the same names."""
    lines, model = scored.lines, scored.model
    paths = [line["path"] for line in lines]
    used = {"id": "free", "name": "used", "how": model["threshold_source"]}
    used["value"] = model.get("threshold")
    return {
        "name": name,
        "source": model["source"],
        "paths": paths,
        "names": short_names(paths),
        "scores": [line["score"] for line in lines],
        "p": [line["p_value"] for line in lines],
        # Box, area and peak of each.
        "regions": [line["regions"] for line in lines],
        "map_threshold": model.get("map_threshold"),
        # From the first to the last by the time of their files; those of one moment as scored.
        "order": sorted(range(len(lines)), key=lambda i: lines[i]["mtime_ns"]),
        "good": model.get("good_scores") or [],
        "unreadable": scored.unreadable,
        "thresholds": [] if used["value"] is None else [used],
        "no_threshold": model["threshold_source"],
        "image_score": model["image_score"],
        "notes": [],
    }


def short_names(paths: Sequence[str]) -> list[str]:
    """Names below the common folder of all."""
    try:
        common = os.path.commonpath([PurePath(path).parent for path in paths])
    except ValueError:  # none, or absolute and relative ones
        common = ""
    return [os.path.relpath(path, common) if common else path for path in paths]
