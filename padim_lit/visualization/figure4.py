"""One picture: test images in rows, and in columns what several projections make of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from padim_lit.data.items import Item
from padim_lit.visualization.palette import FALSE, FOUND, TRUTH
from padim_lit.visualization.panels import (
    BOLD,
    common_scale,
    font_of,
    grid,
    keys,
    overlay,
    png,
    thumb,
    written,
)


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
        out[where] = 0.25 * out[where] + 0.75 * np.array(ImageColor.getrgb(colour))
    return np.rint(out).astype(np.uint8)


def draw(examples: Sequence[Example], methods: Sequence[Method], what: Mapping[str, Any]) -> bytes:
    """Draw the picture, as PNG.

    Args:
        examples: the rows, all of one size.
        methods: two columns each, heat map and mask; every one with a colour scale of its own,
            because distances under different projections have different units.
        what: data, backbone, weights, seed, grid, eps, train_images, notes: the caption.
    """
    scales = [common_scale([e.maps[m] for e in examples]) for m in range(len(methods))]
    height, width = thumb(examples[0].truth.shape)
    font, small, texts = font_of(), [], []
    for row, example in enumerate(examples):
        name = f"{example.kind.replace('_', ' ')}, {example.name[:16]}"
        if example.planted and "planted" not in example.kind:
            name = f"planted {name}"
        pictures = [example.image, example.truth.astype(np.uint8) * 255]
        texts += [name, "truth"]
        for method, map, scale in zip(methods, example.maps, scales, strict=True):
            pictures.append(overlay(example.image, map, scale))
            pictures.append(judged(example, map, method.pixel_f1max_threshold))
            texts += [f"{method.proj}: score {method.scores[row]:.1f}", f"{method.proj}: mask"]
        small += [Image.fromarray(one).resize((width, height)) for one in pictures]
    # Of long ones each method has a row.
    sheet = grid(small, texts, 2 if width > 2 * height else 2 + 2 * len(methods), font)
    lines = []
    for method, scale in zip(methods, scales, strict=True):
        known = {"image AUROC": method.image_auroc, "pixel AUROC": method.pixel_auroc}
        said = [f"{name} {v:.3f}" for name, v in known.items() if v is not None]
        said.append(
            f"pixel F1 {method.pixel_f1max:.3f} at distances ≥ {method.pixel_f1max_threshold:.2f}"
        )
        colours = {f"{method.proj}, D = {method.dim}: distance": scale}
        lines.append([*keys(round(font.size), colours, {}), ", ".join(said)])
    meaning = {"found": (FOUND, 1), "false alarm": (FALSE, 1), "missed": (TRUTH, 1)}
    lines.append([*keys(round(font.size), {}, meaning), *_caption(examples, what)])
    pictures = [sheet, *(written(line, sheet.width, font) for line in lines)]
    if what["weights"].startswith("random"):
        warning = "Random weights: these maps say nothing about detection."
        pictures.insert(0, written([warning], sheet.width, font_of(18, BOLD)))
    return png(pictures)


def _caption(examples: Sequence[Example], what: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{what['data']}: {what['train_images']} good images to fit. {what['backbone']} "
        f"({what['weights']}), C = {what['embedding_dim']}, grid {what['grid']}, "
        f"ε = {what['eps']:g}, seed {what['seed']}.",
        "Thresholds are those of the best pixel F1 on this test set, hence optimistic. Images: "
        f"{what['chosen']}.",
    ]
    if any(example.planted for example in examples):
        lines.append("Defects called planted are synthetic, with known masks.")
    return lines
