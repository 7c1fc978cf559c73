"""One picture beside its heat map, as PNG, drawn without a figure: fast, for a stream."""

import io

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from padim_lit.deploy.explanation import Explanation
from padim_lit.visualization.palette import FOUND
from padim_lit.visualization.panels import overlay

# White pixels between two pictures, and for a line of text below them.
GAP, LINE = 4, 16


def side_by_side(
    image: np.ndarray,
    map: np.ndarray,
    scale: tuple[float, float],
    threshold: float | None,
    explanation: Explanation | None = None,
) -> bytes:
    """PNG of the picture and of its map laid over it, with the contour at `threshold`.

    With an explanation also each layer's share of the map, which add up to it, and boxes around
    the positions that matter most.

    Args:
        image: (h,w,3) uint8.
        map: (h,w) distances.
        scale: (low, high) distance of the colours.
        threshold: of the contour; None draws none.
        explanation: of this image's score.
    """
    heat = overlay(image, map, scale)
    if threshold is not None:
        heat[contour(map >= threshold)] = ImageColor.getrgb(FOUND)
    pictures, texts = [image, heat], ["", ""]
    if explanation is not None:
        pictures[0] = boxed(image, explanation)
        pictures += [overlay(image, part, explanation.scale) for part in explanation.layer_maps]
        high = f"colours of layers up to {explanation.scale[1]:.1f}"
        texts = ["the positions that matter", f"score {explanation.score:.2f}; {high}"]
        texts += [f"{name}: {share:.0%}" for name, share in explanation.layers.items()]
    height, step = image.shape[0], image.shape[1] + GAP
    size = (len(pictures) * step - GAP, height + LINE * (explanation is not None))
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for i, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        canvas.paste(Image.fromarray(picture), (i * step, 0))
        # The font has no "×".
        draw.text((i * step + 2, height + 1), text.replace("×", "x"), fill="black", font=font)
    png = io.BytesIO()
    canvas.save(png, "PNG", compress_level=4)
    return png.getvalue()


def boxed(image: np.ndarray, explanation: Explanation) -> np.ndarray:
    """The picture (h,w,3) with a box around each position that the explanation names."""
    drawn = Image.fromarray(image)
    draw = ImageDraw.Draw(drawn)
    for position in explanation.positions:
        left, top, right, bottom = position.box
        draw.rectangle((left, top, right - 1, bottom - 1), outline=FOUND)
    return np.asarray(drawn)


def contour(region: np.ndarray) -> np.ndarray:
    """The pixels (h,w) of a region with one of their four neighbours outside of it."""
    return region & ~binary_erosion(region)


def colours(maxima: np.ndarray | None, threshold: float | None) -> tuple[float, float] | None:
    """(low, high) of one colour scale for all images to come; None where nothing is known.

    From half of what the maps of good images reach on the median, to 1.5 times the threshold.
    """
    if threshold is None:
        return None
    low = 0.0 if maxima is None else float(np.median(maxima)) / 2
    high = 1.5 * threshold
    return (low, high) if low < high else None
