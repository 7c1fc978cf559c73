"""Read what mode=fit or mode=predict left in a folder, and describe it for the page."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from padim_lit.analysis.result_files import (
    Scores,
    load,
    read_predictions,
    read_results,
    require,
)
from padim_lit.analysis.sweep_results import SETTINGS, as_ablation
from padim_lit.deploy.calibration import BY_HAND, expected_rate, maps_from
from padim_lit.deploy.drift import NEWEST, changed
from padim_lit.deploy.prediction_log import read_lines
from padim_lit.metric_names import METRICS
from padim_lit.visualization.gallery import GalleryEntry, read_maps

#: Keys of metrics.json that every run has, and numbers of images beside what `read_results` checks.
KEYS = dict.fromkeys(("data", "backbone", "weights", "proj"), str)
KEYS |= dict.fromkeys(("dim", "seed"), int)
KEYS |= dict.fromkeys(("data/test_good", "data/test_defective", "threshold_images"), float)
#: What makes two runs on the same data with the same backbone different experiments.
SETTINGS_APART = (*SETTINGS, "roi_share", "train_images", "pixel_truth")


def describe_run(folder: Path, most: int) -> tuple[dict[str, Any], list[GalleryEntry], int]:
    """Return a run's content for the page, its pictures, and how many of these are left out: none.

    Raises:
        InputError: a file is not what mode=fit writes; it is named.
    """
    file, maps = folder / "metrics.json", folder / "heatmaps" / "maps.npz"
    (metrics,) = read_results(file)
    require(metrics, file, KEYS)
    shown = None
    if (predictions := folder / "predictions.csv").exists():
        shown = read_predictions(predictions, bool(metrics.get("data/test_planted")))
    settings = as_ablation(metrics)
    group = {key: settings.get(key) for key in ("data", "backbone", *SETTINGS_APART)}
    factor = _map_factor(metrics, metrics.get("threshold_map"))
    pictures = read_maps(maps) if maps.exists() else []
    stretch = float(metrics.get("stretch") or 1)
    shapes = {p.index: p.map.shape[1] * stretch / p.map.shape[0] for p in pictures}
    described = {
        **{key: metrics[key] for key in ("data", "backbone", "proj", "dim", "seed")},
        "group": {key: "null" if value is None else str(value) for key, value in group.items()},
        "split_seed": str(metrics.get("data/split_seed")),
        "images": shown and _images(shown),
        "scores": shown and shown.scores["score"].tolist(),
        "metrics": {metric.removeprefix("test/"): metrics.get(metric) for metric in METRICS},
        "state_bytes": metrics.get("state_bytes"),
        "seconds": metrics.get("test/seconds_per_image"),
        # At the checkpoint's threshold: how many, of how many.
        "wrong": {
            "false alarms": [metrics.get("test/false_alarms"), metrics.get("data/test_good")],
            "missed": [metrics.get("test/misses"), metrics.get("data/test_defective")],
        },
        "shapes": shapes,
        "scale": _colours(metrics),
        "map_factor": factor,
        "thresholds": _thresholds(metrics, factor),
        "no_threshold": str(metrics.get("threshold_why") or ""),
        "image_score": str(metrics.get("image_score") or ""),
        "planted_pixels": "planted" in str(metrics.get("data/pixel_truth")),
        "notes": [*map(str, metrics.get("notes", []))],
    }
    return described, pictures, 0


def _images(shown: Scores) -> dict[str, Any]:
    """Return a run's test images: names below their common folder, kinds, labels."""
    kinds = list(dict.fromkeys(shown.kind))
    return {
        "names": short_names(shown.path),
        "kinds": kinds,
        "kind": [kinds.index(name) for name in shown.kind],
        "label": shown.label.tolist(),
        "planted": (~shown.count_image).tolist(),
    }


def _map_factor(results: Mapping[str, Any], map_threshold: float | None) -> float:
    """Return the factor from the threshold of images to that of maps, see `maps_from`.

    1 where no threshold of maps is known.
    """
    if not results.get("threshold") or not map_threshold:
        return 1.0
    score = str(results.get("image_score"))
    return maps_from(1.0, score, results["threshold"], map_threshold) or 1.0


def _thresholds(metrics: Mapping[str, Any], map_factor: float) -> list[dict[str, Any]]:
    """Return the named marks of the slider, and the mark of maps where these have another one."""
    rate, images = (metrics.get(f"threshold_{name}") for name in ("rate", "images"))
    if rate is not None and images:
        rate = expected_rate(images, rate)
    how = BY_HAND if metrics.get("threshold_method") == BY_HAND else "without test images"
    wanted = "" if rate is None else f" for {100 * rate:.3g} % false alarms"
    optimistic = "chosen on the test set, hence optimistic"
    maps = f"outlines maps from {metrics.get('test/pixel_f1max_threshold') or 0:.4g} on; "
    known = {
        "threshold": ("free", "checkpoint", f"chosen {how}{wanted}", 1),
        "test/image_f1max_threshold": ("image", "best F1", optimistic, 1),
        "test/pixel_f1max_threshold": ("pixel", "best pixel F1", maps + optimistic, map_factor),
    }
    return [
        {"id": name, "name": title, "how": how, "value": metrics[key] / factor}
        for key, (name, title, how, factor) in known.items()
        if metrics.get(key) is not None
    ]


def describe_scored(folder: Path, most: int) -> tuple[dict[str, Any], list[GalleryEntry], int]:
    """Return scored images' content for the page, their pictures, and how many are left out.

    What a script reads alike of fits has the same names. The pictures are those of the highest
    scores, at most `most`. A broken file raises what reading it does.
    """
    model, rows = load(folder / "model.json", dict), read_lines(folder / "predictions.jsonl")
    lines = [row for row in rows if "error" not in row]  # in the order of scoring
    paths = [line["path"] for line in lines]
    used = {"id": "free", "name": "used", "how": model["threshold_source"]}
    used["value"] = _number(model.get("threshold"))
    map_threshold = model.get("map_threshold")
    good = model.get("good_scores") or []
    p_values = [_number(line["p_value"]) for line in lines]
    said = changed(p_values[-NEWEST if model.get("resume") else 0 :])
    summary = folder / "predict.json"  # there is none where a watch goes on
    notes = load(summary, dict).get("notes", []) if summary.exists() else []
    described = {
        "source": model["source"],
        "model": model.get("model_sha256"),
        "paths": paths,
        "names": short_names(paths),
        "scores": [float(line["score"]) for line in lines],
        "p": p_values,
        # Of a score above those of all good images; with more of them it may be less.
        "least_p": 1 / (1 + len(good)) if good else 0,
        # Box, area and peak of each.
        "regions": [
            [[*r["box"], r["area"], r["peak"]] for r in line["regions"] or ()] for line in lines
        ],
        "map_threshold": map_threshold,
        "map_factor": _map_factor(model, map_threshold),
        # From the first to the last by the time of their files; those of one moment as scored.
        "order": sorted(range(len(lines)), key=lambda i: lines[i]["mtime_ns"]),
        "times": [line["mtime_ns"] // 10**6 for line in lines],  # as JavaScript counts them
        "good": good,
        "unreadable": len(rows) - len(lines),
        "thresholds": [] if used["value"] is None else [used],
        "no_threshold": model["threshold_source"],
        "image_score": model["image_score"],
        "notes": list(dict.fromkeys([*map(str, notes), *([said] if said else [])])),
    }
    there = {file.name for file in folder.glob("heatmaps/*")}  # those of old days may be deleted
    names = [PurePath(str(line.get("viewer"))).name for line in lines]
    shown = [i for i, name in enumerate(names) if name in there]
    shown.sort(key=lambda i: -lines[i]["score"])
    pictures = []
    for rank, index in enumerate(shown[:most], 1):
        file = folder / "heatmaps" / names[index]
        pictures += [replace(one, rank=rank, index=index) for one in read_maps(file)[:1]]
    described["shapes"] = {one.index: _shape(lines[one.index]) for one in pictures}
    # Without a threshold each picture has colours of its own, which one page cannot have.
    scales = [_colours(lines[one.index]) for one in pictures]
    described["scale"] = scales[0] if scales and scales.count(scales[0]) == len(scales) else None
    return described, pictures, len(shown) - len(pictures)


def _number(said: Any) -> float | None:
    return None if said is None else float(said)


def _colours(said: Mapping[str, Any]) -> list[float] | None:
    """Return the distances at both ends of a picture's colours, if they are known."""
    if said.get("map_colours") is None:
        return None
    low, high = map(float, said["map_colours"])
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"map_colours {low:g} to {high:g}")
    return [low, high]


def _shape(line: Mapping[str, Any]) -> float:
    """Return width over height of what the model saw of a photo."""
    left, top, right, bottom = line.get("seen", (0, 0, line["width"], line["height"]))
    return (right - left) / max(bottom - top, 0.1)


def short_names(paths: Sequence[str]) -> list[str]:
    """Return the names below the common folder of all."""
    try:
        common = os.path.commonpath([PurePath(path).parent for path in paths])
    except ValueError:  # none, or absolute and relative ones
        common = ""
    return [os.path.relpath(path, common) if common else path for path in paths]
