"""The pictures of a gallery as numbers, ``maps.npz``, for pages that colour the maps anew."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from padim_lit.analysis.result_files import BROKEN, load_arrays
from padim_lit.errors import refusing
from padim_lit.system.atomic import file_bytes, write_bytes
from padim_lit.visualization.gallery import ROLES, SCORED, GalleryEntry

#: Steps of a stored distance between the lowest and the highest of all maps.
LEVELS = 2**16 - 1
#: Bytes that a file may hold unpacked; 24 pictures of 2048 × 2048 pixels hold 600 MB.
LIMIT = 2**30
#: A picture's attributes that are one value each, and the kinds of their arrays.
SAID = {
    **{"role": "U", "path": "U", "kind": "U", "rank": "i", "index": "i", "label": "i"},
    **{"score": "f", "planted": "b"},
}
#: The types of the others.
ARRAYS = {"image": np.uint8, "truth": np.bool_, "map": np.uint16}


def write_maps(path: str | os.PathLike, pictures: Sequence[GalleryEntry]) -> Path | None:
    """Write what `maps_file` gives; no picture writes nothing.

    Raises:
        InputError: the file cannot be written.
    """
    return write_bytes(path, maps_file(pictures)) if pictures else None


def maps_file(pictures: Sequence[GalleryEntry]) -> bytes:
    """K pictures of one size, at least one, as arrays of a compressed npz.

    ``image`` uint8 (K,h,w,3); ``truth`` bool (K,h,w), ``known`` (K,) whether it is; ``map`` uint16
    (K,h,w), a distance being ``low + step · map`` with ``scale`` (2,) for the two; and an array
    (K,) for each of `SAID`. Sixteen bits over the range of the maps are finer than half-precision
    floats.
    """
    maps = np.stack([picture.map for picture in pictures]).astype(np.float64)
    low = float(maps.min())
    step = max(float(maps.max()) - low, 1e-6) / LEVELS
    blank = np.zeros(maps.shape[1:], bool)
    return file_bytes(
        np.savez_compressed,
        **{name: np.array([getattr(p, name) for p in pictures]) for name in SAID},
        scale=np.array([low, step]),
        image=np.stack([picture.image for picture in pictures]),
        known=np.array([p.truth is not None for p in pictures]),
        truth=np.stack([blank if p.truth is None else p.truth for p in pictures]),
        map=np.rint((maps - low) / step).astype(np.uint16),
    )


def read_maps(path: str | os.PathLike) -> list[GalleryEntry]:
    """The pictures of a file of `write_maps`; no pickle in it is loaded.

    Raises:
        InputError: the file is none of ours, cut off, or larger than `LIMIT`.
    """
    file = load_arrays(Path(path), LIMIT)
    with refusing(f"{path} cannot be read", "remove it, or run mode=fit again", *BROKEN):
        return _pictures(file)


def _pictures(file: dict[str, np.ndarray]) -> list[GalleryEntry]:
    count, *shape = file["map"].shape
    for name, kind in ARRAYS.items():
        wanted = (count, *shape, 3) if name == "image" else (count, *shape)
        if file[name].dtype != kind or file[name].shape != wanted or len(shape) != 2 or 0 in shape:
            raise ValueError(f"{name} is {file[name].dtype} {file[name].shape}")
    for name, kind in {**SAID, "known": "b"}.items():
        if file[name].dtype.kind != kind or file[name].shape != (count,):
            raise ValueError(f"{name} is {file[name].dtype} {file[name].shape}")
    low, step = file["scale"].astype(np.float64).tolist()
    if not np.isfinite([low, step, *file["score"]]).all() or step <= 0:
        raise ValueError("no finite scale or scores")
    if strange := {*file["role"].tolist()} - {*ROLES, SCORED}:
        raise ValueError(f"an unknown role, {strange.pop()}")
    said = {name: file[name].tolist() for name in SAID}
    return [
        GalleryEntry(
            image=file["image"][i],
            truth=file["truth"][i] if file["known"][i] else None,
            map=(low + step * file["map"][i]).astype(np.float32),
            **{name: values[i] for name, values in said.items()},
        )
        for i in range(count)
    ]
