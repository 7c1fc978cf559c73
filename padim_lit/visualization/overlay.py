"""One picture beside its heat map, as PNG, drawn without a figure: fast, for a stream."""

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from padim_lit.deploy.explanation import Explanation
from padim_lit.deploy.prediction import Prediction
from padim_lit.deploy.regions import spread
from padim_lit.system.atomic import file_bytes
from padim_lit.visualization.palette import FOUND
from padim_lit.visualization.panels import FONT, drawable, overlay

#: White pixels between two pictures, and pixels of the longer side of one.
GAP, SIDE = 4, 2048
# Height of letters and width of outlines, as shares of a picture's width; and the smallest height.
LETTERS, LINES, MIN_LETTERS = 1 / 60, 1 / 500, 11


def side_by_side(
    picture: np.ndarray,
    found: Prediction,
    scale: tuple[float, float],
    threshold: float | None,
    caption: str,
    explanation: Explanation | None = None,
    roi: np.ndarray | None = None,
) -> bytes:
    """Return a PNG: the picture, its map laid over it, the regions' outlines and a caption.

    What the model did not see, or does not count, stays grey. With an explanation also each
    layer's share of the map, which add up to it, and boxes around the positions that matter most.

    Args:
        picture: (h,w,3) uint8, of any size; the whole of it, upright.
        found: what it got.
        scale: (low, high) distance of the colours.
        threshold: of the outlines; None draws none.
        caption: what stands below.
        explanation: of this image's score.
        roi: bool, of the map's shape, what of it counts; None: all.
    """
    (height, width), view = picture.shape[:2], found.view
    line = max(1, round(LINES * width))
    font = ImageFont.truetype(str(FONT), max(MIN_LETTERS, round(LETTERS * width)))
    whole = spread(found.map, view, (height, width), peaks=True)
    counts = True
    if roi is not None:
        counts = spread(roi.astype(np.float32), view, (height, width)) >= 0.5
    heat = overlay(picture, np.where(counts, whole, np.nan), scale)
    if threshold is not None:
        heat[contour(whole >= threshold, line)] = ImageColor.getrgb(FOUND)
    pictures, texts = [picture, heat], []
    if explanation is not None:
        pictures[0] = boxed(picture, explanation, view.size, line)
        layers = explanation.layer_scale(scale)
        for part in explanation.layer_maps:
            share = np.where(counts, spread(part, view, (height, width)), np.nan)
            pictures.append(overlay(picture, share, layers))
        texts = ["the positions that matter", "map: {:.1f} to {:.1f}".format(*scale)]
        texts += explanation.captions
        caption += ", of layers {:.1f} to {:.1f}".format(*layers)
    step, row = width + GAP, round(1.4 * font.size)
    wide = max(len(pictures) * step - GAP, round(font.getlength(caption)) + 4)
    canvas = Image.new("RGB", (wide, height + row * (1 + bool(texts))), "white")
    draw = ImageDraw.Draw(canvas)
    for i, one in enumerate(pictures):
        canvas.paste(Image.fromarray(one), (i * step, 0))
    for i, text in enumerate(texts):
        draw.text((i * step + 2, height), text, fill="black", font=font)
    draw.text((2, canvas.height - row), caption, fill="black", font=font)
    return file_bytes(canvas.save, "PNG", compress_level=1)


def caption_of(found: Prediction, name: str, scale: tuple[float, float]) -> str:
    """Return a line with name, score, threshold, decision, and the distances of the colours."""
    said = {True: ": defective", False: ": good", None: ""}[found.is_anomalous]
    threshold = "no threshold" if found.threshold is None else f"threshold {found.threshold:.2f}"
    colours = "colours {:.1f} to {:.1f}".format(*scale)
    name = drawable(name).replace("\n", r"\n")  # Pillow draws one line
    return f"{name}  |  score {found.score:.2f}, {threshold}{said}  |  {colours}"


def boxed(
    image: np.ndarray,
    explanation: Explanation,
    size: tuple[int, int] | None = None,
    width: int = 1,
) -> np.ndarray:
    """Return the picture (h,w,3) with a box around each position that the explanation names.

    The boxes are in pixels of the picture at `size` (h, w); None: as it is.
    """
    drawn = Image.fromarray(image)
    zoom = np.divide(drawn.size, (size or image.shape[:2])[::-1])
    draw = ImageDraw.Draw(drawn)
    for position in explanation.positions:
        corners = np.rint(np.reshape(position.box, (2, 2)) * zoom)
        corners[1] = np.maximum(corners[0], corners[1] - 1)  # of a thin picture less than a pixel
        draw.rectangle(corners.flatten().tolist(), outline=FOUND, width=width)
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
