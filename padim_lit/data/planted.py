"""Defects planted on electroluminescence images of solar cells, with the mask known exactly.

Three kinds modelled on real ELPV cells: cracks (thin dark lines, mostly along the crystal's 45
degree directions, some with a darker, partly isolated area beside them), dark fingers (narrow
strips across the busbars where a contact finger is broken) and spots (soft dark blobs). Each is
an attenuation in [0, 1] of the light above the dark level of the image; sizes scale with the image
and are given here in pixels at 300x300.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Random = np.random.Generator

MIN_CHANGE = 4  # grey levels of 255; a smaller change is invisible in the noise and not in the mask

_SUPERSAMPLE = 3


def plant(image: np.ndarray, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A copy of `image` with one planted defect, and its mask.

    Args:
        image: (h, w, 3) uint8, a healthy cell.
        kind: one of KINDS.
        seed: same seed, same defect.

    Returns the (h, w, 3) uint8 copy and the (h, w) bool mask, True exactly where a channel
    changed by more than `MIN_CHANGE` grey levels.
    """
    rng = np.random.default_rng(seed)
    level = image.astype(np.float32)
    grey = level.mean(axis=2)
    # Fingers run across the busbars; the code below knows horizontal busbars only.
    sideways = _busbars_are_vertical(grey)
    if sideways:
        level, grey = level.transpose(1, 0, 2), grey.T
    dark = float(np.percentile(grey, 1))
    bright = float(np.percentile(grey, 75))
    cell = _cell(grey, dark, bright)
    # So that no defect ends on a hard edge, the cell's border is two pixels soft.
    soft = Image.fromarray(cell.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1))
    shade = _SHADES[kind](rng, cell, min(cell.shape) / 300)
    shade = shade * (np.asarray(soft, dtype=np.float32) / 255)
    # A weak defect on a dark cell would drown in the noise: no defect's deepest point is less
    # than four times the change that the mask asks for.
    deepest = max(float(shade.max()), min(0.9, 4 * MIN_CHANGE / max(bright - dark, 1)))
    shade *= deepest / max(float(shade.max()), 1e-6)
    planted = np.rint(level - np.maximum(level - dark, 0) * shade[..., None]).astype(np.uint8)
    mask = (level - planted > MIN_CHANGE).any(axis=2)
    if sideways:
        planted, mask = planted.transpose(1, 0, 2), mask.T
    return np.ascontiguousarray(planted), np.ascontiguousarray(mask)


def _crack(rng: Random, cell: np.ndarray, scale: float) -> np.ndarray:
    """A jagged line with up to two branches; one in three leaves a darker area at its side."""
    start = _inside(rng, cell)
    heading = math.radians(rng.choice([45, 135, 225, 315]) + rng.normal(0, 5))
    if rng.random() < 0.25:
        heading = rng.uniform(0, 2 * math.pi)
    length = rng.uniform(60, 210) * scale
    main = _walk(rng, start, heading, length, scale)
    depth = rng.uniform(0.13, 0.3)
    width = rng.uniform(1.5, 3.5) * scale
    strokes = [(main, depth)]
    for _ in range(rng.choice([0, 1, 2], p=[0.5, 0.3, 0.2])):
        joint = main[rng.integers(len(main) // 4, len(main))]
        turn = rng.choice([-1, 1]) * math.radians(rng.uniform(40, 95))
        branch = _walk(rng, joint, heading + turn, rng.uniform(0.2, 0.6) * length, scale)
        strokes.append((branch, depth * rng.uniform(0.6, 1.0)))
    shade = _drawn(cell.shape, strokes, width, blur=rng.uniform(1.2, 1.8) * scale)
    if rng.random() < 1 / 3:
        shade = np.maximum(shade, _isolated(rng, cell.shape, main, depth, scale))
    return shade


def _isolated(
    rng: Random, shape: tuple[int, int], line: np.ndarray, depth: float, scale: float
) -> np.ndarray:
    """The triangle between a crack and the corner beside it, darkened, with cracked sides."""
    first, last = line[0], line[-1]
    middle, half = (first + last) / 2, (last - first) / 2
    side = rng.choice([-1, 1]) * rng.uniform(0.3, 0.9)
    corner = middle + side * np.array([-half[1], half[0]])
    area = _filled(shape, np.vstack([line, corner]), blur=1.5 * scale)
    sides = [(np.linspace(end, corner, 12), 0.8 * depth) for end in (first, last)]
    cracked = _drawn(shape, sides, width=2 * scale, blur=1.2 * scale)
    return np.maximum(area * rng.uniform(0.1, 0.4) * _texture(rng, shape, scale), cracked)


def _finger(rng: Random, cell: np.ndarray, scale: float) -> np.ndarray:
    """One to three narrow vertical strips, sharp at one end and fading at the other.

    Healthy ELPV cells have faint strips no less often than defective ones (nine in ten drop below
    0.16), so planted ones are drawn from the dark end of the real strips to count as defects.
    """
    x, y = _inside(rng, cell).tolist()
    rows, columns = np.indices(cell.shape, dtype=np.float32)
    shade = np.zeros(cell.shape, dtype=np.float32)
    sharp, fading = rng.permutation([rng.uniform(1, 2), rng.uniform(4, 14)]) * scale
    for _ in range(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])):
        half_length = rng.uniform(14, 38) * scale
        half_width = rng.uniform(1.2, 3.2) * scale
        across = _step((half_width - np.abs(columns - x)) / (rng.uniform(1.0, 2.0) * scale))
        top, bottom = y - half_length, y + half_length
        along = _step((rows - top) / sharp) * _step((bottom - rows) / fading)
        shade = np.maximum(shade, rng.uniform(0.13, 0.25) * across * along)
        x += rng.choice([-1, 1]) * rng.uniform(6, 22) * scale
        y += rng.normal(0, 8) * scale
    return shade


def _spot(rng: Random, cell: np.ndarray, scale: float) -> np.ndarray:
    """A soft dark blob with an irregular outline."""
    centre = _inside(rng, cell)
    radius = math.exp(rng.uniform(math.log(3.5), math.log(14))) * scale
    angle = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    outline = 1 + sum(
        rng.normal(0, 0.28 / order) * np.cos(order * angle + rng.uniform(0, 2 * math.pi))
        for order in range(2, 7)
    )
    stretch = np.exp(rng.normal(0, 0.25))
    circle = np.stack([np.cos(angle) * stretch, np.sin(angle) / stretch], axis=1)
    points = centre + radius * outline.clip(0.4)[:, None] * circle
    area = _filled(cell.shape, points, blur=rng.uniform(0.12, 0.4) * radius)
    return area * rng.uniform(0.16, 0.55) * _texture(rng, cell.shape, scale)


_SHADES = {"planted_crack": _crack, "planted_finger": _finger, "planted_spot": _spot}
KINDS = tuple(_SHADES)


def _walk(
    rng: Random, start: np.ndarray, heading: float, length: float, scale: float
) -> np.ndarray:
    """(K, 2) points x, y of a line that wanders a little around its heading."""
    step = 5 * scale
    count = max(3, round(length / step))
    wander = np.cumsum(rng.normal(0, 0.02, count)) + rng.normal(0, 0.12, count)
    moves = step * np.stack([np.cos(heading + wander), np.sin(heading + wander)], axis=1)
    return np.vstack([[start], start + np.cumsum(moves, axis=0)])


def _drawn(
    shape: tuple[int, int], strokes: list[tuple[np.ndarray, float]], width: float, blur: float
) -> np.ndarray:
    """(h, w) shade in [0, 1] of polylines; each fades to 40 % of its depth at its end."""
    h, w = shape
    canvas = Image.new("L", (w * _SUPERSAMPLE, h * _SUPERSAMPLE))
    draw = ImageDraw.Draw(canvas)
    thick = max(1, round(width * _SUPERSAMPLE))
    deepest = max(depth for _, depth in strokes)
    # Faint strokes first, so that a branch never lightens the line it leaves.
    for points, depth in sorted(strokes, key=lambda stroke: stroke[1]):
        fade = np.linspace(1, 0.4, len(points) - 1)
        corners = [tuple(p) for p in (points * _SUPERSAMPLE).tolist()]
        for a, b, f in reversed(list(zip(corners[:-1], corners[1:], fade, strict=True))):
            draw.line([a, b], fill=round(255 * f * depth / deepest), width=thick)
    small = canvas.resize((w, h), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(blur))
    shade = np.asarray(small, dtype=np.float32)
    return shade * (deepest / max(float(shade.max()), 1.0))


def _filled(shape: tuple[int, int], points: np.ndarray, blur: float) -> np.ndarray:
    """(h, w) in [0, 1]: a polygon, blurred."""
    h, w = shape
    canvas = Image.new("L", (w, h))
    ImageDraw.Draw(canvas).polygon([tuple(p) for p in points.tolist()], fill=255)
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float32) / 255


def _texture(rng: Random, shape: tuple[int, int], scale: float) -> np.ndarray:
    """(h, w) in [0.75, 1]: smooth unevenness, so that an area is not flat."""
    h, w = shape
    cells = max(2, round(min(h, w) / (14 * scale)))
    noise = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    smooth = np.asarray(noise.resize((w, h), Image.Resampling.BICUBIC), dtype=np.float32)
    return 0.75 + 0.25 * smooth / 255


def _step(x: np.ndarray) -> np.ndarray:
    """Logistic step from 0 to 1."""
    return 1 / (1 + np.exp(-4 * x.clip(-10, 10)))


def _inside(rng: Random, cell: np.ndarray) -> np.ndarray:
    """(2,): a random point x, y on the cell, away from the border that a crop may cut off."""
    size = np.array(cell.shape[::-1])
    for _ in range(100):
        x, y = point = rng.uniform(0.12, 0.88, 2) * size
        if cell[int(y), int(x)]:
            return point
    return size / 2


def _cell(grey: np.ndarray, dark: float, bright: float) -> np.ndarray:
    """(h, w) bool: the luminous cell without its dark surroundings and corners."""
    blurred = Image.fromarray(grey.astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))
    return np.asarray(blurred) > dark + 0.35 * (bright - dark)


def _busbars_are_vertical(grey: np.ndarray) -> bool:
    """Whether thin dark lines run down the image rather than across."""
    h, w = grey.shape
    middle = grey[h // 8 : -h // 8, w // 8 : -w // 8]

    def depth(profile: np.ndarray) -> float:
        window = max(3, len(profile) // 12)
        around = np.convolve(np.pad(profile, window, mode="edge"), np.ones(window) / window, "same")
        return float(np.max(around[window:-window] - profile))

    return depth(np.median(middle, axis=0)) > depth(np.median(middle, axis=1))
