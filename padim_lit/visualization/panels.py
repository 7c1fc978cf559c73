"""The parts that the heat-map figures share: scale, colours, outlines, colour bar, captions."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from padim_lit.system.atomic import file_bytes
from padim_lit.visualization.gallery import GalleryEntry
from padim_lit.visualization.palette import DISTANCES, FOUND, TRUTH

OPACITY = 0.6
#: What all text in pictures is set in: matplotlib brings it along.
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


def common_scale(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return (low, high) of a colour scale for all `maps` (h,w): 1st and 99.8th percentile.

    Percentiles, because one extreme pixel would otherwise leave every other map dark. NaN, which
    does not count, has none.
    """
    if not maps:
        return 0.0, 1.0
    values = np.stack(maps)
    low, high = np.percentile(values[~np.isnan(values)], (1, 99.8), overwrite_input=True)
    return float(low), float(max(high, low + 1e-6))


def overlay(image: np.ndarray, map: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Lay a distance map (h, w) over the grey values of an image (h, w, 3); uint8 (h, w, 3).

    What is NaN, as what was not seen, stays grey, at half its brightness.
    """
    unseen = np.isnan(map)[..., None]
    heat = colormaps[DISTANCES](Normalize(*scale, clip=True)(np.nan_to_num(map)))[..., :3]
    grey = image.mean(axis=2, keepdims=True) / 255
    laid = np.where(unseen, grey / 2, (1 - OPACITY) * grey + OPACITY * heat)
    return np.rint(255 * laid).astype(np.uint8)


def show(axes: Axes, image: np.ndarray, name: str, size: float = 10) -> None:
    """Show an image, grey (h, w) or RGB (h, w, 3) uint8, with its name above and no ticks."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    # A fixed y spares matplotlib the search for a free place, a quarter of the drawing time.
    axes.set_title(drawable(name), fontsize=size, pad=4, y=1.0, parse_math=False)
    axes.set_axis_off()
    axes.autoscale(False)  # an outline at the border must not shrink the image


def outline(axes: Axes, picture: GalleryEntry, threshold: float | None, width: float) -> None:
    """Draw where the map reaches ``threshold``, and the truth where it is known."""
    halo = [withStroke(linewidth=width + 1.2, foreground="black")]
    if picture.truth is not None and picture.truth.any():
        # A frame of False closes the outline of a defect that touches the border.
        inside = np.pad(picture.truth.astype(np.float32), 1)
        h, w = inside.shape
        lines = axes.contour(
            np.arange(w) - 1, np.arange(h) - 1, inside, [0.5], colors=TRUTH, linewidths=width,
            linestyles=[(0, (3, 1.5))],
        )  # fmt: skip
        lines.set_path_effects(halo)
    if threshold is not None and picture.map.min() < threshold <= picture.map.max():
        lines = axes.contour(picture.map, [threshold], colors=FOUND, linewidths=width)
        lines.set_path_effects(halo)


def colour_bar(
    axes: Axes, scale: tuple[float, float], threshold: float | None, flat: bool = False
) -> None:
    """Fill `axes` with the colours of the distances and mark the threshold; `flat`: lying down."""
    # The bar shows the colours as they look over mid-grey, not the pure ones.
    ramp = overlay(np.full((1, 256, 3), 128, np.uint8), np.linspace(*scale, 256)[None], scale)
    colours = ScalarMappable(Normalize(*scale), ListedColormap(ramp[0] / 255))
    bar = axes.figure.colorbar(
        colours, cax=axes, orientation="horizontal" if flat else "vertical", extend="max",
        extendfrac=0.03,
    )  # fmt: skip
    bar.set_label("distance", fontsize=7.5 if flat else 9)
    axes.tick_params(labelsize=7.5 if flat else 9)
    if threshold is not None and scale[0] < threshold < scale[1]:
        line = axes.axvline if flat else axes.axhline
        line(threshold, color="black", linewidth=3.5)
        line(threshold, color=FOUND, linewidth=1.6)


def legend(figure: Figure, pictures: Sequence[GalleryEntry], threshold: float | None) -> None:
    """Say at the bottom right what the outlines mean, as far as any is drawn."""
    lines = []
    if threshold is not None:
        name = f"map at or above {threshold:.2f}"
        lines.append(Line2D([], [], color=FOUND, linewidth=2.5, label=name))
    known = [p for p in pictures if p.truth is not None and p.truth.any()]
    if known:
        planted = sum(p.planted for p in known)
        name = "planted defect" if planted == len(known) else "true defect"
        lines.append(Line2D([], [], color=TRUTH, linewidth=2.5, linestyle=(0, (2, 1)), label=name))
    if lines:
        figure.legend(
            handles=lines, loc="lower right", ncols=2, fontsize=9, facecolor="#9A9A9A",
            edgecolor="none", borderpad=0.3,
        )  # fmt: skip


def write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Write at `x`, `y` inches from the lower left corner."""
    # A name on disk may hold "$" pairs, which matplotlib would set as mathematics.
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, drawable(text), parse_math=False, **style)


def drawable(text: str) -> str:
    r"""Escape the letters of `text` that the font lacks: boxes would name no file.

    >>> drawable("Prüfteil 部品")
    'Prüfteil \\u90e8\\u54c1'
    """
    letters = _letters()
    shown = (c == "\n" or (c.isprintable() and ord(c) in letters) for c in text)
    return "".join(c if plain else ascii(c)[1:-1] for c, plain in zip(text, shown, strict=True))


@cache
def _letters() -> frozenset[int]:
    return frozenset(FT2Font(str(FONT)).get_charmap())


def inches(shape: tuple[int, int], side: float) -> float:
    """Return the height of a panel `side` inches wide for maps of shape (h,w), within reason."""
    h, w = shape
    return side * min(max(h / w, 0.4), 2.5)


def to_png(figure: Figure) -> bytes:
    return file_bytes(figure.savefig, format="png", pil_kwargs={"compress_level": 4})
