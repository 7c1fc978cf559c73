"""Save the pictures of a gallery: one PNG each, and one sheet with all of them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
from matplotlib.figure import Figure

from padim_lit.deploy.explanation import Explanation
from padim_lit.system.atomic import write_bytes
from padim_lit.visualization.gallery import GalleryEntry
from padim_lit.visualization.overlay import boxed
from padim_lit.visualization.panels import (
    colour_bar,
    inches,
    legend,
    no_truth,
    outline,
    overlay,
    show,
    threshold_note,
    to_png,
    verdict,
)

NAMES = {
    "hit": "Highest-scoring defects",
    "miss": "Lowest-scoring defects",
    "false_alarm": "Highest-scoring good",
}

Thresholds = tuple[float | None, float | None]  # of the map, of the image


def save_heatmaps(
    folder: str | os.PathLike,
    pictures: Sequence[GalleryEntry],
    threshold: float | None,
    scale: tuple[float, float],
    *,
    title: str,
    image_threshold: float | None = None,
    explanations: Sequence[Explanation] | None = None,
) -> list[Path]:
    """Write one PNG per picture and ``overview.png``, and return their paths, the overview last.

    Args:
        folder: made if it is missing.
        pictures: from ``Gallery.pictures``, all of one size; none writes nothing.
        threshold: Mahalanobis distance of the map's outline, chosen on the test set; None draws
            none.
        scale: (low, high) Mahalanobis distance of the colours, one for all pictures.
        title: what the run was, in a few words.
        image_threshold: Mahalanobis distance from which an image score counts as defective (that
            of F1-max, chosen on the test set); None calls no image a hit, miss or false alarm.
        explanations: of each picture's score, for a row of each layer's share of the map.

    Raises:
        InputError: the folder cannot be written.
    """
    folder, paths, thresholds = Path(folder), [], (threshold, image_threshold)
    for picture, why in zip(pictures, explanations or [None] * len(pictures), strict=True):
        path = folder / _file_name(picture)
        if path in paths:
            path = folder / f"{picture.index}_{path.name}"
        paths.append(write_bytes(path, to_png(_panels(picture, thresholds, scale, title, why))))
    if pictures:
        path = folder / "overview.png"
        paths.append(write_bytes(path, to_png(_overview(pictures, thresholds, scale, title))))
    return paths


def _panels(
    picture: GalleryEntry,
    thresholds: Thresholds,
    scale: tuple[float, float],
    title: str,
    why: Explanation | None = None,
) -> Figure:
    threshold, image_threshold = thresholds
    h, w = picture.map.shape
    side, columns = 2.9, 4 if why is None else max(4, len(why.layer_maps) + 1)
    rows, tall = 1 if why is None else 2, inches((h, w), side)
    width, height = columns * side + 1.2, rows * (tall + 0.35) + 1.15
    figure = Figure((width, height), dpi=100)  # not pyplot, which would keep it
    grid = figure.add_gridspec(
        rows, columns + 1, left=0.1 / width, right=1 - 0.75 / width, bottom=0.45 / height,
        top=1 - 1 / height, wspace=0.05, hspace=0.35 / tall, width_ratios=(1,) * columns + (0.05,),
    )  # fmt: skip
    original, truth, heat, outlined = (figure.add_subplot(grid[0, i]) for i in range(4))
    if why is not None:
        name = f"positions that matter; layers: 0 to {why.scale[1]:.1f}"
        show(figure.add_subplot(grid[1, 0]), boxed(picture.image, why), name)
        for i, (name, share) in enumerate(why.layers.items()):
            part = overlay(picture.image, why.layer_maps[i], why.scale)
            show(figure.add_subplot(grid[1, 1 + i]), part, f"{name}: {share:.0%} of the score")

    show(original, picture.image, "image")
    missing = no_truth(picture)
    if missing is None:
        name = "truth (planted)" if picture.planted else "truth"
        show(truth, picture.truth.astype(np.uint8) * 255, name)
    else:
        show(truth, np.full((h, w), 230, np.uint8), "truth")
        truth.text(0.5, 0.5, missing, transform=truth.transAxes, ha="center", va="center")
    show(heat, overlay(picture.image, picture.map, scale), "anomaly map over the image")
    show(outlined, picture.image, "outlines on the image")
    outline(outlined, picture, threshold, width=1.5)
    colour_bar(figure.add_subplot(grid[0, -1]), scale, threshold)

    place = f"{NAMES[picture.role]}, no. {picture.rank}"
    heading = f"{place}: {picture.kind}, score {picture.score:.2f}"
    if image_threshold is not None:
        where = "at or above" if picture.score >= image_threshold else "below"
        called = verdict(picture, image_threshold)
        heading += f" ({f'{called}: ' if called else ''}{where} the image threshold)"
    detail = (PurePath(picture.path).name, title)
    _text(figure, 1 - 0.27 / height, heading, fontsize=12, fontweight="bold")
    _text(figure, 1 - 0.56 / height, "   |   ".join(detail), fontsize=9)
    _text(figure, 0.19 / height, threshold_note(threshold, image_threshold), fontsize=9)
    legend(figure, [picture], threshold)
    return figure


def _overview(
    pictures: Sequence[GalleryEntry], thresholds: Thresholds, scale: tuple[float, float], title: str
) -> Figure:
    threshold, image_threshold = thresholds
    shelves: dict[str, list[GalleryEntry]] = {}
    for picture in pictures:
        shelves.setdefault(_shelf(picture), []).append(picture)
    columns = max(4, *(len(shelf) for shelf in shelves.values()))
    side, gap = 1.55, 0.34
    tall = inches(pictures[0].map.shape, side)
    width, height = columns * (2 * side + 0.1) + 2.4, len(shelves) * (tall + gap) + 0.9
    figure = Figure((width, height), dpi=100)  # not pyplot, which would keep it
    grid = figure.add_gridspec(
        len(shelves), columns, left=1.5 / width, right=1 - 0.9 / width, bottom=0.45 / height,
        top=1 - 0.8 / height, wspace=0.03, hspace=gap / tall,
    )  # fmt: skip
    for row, (name, shelf) in enumerate(shelves.items()):
        spot = grid[row, 0].get_position(figure)
        _text(figure, (spot.y0 + spot.y1) / 2, name, fontsize=9, fontweight="bold")
        for column, picture in enumerate(shelf):
            axes = figure.add_subplot(grid[row, column])
            both = (picture.image, overlay(picture.image, picture.map, scale))
            name = f"{picture.kind}, {picture.score:.2f}"
            if called := verdict(picture, image_threshold):
                name += f", {called}"
            show(axes, np.concatenate(both, axis=1), name, 8.5)
            outline(axes, picture, threshold, width=0.9)
    bar = (1 - 0.78 / width, 0.45 / height, 0.16 / width, 1 - 1.25 / height)
    colour_bar(figure.add_axes(bar), scale, threshold)
    _text(figure, 1 - 0.25 / height, title, fontsize=13, fontweight="bold")
    _text(figure, 0.19 / height, threshold_note(threshold, image_threshold), fontsize=9)
    legend(figure, pictures, threshold)
    return figure


def _text(figure: Figure, height: float, text: str, **style: object) -> None:
    # A name on disk may hold "$" pairs, which matplotlib would set as mathematics.
    left = 0.1 / figure.get_figwidth()
    figure.text(left, height, text, va="center", parse_math=False, **style)


def _shelf(picture: GalleryEntry) -> str:
    name = NAMES[picture.role].replace(" ", "\n")
    if picture.planted:
        return f"{name}\n(planted)"
    if picture.truth is None and picture.label:
        return f"{name}\n(no pixel truth)"
    return name


def remove_heatmaps(folder: Path) -> None:
    """Remove what `save_heatmaps` and `write_maps` wrote in an earlier run; other files stay."""
    roles = "|".join(NAMES)
    ours = re.compile(rf"(\d+_)?({roles})-\d+_.*\.png|overview\.png|maps\.npz")
    for path in folder.glob("*"):
        if ours.fullmatch(path.name):
            path.unlink()


def _file_name(picture: GalleryEntry) -> str:
    parts = (f"{picture.role}-{picture.rank}", picture.kind, PurePath(picture.path).stem[:60])
    safe = "_".join(re.sub(r"[^\w.-]+", "-", part) for part in parts)
    return f"{safe}_{picture.score:.2f}.png"
