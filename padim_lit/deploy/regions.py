"""Connected regions of an anomaly map, in pixels of the picture that was given.

A model sees a resized and cropped copy. A `View` says where that copy lies in the picture, so that
outlines, masks and maps come out in the picture's own pixels. These are counted in the upright
picture, turned as its EXIF tag says, as viewers show it. Between the centres of the pixels that the
model saw, a map is interpolated linearly.
"""

from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from contourpy import FillType, contour_generator
from PIL import Image
from scipy import ndimage

from padim_lit.system.atomic import file_bytes

#: Digits of a coordinate and of a distance in files.
DIGITS = 2


@dataclass(frozen=True, slots=True)
class View:
    """Where the part that the model sees lies in the picture.

    Attributes:
        size: (h, w) of the upright picture in its own pixels.
        box: (left, top, right, bottom) of what is seen, in these pixels; they need not be whole.
    """

    size: tuple[int, int]
    box: tuple[float, float, float, float]

    def place(self, points: Any, shape: tuple[int, int]) -> np.ndarray:
        """Return points (N,2), x and y in a map of shape (h, w), in pixels of the picture."""
        (h, w), (left, top, right, bottom) = shape, self.box
        there = np.multiply(points, ((right - left) / w, (bottom - top) / h))
        return there + np.array((left, top))


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A connected part of a map at or above a threshold, in pixels of the picture.

    x runs to the right and y downwards from the picture's upper left corner, so that its first
    pixel covers 0 to 1 on both.

    Attributes:
        box: (left, top, right, bottom).
        polygon: (N,2) corners (x, y) of the outer outline, the last joined to the first.
        area: in pixels, holes not counted.
        peak, mean: highest and mean Mahalanobis distance, of the pixels that the model saw.
    """

    box: tuple[float, float, float, float]
    polygon: np.ndarray = field(repr=False)
    area: float
    peak: float
    mean: float

    def numbers(self) -> dict[str, Any]:
        """Return all of the region as primitives, for JSON."""
        found = asdict(self)
        for key in ("box", "polygon", "area"):
            found[key] = np.round(np.asarray(found[key], np.float64), DIGITS).tolist()
        return found


def find(map: np.ndarray, threshold: float | None, view: View) -> list[Region] | None:
    """Return the regions of a map, highest peak first; None without a threshold.

    Pixels at or above the threshold that share a side are one region.

    Args:
        map: (h,w) distances of the part that the model sees.
        threshold: of the map.
        view: where that part lies in the picture.

    >>> map = np.zeros((4, 4), np.float32)
    >>> map[1, 2:] = 2
    >>> (region,) = find(map, 1.0, View((80, 40), (0, 0, 40, 80)))
    >>> region.numbers()["box"], region.area
    ([20.0, 20.0, 40.0, 40.0], 350.0)
    """
    if threshold is None:
        return None
    values = map.astype(np.float64)
    labels, _ = ndimage.label(values >= threshold)
    # Pixels at the edge reach half a pixel beyond their centres, to the border.
    framed = [np.pad(array, 1, "edge") for array in (values, labels)]
    (h, w), (left, top, right, bottom) = map.shape, view.box
    centres = [np.array([0, *np.arange(n) + 0.5, n]) for n in (h, w)]
    pixel = (right - left) / w * (bottom - top) / h
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        mine = labels[rows, columns] == number
        distances = values[rows, columns][mine]
        # With a pixel around the region: the outline runs between that and its own pixels.
        around = slice(rows.start, rows.stop + 2), slice(columns.start, columns.stop + 2)
        near, whose = (array[around] for array in framed)
        near = np.where((near >= threshold) & (whose != number), near.min(), near)
        y, x = (n[s] for n, s in zip(centres, around, strict=True))
        ring, area = _outline(x, y, near, threshold)
        corners = view.place(_corners(ring), (h, w))
        box = (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())
        peak, mean = float(distances.max()), float(distances.mean())
        found.append(Region(box, corners, area * pixel, peak, mean))
    return sorted(found, key=lambda region: -region.peak)


def spread(
    map: np.ndarray, view: View, shape: tuple[int, int] | None = None, peaks: bool = False
) -> np.ndarray:
    """Return a map over the whole picture, float32 (H,W); NaN where the model saw nothing.

    Args:
        map: (h,w) of the part that the model sees.
        view: where that part lies in the picture.
        shape: (H, W) to which the picture is scaled; None: its own size.
        peaks: where (H, W) is far coarser than the map, a pixel takes the maximum of what it
            covers, so that no region falls between two pixels.

    >>> spread(np.array([[1.0, 3.0]], np.float32), View((1, 6), (1, 0, 5, 1)))
    array([[nan, 1. , 1.5, 2.5, 3. , nan]], dtype=float32)
    """
    shape = shape or view.size
    zoom = np.array(shape) / view.size
    left, top, right, bottom = view.box
    start, end = np.array([top, left]) * zoom, np.array([bottom, right]) * zoom
    step = np.array(map.shape) / (end - start)  # pixels of the map per pixel of the result
    offset = (0.5 - start) * step - 0.5
    if peaks and max(step) >= 2:
        map = ndimage.maximum_filter(map, tuple(np.maximum(step, 1).astype(int)))
    matrix = np.diag(step)  # SciPy before 1.16 warns of anything that it reads from a vector
    out = ndimage.affine_transform(map, matrix, offset, shape, np.float32, order=1, mode="nearest")
    for pixels, first, last in zip((out, out.T), start, end, strict=True):
        middle = np.arange(len(pixels)) + 0.5
        pixels[(middle < first) | (middle > last)] = np.nan
    return out


def mask_file(mask: np.ndarray) -> bytes:
    """Return a PNG of a mask (h,w) bool, 255 where it is True.

    >>> mask_file(np.eye(4, dtype=bool))[:4]
    b'\\x89PNG'
    """
    return file_bytes(Image.fromarray(mask.astype(np.uint8) * 255).save, "PNG", compress_level=1)


def map_file(map: np.ndarray) -> bytes:
    """Return a TIFF of a map (h,w) in 32-bit floats, deflated.

    >>> map_file(np.eye(4, dtype=np.float32))[:2]
    b'II'
    """
    return file_bytes(Image.fromarray(map).save, "TIFF", compression="tiff_adobe_deflate")


def _outline(
    x: np.ndarray, y: np.ndarray, values: np.ndarray, threshold: float
) -> tuple[np.ndarray, float]:
    """Return the outer outline (N,2) of the one region in values (h,w) at x, y, and its area."""
    # A little lower, because only values above the level are inside, and the threshold's are, too.
    level = np.nextafter(threshold, -np.inf)
    lines = contour_generator(x, y, values, fill_type=FillType.OuterOffset)
    (points,), (ends,) = lines.filled(level, np.inf)
    rings = [points[a : b - 1] for a, b in pairwise(ends)]
    outer, *holes = map(_area, rings)
    return rings[0], outer - sum(holes)


def _corners(ring: np.ndarray) -> np.ndarray:
    """Return a ring (N,2) without the points that lie between their neighbours."""
    apart = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
    (x, y), (u, v) = (apart - np.roll(apart, 1, axis=0)).T, (np.roll(apart, -1, axis=0) - apart).T
    found = apart[(x * v != y * u) | (x * u + y * v < 0)]
    return found if len(found) > 2 else ring  # of a single pixel at the threshold nothing is left


def _area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2
