"""Pictures and their maps as texts that a page can hold, small and exact enough to count on."""

import base64
import zlib
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from padim_lit.report.page import jpeg
from padim_lit.visualization.gallery import ROLES, SCORED, GalleryEntry
from padim_lit.visualization.panels import common_scale

#: Steps of a distance in the page, over the range of a run's maps: twelve bits.
LEVELS = 2**12 - 1
#: Pixels of a picture's longer side; of larger ones every n-th pixel is kept.
SIDE = 512
QUALITY = 85


def encode_pictures(pictures: Sequence[GalleryEntry], most: int, budget: int) -> dict[str, Any]:
    """Encode the clearest pictures of each role: `most` at most, in `budget` characters of base64.

    A map is uint16 (h,w): a distance is ``low + step`` times its lower twelve bits, the bit above
    them is 1 in a defect, and the next one outside of roi; see `pack`. ``left`` is the number of
    pictures left out.
    """
    maps = [picture.map for picture in pictures]
    low, high = float(min(m.min() for m in maps)), float(max(m.max() for m in maps))
    step = max(high - low, 1e-6) / LEVELS
    height, width = maps[0].shape
    every = -(-max(height, width) // SIDE)
    # By rank first, so that a part of them still holds every role.
    roles = [*ROLES, SCORED]
    order = sorted(pictures, key=lambda p: (p.rank, roles.index(p.role), p.index))
    items: list[dict[str, Any]] = []
    used = 0
    for picture in order[:most]:
        kept = np.s_[::every, ::every]
        values = np.rint((picture.map[kept].astype(np.float64) - low) / step).clip(0, LEVELS)
        truth = picture.truth is not None and bool(picture.truth.any())
        if truth:
            values += (LEVELS + 1) * picture.truth[kept]
        if picture.roi is not None:
            values += 2 * (LEVELS + 1) * ~picture.roi[kept]
        shown = ("role", "rank", "index", "kind", "label", "score", "planted")
        item = {name: getattr(picture, name) for name in shown}
        item["name"] = PurePath(picture.path).name
        item["image"] = jpeg(Image.fromarray(np.ascontiguousarray(picture.image[kept])), QUALITY)
        item["map"] = pack(values.astype(np.uint16))
        item["truth"] = truth
        used += len(item["image"]) + len(item["map"])
        if used > budget:
            break
        items.append(item)
    items.sort(key=lambda item: (roles.index(item["role"]), item["planted"], item["rank"]))
    return {
        "low": low,
        "step": step,
        "scale": common_scale([p.shown for p in pictures]),
        "every": every,
        "height": -(-height // every),
        "width": -(-width // every),
        "items": items,
        "left": len(pictures) - len(items),
    }


def pack(values: np.ndarray) -> str:
    """Encode uint16 (h,w): differences along both axes, low bytes then high bytes, zlib, base64.

    Neighbours of a blurred map differ little, so that most differences need two or three bits.
    """
    across = np.diff(values.astype(np.int64), axis=1, prepend=0)
    both = np.diff(across, axis=0, prepend=0).astype(np.uint16)
    halves = (both & 255).astype(np.uint8).tobytes() + (both >> 8).astype(np.uint8).tobytes()
    return base64.b64encode(zlib.compress(halves)).decode()
