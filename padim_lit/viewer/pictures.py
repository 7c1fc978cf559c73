"""Pictures and their maps as texts that a page can hold, small and exact enough to count on."""

import base64
import io
import zlib
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from padim_lit.visualization.gallery import GalleryEntry
from padim_lit.visualization.panels import common_scale

#: Steps of a distance in the page, over the range of a run's maps.
LEVELS = 2**12 - 1
#: Pixels of a picture's longer side; of larger ones every n-th pixel is kept.
SIDE = 512
QUALITY = 85
ROLES = ("hit", "miss", "false_alarm")


def encode_pictures(pictures: Sequence[GalleryEntry], most: int, budget: int) -> dict[str, Any]:
    """The clearest pictures of each role, at most `most`, within `budget` characters of base64.

    A map is uint16 (h,w), a distance being ``low + step · map``, kept as differences along both
    axes (see `pack`); ``left`` is the number of pictures that were left out.
    """
    maps = [picture.map for picture in pictures]
    low, high = (min(m.min() for m in maps), max(m.max() for m in maps)) if maps else (0, 1)
    step = max(float(high) - float(low), 1e-6) / LEVELS
    # By rank first, so that a part of them still holds every role.
    order = sorted(pictures, key=lambda p: (p.rank, ROLES.index(p.role), p.index))
    items: list[dict[str, Any]] = []
    used = 0
    for picture in order[:most]:
        item = _encode(picture, float(low), step)
        used += sum(len(item[key] or "") for key in ("image", "map", "truth"))
        if used > budget:
            break
        items.append(item)
    items.sort(key=lambda item: (ROLES.index(item["role"]), item["planted"], item["rank"]))
    shape = maps[0].shape if maps else (1, 1)
    every = _every(shape)
    return {
        "low": float(low),
        "step": step,
        "scale": common_scale(maps),
        "height": len(range(0, shape[0], every)),
        "width": len(range(0, shape[1], every)),
        "every": every,
        "items": items,
        "left": len(pictures) - len(items),
    }


def _encode(picture: GalleryEntry, low: float, step: float) -> dict[str, Any]:
    every = _every(picture.map.shape)
    image, map = picture.image[::every, ::every], picture.map[::every, ::every]
    levels = np.rint((map.astype(np.float64) - low) / step).clip(0, LEVELS).astype(np.uint16)
    truth = None
    if picture.truth is not None and picture.truth.any():
        truth = _text(np.packbits(picture.truth[::every, ::every]).tobytes())
    return {
        "role": picture.role,
        "rank": picture.rank,
        "name": PurePath(picture.path).name,
        "kind": picture.kind,
        "label": picture.label,
        "score": picture.score,
        "planted": picture.planted,
        "image": _jpeg(image),
        "map": pack(levels),
        "truth": truth,
    }


def pack(levels: np.ndarray) -> str:
    """uint16 (h,w) as differences along both axes, low bytes then high bytes, zlib, base64.

    Neighbours of a blurred map differ little, so that most differences need two or three bits.
    """
    wide = levels.astype(np.int64)
    across = np.diff(wide, axis=1, prepend=0)
    both = np.diff(across, axis=0, prepend=0).astype(np.uint16)
    return _text((both & 255).astype(np.uint8).tobytes() + (both >> 8).astype(np.uint8).tobytes())


def _every(shape: tuple[int, ...]) -> int:
    return -(-max(shape) // SIDE)


def _text(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


def _jpeg(image: np.ndarray) -> str:
    grey = (image == image[..., :1]).all()
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image[..., 0] if grey else image)).save(
        file, "JPEG", quality=QUALITY, subsampling=0
    )
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
