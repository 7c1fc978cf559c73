"""The parts that pictures share: scale, colours, letters, rows, captions."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from padim_lit.system.atomic import file_bytes
from padim_lit.visualization.palette import DISTANCES

# Of the colours; and how many there are.
OPACITY, LEVELS = np.float32(0.6), 256
# Grey values that a photo spans below its colours, at most, and their middle.
CONTRAST, MID_GREY = np.float32(80), np.float32(128)
#: What all text in pictures is set in: matplotlib brings it along.
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
BOLD = FONT.with_name("DejaVuSans-Bold.ttf")
#: A picture's side in a sheet of many, were it square.
THUMB = 178
#: White pixels between two pictures, and the smallest font size.
GAP, MIN_SIZE = 4, 13
#: A text, or a small picture and what it means.
Item = str | tuple[Image.Image, str]


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

    What is NaN, as what was not seen, stays grey, at half its brightness. Below the colours the
    grey is muted, so that a distance looks alike on bright and on dark photos.
    """
    unseen, (low, high) = np.isnan(map), scale
    level = np.clip((map - np.float32(low)) * np.float32(LEVELS / (high - low)), 0, LEVELS - 1)
    level[unseen] = LEVELS
    grey = image @ np.full(3, 1 / 3, np.float32)
    some = grey[::8, ::8][~unseen[::8, ::8]]
    darkest, brightest = np.percentile(some if some.size else grey, (1, 99)).astype(np.float32)
    contrast = CONTRAST / max(brightest - darkest, CONTRAST)
    muted = (MID_GREY + contrast * (grey - (darkest + brightest) / 2)).clip(0, 255)
    laid = _heat()[level.astype(np.intp)]
    laid += np.where(unseen, grey * np.float32(0.5), muted * (1 - OPACITY))[..., None]
    return np.rint(laid, out=laid).astype(np.uint8)


@cache
def _heat() -> np.ndarray:
    """What each level adds to the grey, float32 (LEVELS + 1, 3); the last, of the unseen, none."""
    added = 255 * OPACITY * colormaps[DISTANCES](np.arange(LEVELS))[:, :3]
    return np.pad(added, ((0, 1), (0, 0))).astype(np.float32)


def drawable(text: str) -> str:
    r"""Escape the letters of `text` that the font lacks: boxes would name no file.

    >>> drawable("Prüfteil 部品")
    'Prüfteil \\u90e8\\u54c1'
    """
    glyphs = _glyphs()
    shown = (c == "\n" or (c.isprintable() and ord(c) in glyphs) for c in text)
    return "".join(c if plain else ascii(c)[1:-1] for c, plain in zip(text, shown, strict=True))


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(FT2Font(str(FONT)).get_charmap())


def font_of(size: int = 0, file: Path = FONT) -> ImageFont.FreeTypeFont:
    """Return the font of `size` pixels, `MIN_SIZE` at least."""
    return ImageFont.truetype(str(file), max(MIN_SIZE, size))


def thumb(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the size of pictures (h,w) in a sheet of many: of one area, however long they are.

    >>> thumb((64, 640))
    (56, 563)
    """
    h, w = (max(1, round(side * THUMB / math.prod(shape) ** 0.5)) for side in shape)
    return h, w


def columns(count: int, shape: tuple[int, int]) -> int:
    """Return in how many columns `count` pictures (h,w) make a sheet that fits a screen best.

    >>> [columns(6, shape) for shape in ((100, 100), (100, 1000), (1000, 100))]
    [3, 1, 6]
    """

    def excess(columns: int) -> float:
        rows = math.ceil(count / columns)
        return abs(math.log(columns * shape[1] / (rows * shape[0]) / 1.5))

    return min({math.ceil(count / rows) for rows in range(1, count + 1)}, key=excess)


def grid(
    pictures: Sequence[Image.Image],
    texts: Sequence[str],
    columns: int,
    font: ImageFont.FreeTypeFont,
    gap: int = GAP,
) -> Image.Image:
    """Return pictures of one size in rows, each with the lines of its text below."""
    width, height = pictures[0].size
    below = [drawable(text).splitlines() for text in texts]
    wide = [max([width, *(math.ceil(font.getlength(x)) + 4 for x in lines)]) for lines in below]
    used = range(min(columns, len(wide)))
    lefts = [0, *accumulate(gap + max(wide[column::columns]) for column in used)]
    row = round(1.4 * font.size)
    down = gap + height + row * max(map(len, below))
    size = lefts[-1] - gap, math.ceil(len(pictures) / columns) * down - gap
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, lines) in enumerate(zip(pictures, below, strict=True)):
        x, y = lefts[i % columns], i // columns * down
        sheet.paste(picture, (x, y))
        for n, line in enumerate(lines):
            draw.text((x + 2, y + height + n * row), line, fill="black", font=font)
    return sheet


def keys(
    size: int,
    colours: Mapping[str, tuple[float, float]],
    lines: Mapping[str, tuple[str, int]],
) -> list[Item]:
    """Return what colours and lines mean, as `written` takes it, beside text of that font size.

    Args:
        size: of the font, in pixels.
        colours: name → (low, high) distance.
        lines: name → colour and number of dashes; without any the name stands alone.
    """
    items: list[Item] = []
    for name, (low, high) in colours.items():
        ramp = np.linspace(low, high, 8 * size, dtype=np.float32)[None].repeat(size, axis=0)
        # Over grey, as the colours look, not the pure ones.
        over = overlay(np.zeros((*ramp.shape, 3), np.uint8), ramp, (low, high))
        items.append((Image.fromarray(over), f"{name} {low:.1f} to {high:.1f}"))
    for name, (colour, dashes) in lines.items():
        line = Image.new("RGB", (2 * size, size // 2))
        for i in range(dashes):
            left, right = (2 * size * end // dashes for end in (i, i + 1))
            line.paste(colour, (left + 2, 2, right - 2, size // 2 - 2))
        items.append((line, name) if dashes else name)
    return items


def written(items: Sequence[Item], width: int, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Return items as lines of `width` pixels; one that is longer is broken between words.

    >>> written(["score 2.00", "cell 7.png"], 400, font_of()).size
    (400, 21)
    """
    space, row = font.getlength(" "), round(1.6 * font.size)
    x, y, wide, placed = 2.0, 0, float(width), []
    for item in items:
        *sign, text = (item,) if isinstance(item, str) else item
        parts = [*sign, *drawable(text.replace("\n", r"\n")).split(" ")]
        long = [font.getlength(p) if isinstance(p, str) else p.width for p in parts]
        needed = sum(long) + space * (len(long) - 1)
        for part, length in zip(parts, long, strict=True):
            if x > 2 and x + max(length, needed) > width:
                x, y = 2.0, y + row
            needed = 0.0  # by what is left of the item
            placed.append((round(x), y, part))
            x, wide = x + length + space, max(wide, x + length + 2)
        x += 2 * space  # more than between words
    sheet = Image.new("RGB", (math.ceil(wide), y + row), "white")
    draw = ImageDraw.Draw(sheet)
    for left, top, part in placed:
        if isinstance(part, str):
            draw.text((left, top), part, fill="black", font=font)
        else:
            sheet.paste(part, (left, top + (row - part.height) // 2 - 1))
    return sheet


def png(pictures: Sequence[Image.Image]) -> bytes:
    """Return pictures below each other, from the left, as PNG."""
    ends = list(accumulate(picture.height for picture in pictures))
    sheet = Image.new("RGB", (max(picture.width for picture in pictures), ends[-1]), "white")
    for picture, end in zip(pictures, ends, strict=True):
        sheet.paste(picture, (0, end - picture.height))
    return file_bytes(sheet.save, "PNG", compress_level=1)
