"""One picture beside its heat map, as PNG, drawn without a figure: fast, for a stream."""

import io

import numpy as np
from PIL import Image, ImageColor

from padim_lit.report.panels import FOUND, overlay

# White pixels between the two.
GAP = 4


def side_by_side(
    image: np.ndarray, map: np.ndarray, scale: tuple[float, float], threshold: float | None
) -> bytes:
    """PNG of the picture and of its map laid over it, with the contour at `threshold`.

    Args:
        image: (h,w,3) uint8.
        map: (h,w) distances.
        scale: (low, high) distance of the colours.
        threshold: of the contour; None draws none.
    """
    heat = overlay(image, map, scale)
    if threshold is not None:
        heat[contour(map >= threshold)] = ImageColor.getrgb(FOUND)
    gap = np.full((len(image), GAP, 3), 255, np.uint8)
    png = io.BytesIO()
    Image.fromarray(np.concatenate([image, gap, heat], axis=1)).save(png, "PNG", compress_level=4)
    return png.getvalue()


def contour(region: np.ndarray) -> np.ndarray:
    """The pixels (h,w) of a region with one of their four neighbours outside of it."""
    inside = np.pad(region, 1)
    within = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return region & ~within


def colours(maxima: np.ndarray | None, threshold: float | None) -> tuple[float, float] | None:
    """(low, high) of one colour scale for all images to come; None where nothing is known.

    From half of what the maps of good images reach on the median, to 1.5 times the threshold.
    """
    if threshold is None:
        return None
    low = 0.0 if maxima is None else float(np.median(maxima)) / 2
    high = 1.5 * threshold
    return (low, high) if low < high else None
