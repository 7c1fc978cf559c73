"""Save the pictures of a gallery: one PNG each, and one sheet with all of them."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
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
    outline,
    overlay,
    show,
    to_png,
    write,
)

NAMES = {
    "highest_defect": "Highest-scoring defects",
    "lowest_defect": "Lowest-scoring defects",
    "highest_good": "Highest-scoring good",
}


@dataclass(frozen=True)
class Look:
    """What all figures of a run have in common.

    Attributes:
        threshold: Mahalanobis distance of the map's outline; None draws none.
        image_threshold: from which an image is called defective; None calls none found or missed.
        scale: (low, high) Mahalanobis distance of the colours.
        title: what the run was, in a few words.
        source: where the thresholds are from, in a few words.
    """

    threshold: float | None
    image_threshold: float | None
    scale: tuple[float, float]
    title: str
    source: str = "Thresholds chosen on the test set, hence optimistic"

    def sheet(self, width: float, height: float, pictures: Sequence[GalleryEntry]) -> Figure:
        """Make a figure with a footer for all panels: the thresholds, and what outlines mean."""
        figure = Figure((width, height), dpi=100)  # not pyplot, which would keep it
        values = {"an image's score": self.image_threshold, "places on its map": self.threshold}
        known = [f"{v:.2f} for {name}" for name, v in values.items() if v is not None]
        note = "No threshold could be chosen: the test set lacks good or defective images."
        if known:
            note = f"{self.source}: {', '.join(known)}. Colours: distance from good parts."
        write(figure, 0.1, 0.19, note, fontsize=9, va="center")
        legend(figure, pictures, self.threshold)
        return figure

    def called(self, picture: GalleryEntry) -> str | None:
        """Return how the image threshold judges a picture; None without a threshold.

        A defect is found where its map is marked at it, as far as its place is known.
        """
        if self.image_threshold is None:
            return None
        if picture.score < self.image_threshold:
            return "missed" if picture.label else "called good"
        if not picture.label:
            return "false alarm"
        if self.threshold is None or no_truth(picture):
            return "called defective"
        marked = picture.map >= self.threshold
        if marked[picture.truth].any():
            return "found"
        return "marked elsewhere" if marked.any() else "nothing marked"


def save_heatmaps(
    folder: str | os.PathLike,
    pictures: Sequence[GalleryEntry],
    look: Look,
    explanations: Sequence[Explanation] | None = None,
) -> list[Path]:
    """Write one PNG per picture and ``overview.png``, and return their paths, the overview last.

    Args:
        folder: made if it is missing.
        pictures: from ``Gallery.pictures``, all of one size; none writes nothing.
        look: what the figures have in common.
        explanations: of each picture's score, for a row of each layer's share of the map.

    Raises:
        InputError: the folder cannot be written.
    """
    folder, paths = Path(folder), []
    for picture, why in zip(pictures, explanations or [None] * len(pictures), strict=True):
        path = folder / _file_name(picture, look.called(picture))
        if path in paths:
            path = folder / f"{picture.index}_{path.name}"
        paths.append(write_bytes(path, to_png(draw_one(picture, look, why))))
    if pictures:
        paths.append(write_bytes(folder / "overview.png", to_png(draw_all(pictures, look))))
    return paths


def draw_one(picture: GalleryEntry, look: Look, why: Explanation | None = None) -> Figure:
    """Draw a picture, its truth, map and outlines, and below them each layer's share, if known."""
    h, w = picture.map.shape
    more = 0 if why is None else len(why.layer_maps) + 1
    side, columns, rows = 2.9, max(4, more), 2 if more else 1
    tall = inches((h, w), side)
    places = [(0, i) for i in range(4)] + [(1, i) for i in range(more)]
    width, height = columns * side + 1.2, rows * (tall + 0.35) + 1.15
    figure = look.sheet(width, height, [picture])
    grid = figure.add_gridspec(
        rows, columns + 1, left=0.1 / width, right=1 - 0.75 / width, bottom=0.45 / height,
        top=1 - 1 / height, wspace=0.05, hspace=0.35 / tall,
        width_ratios=(side,) * columns + (0.15,),
    )  # fmt: skip
    truth, truth_name, missing = picture.truth, "truth", no_truth(picture)
    if missing:
        truth = np.full((h, w), 230 / 255)
    elif picture.planted:
        truth_name = "truth (planted)"
    heat = overlay(picture.image, picture.shown, look.scale)
    shown = [
        (picture.image, "image"),
        (np.uint8(truth * 255), truth_name),
        (heat, "anomaly map over the image"),
        (picture.image, "outlines on the image"),
    ]
    axes = [figure.add_subplot(grid[place]) for place in places]
    if why is not None:
        scale = why.layer_scale(look.scale)
        name = "where it comes from; layers: {:.1f} to {:.1f}".format(*scale)
        # A pixel of the figure wide, or it would not be drawn.
        wide = math.ceil(max(w / side, h / tall) / figure.dpi)
        shown.append((boxed(picture.image, why, width=wide), name))
        for part, name in zip(why.layer_maps, why.captions, strict=True):
            part = part if picture.roi is None else np.where(picture.roi, part, np.nan)
            shown.append((overlay(picture.image, part, scale), name))
    for place, (image, name) in zip(axes, shown, strict=True):
        show(place, image, name)
    if missing:
        axes[1].text(0.5, 0.5, missing, transform=axes[1].transAxes, ha="center", va="center")
    outline(axes[3], picture, look.threshold, width=1.5)
    # Beside what has its colours.
    colour_bar(figure.add_subplot(grid[0, -1]), look.scale, look.threshold)

    heading = (
        f"{NAMES[picture.role]}, no. {picture.rank}: {picture.kind}, score {picture.score:.2f}"
    )
    if called := look.called(picture):
        where = "at or above" if picture.score >= look.image_threshold else "below"
        heading += f" ({called}: {where} the threshold)"
    write(figure, 0.1, height - 0.27, heading, fontsize=12, fontweight="bold", va="center")
    detail = f"{PurePath(picture.path).name}   |   {look.title}"
    write(figure, 0.1, height - 0.56, detail, fontsize=9, va="center")
    return figure


def draw_all(pictures: Sequence[GalleryEntry], look: Look) -> Figure:
    """Draw all pictures beside their maps, in rows."""
    shelves: dict[str, list[GalleryEntry]] = {}
    for picture in pictures:
        shelves.setdefault(_shelf(picture), []).append(picture)
    columns = max(4, *(len(shelf) for shelf in shelves.values()))
    tall, gap = inches(pictures[0].map.shape, 1.55), 0.34
    width, height = columns * 3.2 + 2.4, len(shelves) * (tall + gap) + 0.9
    figure = look.sheet(width, height, pictures)
    grid = figure.add_gridspec(
        len(shelves), columns, left=1.5 / width, right=1 - 0.9 / width, bottom=0.45 / height,
        top=1 - 0.8 / height, wspace=0.03, hspace=gap / tall,
    )  # fmt: skip
    for row, (name, shelf) in enumerate(shelves.items()):
        spot = grid[row, 0].get_position(figure)
        middle = height * (spot.y0 + spot.y1) / 2
        write(figure, 0.1, middle, name, fontsize=9, fontweight="bold", va="center")
        for column, picture in enumerate(shelf):
            axes = figure.add_subplot(grid[row, column])
            both = (picture.image, overlay(picture.image, picture.shown, look.scale))
            said = [picture.kind, f"{picture.score:.2f}", look.called(picture)]
            show(axes, np.concatenate(both, axis=1), ", ".join(filter(None, said)), 8.5)
            outline(axes, picture, look.threshold, width=0.9)
    bar = (1 - 0.78 / width, 0.45 / height, 0.16 / width, 1 - 1.25 / height)
    colour_bar(figure.add_axes(bar), look.scale, look.threshold)
    write(figure, 0.1, height - 0.25, look.title, fontsize=13, fontweight="bold", va="center")
    return figure


def no_truth(picture: GalleryEntry) -> str | None:
    """Return why there is no truth to draw, or None where there is one."""
    if picture.label == 0:
        return "good image:\nno defect"
    if picture.truth is None:
        return "place unknown"
    return None if picture.truth.any() else "the defect lies\noutside the crop"


def _shelf(picture: GalleryEntry) -> str:
    name = NAMES[picture.role].replace(" ", "\n")
    if picture.planted:
        return f"{name}\n(planted)"
    if picture.truth is None and picture.label:
        return f"{name}\n(place unknown)"
    return name


def remove_heatmaps(folder: Path) -> None:
    """Remove what `save_heatmaps` and `write_maps` wrote in an earlier run; other files stay."""
    roles = "|".join(NAMES)
    ours = re.compile(rf"(\d+_)?({roles})-\d+_.*\.png|overview\.png|maps\.npz")
    for path in folder.glob("*"):
        if ours.fullmatch(path.name):
            path.unlink()


def _file_name(picture: GalleryEntry, called: str | None) -> str:
    # A file's name may have 255 bytes, and a letter four.
    kind, stem = (
        text.encode("utf-8", "replace")[:80].decode("utf-8", "ignore")
        for text in (picture.kind, PurePath(picture.path).stem)
    )
    parts = (f"{picture.role}-{picture.rank}", kind, stem, f"{picture.score:.2f}", called)
    return "_".join(re.sub(r"[^\w.-]+", "-", part) for part in parts if part is not None) + ".png"
