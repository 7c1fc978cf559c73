"""The parts that the heat-map figures share: colours, outlines, colour bar, captions."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from padim_lit.visualization.gallery import GalleryEntry

# Perceptually even, and told apart by colour-blind readers; the outlines are from the palette of
# Okabe and Ito and differ in their dashes as well.
COLOURS = "inferno"
FOUND, TRUTH = "#56B4E9", "#F0E442"
OPACITY = 0.6


def overlay(image: np.ndarray, map: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Lay a distance map (h, w) over the grey values of an image (h, w, 3); uint8 (h, w, 3)."""
    heat = colormaps[COLOURS](Normalize(*scale, clip=True)(map))[..., :3]
    grey = image.mean(axis=2, keepdims=True) / 255
    return np.rint(255 * ((1 - OPACITY) * grey + OPACITY * heat)).astype(np.uint8)


def show(axes: Axes, image: np.ndarray, name: str, size: float = 10) -> None:
    """Show an image, grey (h, w) or RGB (h, w, 3) uint8, with its name above and no ticks."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    # A fixed y spares matplotlib the search for a free place, a quarter of the drawing time.
    axes.set_title(name, fontsize=size, pad=4, y=1.0)
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
    figure: Figure, axes: Axes, scale: tuple[float, float], threshold: float | None
) -> None:
    """Draw the colour scale in Mahalanobis distance, the threshold marked."""
    # The bar shows the colours as they look over mid-grey, not the pure ones.
    ramp = overlay(np.full((1, 256, 3), 128, np.uint8), np.linspace(*scale, 256)[None], scale)
    colours = ScalarMappable(Normalize(*scale), ListedColormap(ramp[0] / 255))
    bar = figure.colorbar(colours, cax=axes, extend="max", extendfrac=0.03)
    bar.set_label("Mahalanobis distance", fontsize=9)
    bar.ax.tick_params(labelsize=9)
    if threshold is not None and scale[0] < threshold < scale[1]:
        bar.ax.axhline(threshold, color="black", linewidth=4)
        bar.ax.axhline(threshold, color=FOUND, linewidth=2)


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


def threshold_note(threshold: float | None, image_threshold: float | None) -> str:
    """The sentence about the thresholds of map and image that every figure carries."""
    values = {"map": threshold, "image": image_threshold}
    known = [f"{name} threshold {v:.2f}" for name, v in values.items() if v is not None]
    if not known:
        return "No threshold could be chosen: the test set lacks good or defective images."
    return f"Chosen on the test set, hence optimistic: {', '.join(known)}."


def verdict(picture: GalleryEntry, image_threshold: float | None) -> str | None:
    """What calling images at or above ``image_threshold`` defective makes of this one.

    "Hit", "Miss" or "False alarm"; None for a good image that is below, and without a threshold.
    """
    if image_threshold is None:
        return None
    if picture.score >= image_threshold:
        return "Hit" if picture.label else "False alarm"
    return "Miss" if picture.label else None


def no_truth(picture: GalleryEntry) -> str | None:
    """Why there is no truth to draw, or None where there is."""
    if picture.label == 0:
        return "good image:\nno defect"
    if picture.truth is None:
        return "no pixel truth"
    if not picture.truth.any():
        return "the defect lies\noutside the crop"
    return None
