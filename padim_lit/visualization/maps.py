"""The pictures of a gallery as numbers, ``maps.npz``, for pages that colour the maps anew."""

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from padim_lit.analysis.result_files import BROKEN, load_arrays, require
from padim_lit.errors import refusing
from padim_lit.system.atomic import write_bytes
from padim_lit.visualization.gallery import ROLES, SCORED, GalleryEntry

#: Of the file's layout.
VERSION = 3
#: Steps of a stored distance between the lowest and the highest of all maps.
LEVELS = 2**16 - 1
#: Bytes that a file may hold unpacked; 24 pictures of 2048 × 2048 pixels hold 600 MB.
LIMIT = 2**30
TEXTS, WHOLE = ("role", "path", "kind"), ("rank", "index", "label")
#: A picture's attributes that are no arrays.
SAID = (*TEXTS, *WHOLE, "score", "planted")
#: The arrays' types.
ARRAYS = {"image": np.uint8, "truth": np.bool_, "map": np.uint16}


def write_maps(path: str | os.PathLike, pictures: Sequence[GalleryEntry]) -> Path | None:
    """Write what `maps_file` gives; no picture writes nothing.

    Raises:
        InputError: the file cannot be written.
    """
    return write_bytes(path, maps_file(pictures)) if pictures else None


def maps_file(pictures: Sequence[GalleryEntry]) -> bytes:
    """K pictures of one size, at least one, as arrays of a compressed npz.

    ``image`` uint8 (K,h,w,3); ``truth`` bool (K,h,w); ``map`` uint16 (K,h,w), a distance being
    ``low + step · map``; ``about``, a JSON text with these two and what is said of each picture.
    Sixteen bits over the range of the maps are finer than half-precision floats.
    """
    maps = np.stack([picture.map for picture in pictures]).astype(np.float64)
    low = float(maps.min())
    step = max(float(maps.max()) - low, 1e-6) / LEVELS
    blank = np.zeros(maps.shape[1:], bool)
    said = [
        {"known": p.truth is not None, **{name: getattr(p, name) for name in SAID}}
        for p in pictures
    ]
    file = io.BytesIO()
    np.savez_compressed(
        file,
        about=np.array(json.dumps({"version": VERSION, "low": low, "step": step, "said": said})),
        image=np.stack([picture.image for picture in pictures]),
        truth=np.stack([blank if p.truth is None else p.truth for p in pictures]),
        map=np.rint((maps - low) / step).astype(np.uint16),
    )
    return file.getvalue()


def read_maps(path: str | os.PathLike) -> list[GalleryEntry]:
    """The pictures of a file of `write_maps`; no pickle in it is loaded.

    Raises:
        InputError: the file is none of ours, cut off, or larger than `LIMIT`.
    """
    file = load_arrays(Path(path), LIMIT)
    with refusing(f"{path} cannot be read", "remove it, or run mode=fit again", *BROKEN):
        about, arrays = json.loads(file["about"].item()), {name: file[name] for name in ARRAYS}
        return _pictures(path, about, **arrays)


def _pictures(
    path: str | os.PathLike,
    about: dict[str, Any],
    image: np.ndarray,
    truth: np.ndarray,
    map: np.ndarray,
) -> list[GalleryEntry]:
    if about["version"] != VERSION:
        raise ValueError(f"version {about['version']}, known is {VERSION}")
    low, step, said = about["low"], about["step"], about["said"]
    shape = (len(said), *map.shape[1:])
    if image.shape[-1:] != (3,):
        raise ValueError(f"image is {image.shape}")
    for name, array in {"image": image[..., 0], "truth": truth, "map": map}.items():
        if array.dtype != ARRAYS[name] or array.shape != shape or len(shape) != 3 or 0 in shape:
            raise ValueError(f"{name} is {array.dtype} {array.shape}")
    for number, one in enumerate(said, 1):
        require(one, f"{path} cannot be read: picture {number}", TEXTS, WHOLE)
        if one["role"] not in (*ROLES, SCORED):
            raise ValueError(f"an unknown role, {one['role']}")
    if not np.isfinite([low, step, *(one["score"] for one in said)]).all() or step <= 0:
        raise ValueError("no finite scale or scores")
    return [
        GalleryEntry(
            image=image[i],
            truth=truth[i] if one["known"] else None,
            map=(low + step * map[i]).astype(np.float32),
            **{name: one[name] for name in SAID},
        )
        for i, one in enumerate(said)
    ]
