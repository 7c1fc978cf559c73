"""Images beside their heat maps, as PNG, drawn without a figure: fast, for a stream."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor, ImageDraw
from scipy.ndimage import binary_dilation, binary_erosion

from padim_lit.deploy.explanation import Explanation
from padim_lit.deploy.prediction import Prediction
from padim_lit.deploy.regions import View, spread
from padim_lit.visualization.palette import FOUND, TRUTH
from padim_lit.visualization.panels import columns, font_of, grid, keys, overlay, png, written

#: Pixels of a picture's longer side, at most.
SIDE = 2048
#: The same with an explanation, whose layers are coarse.
EXPLAINED_SIDE = 1024
#: A picture whose longer side has at most half of these pixels is enlarged.
SMALL = 256
# Font size and width of outlines, as shares of a picture's mean side; and the thinnest.
LETTERS, LINES, MIN_LINES = 1 / 60, 1 / 400, 2
# Colour of the line around a region of interest.
EDGE = "#ffffff"


@dataclass(frozen=True)
class Heat:
    """A map to be laid over a picture.

    Attributes:
        map: (a,b) float32 distances of what the model saw.
        view: where that lies in the picture.
        scale: (low, high) distance of the colours.
        threshold: of the outlines; None draws none.
        roi: bool, of the map's shape, what of it counts; None: all.
        truth: bool, of the map's shape, the defect, which gets a dashed outline; None: unknown.
    """

    map: np.ndarray
    view: View
    scale: tuple[float, float]
    threshold: float | None = None
    roi: np.ndarray | None = None
    truth: np.ndarray | None = None


def side_by_side(
    picture: np.ndarray,
    heat: Heat,
    caption: Sequence[str],
    explanation: Explanation | None = None,
    defect: str | None = None,
    small: int = SMALL,
) -> bytes:
    """Return a PNG: the picture, its map laid over it with outlines, and below them a caption.

    What the model did not see, or does not count, stays grey. With an explanation also boxes
    around the positions that matter most, and each layer's share of the map, which add up to it.

    Args:
        picture: (h,w,3) uint8, of any size; the whole of it, upright.
        heat: its map.
        caption: what is said below, beside what colours and lines mean.
        explanation: of this image's score.
        defect: what the truth is called; None: there is none.
        small: see `SMALL`.
    """
    zoom = max(1, small // max(picture.shape[:2]))
    picture = picture.repeat(zoom, axis=0).repeat(zoom, axis=1)
    side = sum(picture.shape[:2]) / 2
    line = max(MIN_LINES, round(LINES * side))
    font = font_of(round(LETTERS * side))
    cells = [picture, heat_map(picture, heat, line)]
    texts, scales = ["", ""], {"distance": heat.scale}
    if explanation is not None:
        layers = explanation.layer_scale(heat.scale)
        cells.append(boxed(picture, explanation, heat.view.size, line))
        for part in explanation.layer_maps:
            cells.append(heat_map(picture, Heat(part, heat.view, layers, roi=heat.roi), line))
        texts = ["image", "map", "boxes: the positions that matter", *explanation.captions]
        scales = {"map:": heat.scale, "layers:": layers}
    across = columns(len(cells), picture.shape[:2])
    drawn = grid([Image.fromarray(cell) for cell in cells], texts, across, font)
    lines = outlines([heat.map], heat.threshold, defect, heat.roi)
    items = [*caption, *keys(round(font.size), scales, lines)]
    # Below narrow pictures lines of a word would be no caption.
    return png([drawn, written(items, max(drawn.width, round(30 * font.size)), font)])


def caption_of(found: Prediction, name: str) -> list[str]:
    """Return a name, and the score with threshold and decision.

    >>> view = View((1, 1), (0, 0, 1, 1))
    >>> caption_of(Prediction(2.0, 0.1, True, np.ones((1, 1)), 1.5, 1.5, None, None, view), "a.png")
    ['a.png', 'score 2.00, threshold 1.50: defective']
    """
    said = {True: ": defective", False: ": good", None: ""}[found.is_anomalous]
    threshold = "no threshold" if found.threshold is None else f"threshold {found.threshold:.2f}"
    return [name, f"score {found.score:.2f}, {threshold}{said}"]


def heat_map(picture: np.ndarray, heat: Heat, line: int = 1) -> np.ndarray:
    """Return the picture (h,w,3) with its map over it, and outlines `line` pixels wide."""
    shape, view = picture.shape[:2], heat.view
    whole, counts = spread(heat.map, view, shape, peaks=True), True
    if heat.roi is not None:
        counts = spread(heat.roi.astype(np.float32), view, shape) >= 0.5
    drawn = overlay(picture, np.where(counts, whole, np.nan), heat.scale)
    if heat.roi is not None:
        drawn[counts & ~binary_erosion(counts, iterations=line, border_value=1)] = 255
    regions = []
    if heat.truth is not None:
        y, x = np.ogrid[: shape[0], : shape[1]]
        dashes = (2 * x + y) // (3 * line) % 3 > 0
        inside = spread(heat.truth.astype(np.float32), view, shape, peaks=True) >= 0.5
        regions.append((inside, dashes, TRUTH))
    if heat.threshold is not None:
        regions.append((whole >= heat.threshold, True, FOUND))
    for region, _, _ in regions:  # a dark rim, which parts lines from any colour
        drawn[binary_dilation(region, iterations=(line + 1) // 2) & ~region] = 0
    for region, shown, colour in regions:
        edge = contour(region, line)
        drawn[edge] = 0
        drawn[edge & shown] = ImageColor.getrgb(colour)
    return drawn


def outlines(
    maps: Sequence[np.ndarray],
    threshold: float | None,
    defect: str | None,
    roi: np.ndarray | None = None,
) -> dict[str, tuple[str, int]]:
    """Return what outlines of maps and of a defect mean, as `keys` takes it; None: no such.

    With a region of interest that is not all also the line around it.

    >>> outlines([np.zeros((2, 2)), np.full((2, 2), 3)], 3.0, None)
    {'map at or above 3.00': ('#56b4e9', 1)}
    """
    lines = {}
    if threshold is not None:
        reached = any(map.max() >= threshold for map in maps)
        said = f"at or above {threshold:.2f}" if reached else f"below {threshold:.2f} everywhere"
        lines[f"map {said}"] = (FOUND, int(reached))
    if defect is not None:
        lines[defect] = (TRUTH, 2)
    if roi is not None and not roi.all():
        lines["beyond it nothing counts"] = (EDGE, 1)
    return lines


def boxed(
    image: np.ndarray, explanation: Explanation, size: tuple[int, int], width: int = 1
) -> np.ndarray:
    """Return the picture (h,w,3) with a box around each position that the explanation names.

    The boxes are in pixels of the picture at `size` (h, w).
    """
    drawn = Image.fromarray(image)
    zoom = np.divide(drawn.size, size[::-1])
    draw = ImageDraw.Draw(drawn)
    for colour, rim in (("black", (width + 1) // 2), ("white", 0)):  # seen on any photo
        for position in explanation.positions:
            corners = np.rint(np.reshape(position.box, (2, 2)) * zoom)
            corners[1] = np.maximum(corners[0], corners[1] - 1)  # of a thin picture less than 1
            thin = max(1, min(width, int(np.diff(corners, axis=0).min()) // 4))
            corners += [[-rim], [rim]]
            draw.rectangle(corners.flatten().tolist(), outline=colour, width=thin + rim)
    return np.asarray(drawn)


def contour(region: np.ndarray, width: int = 1) -> np.ndarray:
    """Return a region's pixels (h,w) that lie within `width` of its outside."""
    return region & ~binary_erosion(region, iterations=width)


def colours(maxima: np.ndarray | None, threshold: float | None) -> tuple[float, float] | None:
    """Return (low, high) of one colour scale for all images to come; None without any maps.

    From half of what the maps of good images reach on the median, to 1.5 times the threshold.
    """
    if threshold is None:
        return None
    low = 0.0 if maxima is None else float(np.median(maxima)) / 2
    high = 1.5 * threshold
    return (low, high) if low < high else None
