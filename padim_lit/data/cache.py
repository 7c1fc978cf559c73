"""Decoded and resized pictures on disk, shared by every run that sees the same files the same way.

A picture is known by the contents of its files, resize and crop, and the code and libraries that
make it, so copies of a file share one entry and an entry is never out of date.
"""

import hashlib
import io
import json
import os
import platform
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import PIL
from PIL import features

from padim_lit.data.items import Item, MaskState, PreparedImage, prepare
from padim_lit.data.transform import ResizeCrop
from padim_lit.digests import sha256_of
from padim_lit.errors import InputError, refusing
from padim_lit.system.atomic import file_bytes, write_bytes
from padim_lit.system.paths import typed_path

Stamp = tuple[str, int, int, int]

_STATES = (None, *MaskState)


class PictureCache:
    """A cache of `prepare`: called with an item and a ResizeCrop, it reads from disk what it can.

    Several threads, processes and runs may use one folder: an entry, an npz file, appears whole or
    not at all, and one that is damaged is noticed by its checksums and made anew. The folder grows
    by 4 bytes for each pixel that the model sees of a picture, and may be deleted at any time.

    Args:
        folder: made if missing; ~ is expanded.

    Raises InputError for a folder that cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = typed_path(folder).absolute()
        what = f"picture_cache={folder} cannot be written"
        with refusing(what, "choose a writable folder, or null for none", OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()

    def __call__(self, item: Item, resize_crop: ResizeCrop) -> PreparedImage:
        """Return the picture of `item`; raise InputError as `prepare` does."""
        files = [item.path, *item.masks]
        try:
            stamps = [stamp(path) for path in files]
            key = _key(item, [digest_of(stamp) for stamp in stamps], resize_crop)
        except OSError:
            return prepare(item, resize_crop)  # says what is wrong with the file
        entry = self.folder / key[:2] / f"{key[2:]}.npz"
        if (found := _read(entry)) is None:
            found = prepare(item, resize_crop)
            arrays = found._replace(state=np.uint8(_STATES.index(found.state)))._asdict()
            with suppress(OSError, InputError):  # a full disk costs no run
                # A file that changed in between is not what its digest says.
                if [stamp(path) for path in files] == stamps:
                    write_bytes(entry, file_bytes(np.savez, **arrays), lasting=False)
        return found


def _read(entry: Path) -> PreparedImage | None:
    """Read a picture from an npz file, if the file is there and its checksums hold."""
    # What a damaged file makes numpy and zipfile raise is no closed list.
    with suppress(Exception), np.load(io.BytesIO(entry.read_bytes()), allow_pickle=False) as arrays:
        return PreparedImage(arrays["pixels"], arrays["mask"], _STATES[arrays["state"]])
    return None


def stamp(path: Path) -> Stamp:
    """Return a file's path, size and times in ns; ctime changes where a tool sets mtime back."""
    found = path.stat()
    path = os.path.abspath(path)  # noqa: PTH100 - far faster than resolving links
    return path, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@cache
def digest_of(stamp: Stamp) -> str:
    """Return a file's sha256, which a process reads once for each of the file's `stamp`s."""
    with Path(stamp[0]).open("rb") as file:
        return sha256_of(file)


def _key(item: Item, digests: list[str], resize_crop: ResizeCrop) -> str:
    planted = None if item.plant_seed is None else [item.kind, item.plant_seed]
    what = [_making(), resize_crop.resize, resize_crop.crop, digests, planted, item.mask_threshold]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


@cache
def _making() -> list[str]:
    """Return what else a picture's bits depend on, beside its files, resize and crop."""
    code = hashlib.sha256()
    for name in ("images.py", "items.py", "planted.py", "transform.py", "cache.py"):
        code.update(Path(__file__).with_name(name).read_bytes())
    # JPEG decoders and floating-point code of other versions may differ in a bit.
    libraries = [PIL.__version__, str(features.version_codec("jpg")), np.__version__]
    return [code.hexdigest(), *libraries, platform.machine()]
