"""One picture: test images in rows, and in columns what several projections make of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from padim_lit.data.items import Item
from padim_lit.visualization.palette import FALSE, FOUND, TRUTH
from padim_lit.visualization.panels import colour_bar, common_scale, inches, overlay, show, write

SIDE = 1.75  # of a panel, inches


@dataclass(frozen=True)
class Method:
    """A projection and how it did on the whole test set.

    Attributes:
        proj, dim: name and D.
        scores: image scores of the examples, Mahalanobis distances.
        image_auroc, pixel_auroc: None where undefined.
        pixel_f1max: F1 over the pixels, at `pixel_f1max_threshold`, the distance where it is best.
    """

    proj: str
    dim: int
    scores: list[float]
    image_auroc: float | None
    pixel_auroc: float | None
    pixel_f1max: float
    pixel_f1max_threshold: float


@dataclass(frozen=True)
class Example:
    """A test image: uint8 (h,w,3), its truth (h,w) bool, and a distance map (h,w) a method."""

    name: str
    kind: str
    planted: bool
    image: np.ndarray
    truth: np.ndarray
    maps: list[np.ndarray]

    @classmethod
    def of(cls, sample: Mapping[str, Any], item: Item, maps: list[np.ndarray]) -> "Example":
        """Make an example from a sample of an ItemDataset."""
        image = np.rint(255 * sample["image"].permute(1, 2, 0).numpy()).astype(np.uint8)
        planted = item.plant_seed is not None
        name = PurePath(item.path).name
        return cls(name, item.kind, planted, image, sample["mask"].numpy(), maps)


def judged(example: Example, map: np.ndarray, threshold: float) -> np.ndarray:
    """Return the grey image (h,w,3) uint8 with hits, false and missed pixels coloured."""
    found, truth = map >= threshold, example.truth
    out = np.repeat(example.image.mean(axis=2, keepdims=True), 3, axis=2) * 0.7
    for colour, where in ((FOUND, found & truth), (FALSE, found & ~truth), (TRUTH, ~found & truth)):
        out[where] = 0.25 * out[where] + 0.75 * 255 * np.array(to_rgb(colour))
    return np.rint(out).astype(np.uint8)


def draw(examples: Sequence[Example], methods: Sequence[Method], what: Mapping[str, Any]) -> Figure:
    """Draw the figure.

    Args:
        examples: the rows, all of one size.
        methods: two columns each, heat map and mask; every one with a colour scale of its own,
            because distances under different projections have different units.
        what: data, backbone, weights, seed, grid, eps, train_images, notes: the caption.
    """
    rows, columns = len(examples), 2 + 2 * len(methods)
    tall = inches(examples[0].truth.shape, SIDE)
    left, top, bottom, right = 1.15, 1.35, 1.35, 0.15
    width, height = left + columns * SIDE + right, top + rows * tall + bottom
    figure = Figure((width, height), dpi=110)
    grid = figure.add_gridspec(
        rows, columns, left=left / width, right=1 - right / width, bottom=bottom / height,
        top=1 - top / height, wspace=0.04, hspace=0.04,
    )  # fmt: skip
    scales = [common_scale([e.maps[m] for e in examples]) for m in range(len(methods))]
    heads = ["image", "truth"] + ["heat map", "mask"] * len(methods)
    for row, example in enumerate(examples):
        pictures = [example.image, example.truth.astype(np.uint8) * 255]
        for method, map, scale in zip(methods, example.maps, scales, strict=True):
            pictures.append(overlay(example.image, map, scale))
            pictures.append(judged(example, map, method.pixel_f1max_threshold))
        axes = [figure.add_subplot(grid[row, column]) for column in range(columns)]
        for place, picture, head in zip(axes, pictures, heads, strict=True):
            show(place, picture, head if row == 0 else "", 9)
        for heat, method in zip(axes[2::2], methods, strict=True):
            heat.text(
                0.03, 0.03, f"score {method.scores[row]:.1f}", transform=heat.transAxes,
                fontsize=7.5, color="white",
                bbox={"facecolor": "black", "alpha": 0.55, "pad": 1.5, "edgecolor": "none"},
            )  # fmt: skip
        name = "\n".join([*example.kind.split("_"), example.name[:16]])
        if example.planted and "planted" not in example.kind:
            name = f"planted\n{name}"
        spot = grid[row, 0].get_position(figure)
        middle = height * (spot.y0 + spot.y1) / 2
        write(figure, left - 0.08, middle, name, ha="right", va="center", fontsize=8.5)
    for m, (method, scale) in enumerate(zip(methods, scales, strict=True)):
        first, last = (grid[0, 2 + 2 * m + i].get_position(figure) for i in (0, 1))
        known = {"image AUROC": method.image_auroc, "pixel AUROC": method.pixel_auroc}
        line = ", ".join(f"{name} {v:.3f}" for name, v in known.items() if v is not None)
        f1 = f"pixel F1 {method.pixel_f1max:.3f} at distances ≥ {method.pixel_f1max_threshold:.2f}"
        for above, text, style in (
            (0.72, f"{method.proj}, D = {method.dim}", {"fontsize": 12, "fontweight": "bold"}),
            (0.52, line, {"fontsize": 8.5}),
            (0.33, f1, {"fontsize": 8.5}),
        ):
            x, y = width * (first.x0 + last.x1) / 2, height - top + above
            write(figure, x, y, text, ha="center", **style)
        place = grid[rows - 1, 2 + 2 * m].get_position(figure)
        bar = (place.x0, place.y0 - 0.25 / height, place.width, 0.12 / height)
        colour_bar(figure.add_axes(bar), scale, method.pixel_f1max_threshold, flat=True)
    colours = {"found": FOUND, "false alarm": FALSE, "missed": TRUTH}
    figure.legend(
        handles=[Patch(color=colour, label=name) for name, colour in colours.items()],
        loc="upper right", bbox_to_anchor=(1 - right / width, (bottom - 0.62) / height), ncols=3,
        fontsize=8, frameon=False, borderaxespad=0,
    )  # fmt: skip
    _caption(figure, examples, what)
    return figure


def _caption(figure: Figure, examples: Sequence[Example], what: Mapping[str, Any]) -> None:
    lines = [
        f"{what['data']}: {what['train_images']} good images to fit. {what['backbone']} "
        f"({what['weights']}), C = {what['embedding_dim']}, grid {what['grid']}, "
        f"ε = {what['eps']:g}, seed {what['seed']}.",
        "Thresholds are those of the best pixel F1 on this test set, hence optimistic. Images: "
        f"{what['chosen']}.",
    ]
    if any(example.planted for example in examples):
        lines.append("Defects called planted are synthetic, with known masks.")
    for i, line in enumerate(lines):
        write(figure, 0.1, 0.45 - 0.17 * i, line, fontsize=8)
    if what["weights"].startswith("random"):
        line = "Random weights: these maps say nothing about detection."
        top = figure.get_figheight() - 0.22
        write(figure, 0.1, top, line, fontsize=11, fontweight="bold", color=FALSE)
