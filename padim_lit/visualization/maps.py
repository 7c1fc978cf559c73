"""The pictures of a gallery as numbers, ``maps.npz``, for pages that colour the maps anew."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from padim_lit.errors import InputError
from padim_lit.system.atomic import write_bytes
from padim_lit.visualization.gallery import GalleryEntry

#: Of the file's layout.
VERSION = 1
#: Steps of a stored distance between the lowest and the highest of all maps.
LEVELS = 2**16 - 1
#: Bytes that a file may hold unpacked; 24 pictures of 2048 × 2048 pixels hold 600 MB.
LIMIT = 2**30
TEXTS, NUMBERS = ("path", "kind", "role"), ("index", "label", "rank")
#: Name → letter of NumPy's kind and number of axes.
LAYOUT = {
    **dict.fromkeys(TEXTS, ("U", 1)),
    **dict.fromkeys(NUMBERS, ("i", 1)),
    **{"score": ("f", 1), "known": ("b", 1), "planted": ("b", 1)},
    **{"image": ("u", 4), "truth": ("b", 3), "map": ("u", 3), "low": ("f", 0), "step": ("f", 0)},
}


def write_maps(path: str | os.PathLike, pictures: Sequence[GalleryEntry]) -> Path | None:
    """Write K pictures of one size as arrays, compressed; none writes nothing.

    ``image`` uint8 (K,h,w,3); ``truth`` bool (K,h,w) with ``known`` bool (K,); ``map`` uint16
    (K,h,w), a distance being ``low + step · map``; one value a picture of the other attributes.
    Sixteen bits over the range of the maps are finer than half-precision floats.

    Raises:
        InputError: the file cannot be written.
    """
    if not pictures:
        return None
    maps = np.stack([picture.map for picture in pictures]).astype(np.float64)
    low = float(maps.min())
    step = max(float(maps.max()) - low, 1e-6) / LEVELS
    blank = np.zeros(maps.shape[1:], bool)
    arrays = {
        "version": np.array(VERSION),
        "image": np.stack([picture.image for picture in pictures]),
        "known": np.array([picture.truth is not None for picture in pictures]),
        "truth": np.stack([blank if p.truth is None else p.truth for p in pictures]),
        "map": np.rint((maps - low) / step).astype(np.uint16),
        "low": np.array(low),
        "step": np.array(step),
        "score": np.array([picture.score for picture in pictures], np.float64),
        "planted": np.array([picture.planted for picture in pictures]),
        **{name: np.array([getattr(p, name) for p in pictures], np.int64) for name in NUMBERS},
        **{name: np.array([getattr(p, name) for p in pictures], np.str_) for name in TEXTS},
    }
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return write_bytes(path, file.getvalue())


def read_maps(path: str | os.PathLike) -> list[GalleryEntry]:
    """The pictures of a file of `write_maps`; no pickle in it is loaded.

    Raises:
        InputError: the file is none of ours, cut off, or larger than `LIMIT`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LIMIT:
            raise ValueError(f"{size} bytes unpacked, at most {LIMIT} are read")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("version", *LAYOUT)}
        return _pictures(arrays)
    except (
        *(OSError, ValueError, KeyError, EOFError, MemoryError, NotImplementedError),
        *(zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, SyntaxError),
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} cannot be read ({reason}); remove it, or run mode=fit again"
        ) from error


def _pictures(arrays: dict[str, np.ndarray]) -> list[GalleryEntry]:
    if arrays["version"].shape != () or arrays["version"] != VERSION:
        raise ValueError(f"version {arrays['version']}, known is {VERSION}")
    shape = arrays["map"].shape
    for name, (kind, axes) in LAYOUT.items():
        found = arrays[name]
        wanted = (*shape, 3) if name == "image" else shape[:axes]
        if found.dtype.kind != kind or found.ndim != axes or found.shape != wanted:
            raise ValueError(f"{name} is {found.dtype} {found.shape}")
    if arrays["image"].dtype != np.uint8 or arrays["map"].dtype != np.uint16:
        raise ValueError("image or map of a wrong type")
    low, step = float(arrays["low"]), float(arrays["step"])
    if not np.isfinite([low, step, *arrays["score"]]).all() or step <= 0 or 0 in shape:
        raise ValueError("no finite scale or scores")
    if not set(arrays["role"].tolist()) <= {"hit", "miss", "false_alarm"}:
        raise ValueError("an unknown role")
    return [
        GalleryEntry(
            image=arrays["image"][i],
            truth=arrays["truth"][i] if arrays["known"][i] else None,
            map=(low + step * arrays["map"][i]).astype(np.float32),
            planted=bool(arrays["planted"][i]),
            score=float(arrays["score"][i]),
            **{name: int(arrays[name][i]) for name in NUMBERS},
            **{name: str(arrays[name][i]) for name in TEXTS},
        )
        for i in range(shape[0])
    ]
