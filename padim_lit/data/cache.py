"""Decoded and resized pictures on disk, shared by every run that sees the same files the same way.

A picture is known by the contents of its files, resize and crop, and the code and libraries that
make it, so copies of a file share one entry and an entry is never out of date. To find the contents
of a file without reading it, an index maps its path, size and times to their sha256.
"""

import hashlib
import io
import json
import logging
import os
import platform
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import PIL
from PIL import features

from padim_lit.data.items import Item, MaskState, PreparedImage, prepare
from padim_lit.data.transform import ResizeCrop
from padim_lit.errors import InputError, refusing
from padim_lit.system.atomic import file_bytes, remove_remnants, write_bytes
from padim_lit.system.paths import typed_path

log = logging.getLogger(__name__)

Stamp = tuple[str, int, int, int]

_BUCKETS = 256
_FRAME = 1000  # bytes of an npz file beside its arrays, and more
_STATES = (None, *MaskState)
# A file changed twice within its file system's tick keeps its times; younger ones are not indexed.
_SETTLED = 2.0  # seconds


class PictureCache:
    """Called with an item and a ResizeCrop, gives what `prepare` gives, from disk where it can.

    Several threads, processes and runs may use one folder: an entry, an npz file, appears whole or
    not at all, and one that is damaged is noticed by its checksums and made anew. Each of 256
    folders takes its share of the limit and then no more, which many processes can heed without a
    word between them; nothing is removed to make room, because runs read their images in turn, and
    dropping the oldest would drop what is needed next.

    Args:
        folder: made if missing; ~ is expanded.
        limit_gb: how large all entries together may become, in 10⁹ bytes.

    Raises InputError for a folder that cannot be written and a limit that is not positive.
    """

    def __init__(self, folder: str | Path, limit_gb: float = 20.0) -> None:
        if not 0 < limit_gb < float("inf"):
            raise InputError(f"picture_cache_gb={limit_gb} must be positive and finite")
        self.folder = typed_path(folder).absolute()
        self.limit = round(limit_gb * 1e9)
        self.writes = True
        what = f"picture_cache={folder} cannot be written"
        with refusing(what, "choose a writable folder, or null for none", OSError):
            for name in ("index", "pictures"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=self.folder / name).close()

    def __call__(self, item: Item, resize_crop: ResizeCrop) -> PreparedImage:
        """The picture of `item`; raises InputError as `prepare` does."""
        try:
            files = [item.path, *item.masks]
            stamps = [stamp(path) for path in files]
            digests = [self._indexed(stamp) for stamp in stamps]
            if all(digests) and (found := self._read(_key(item, digests, resize_crop))):
                return found
            digests = [digest_of(stamp) for stamp in stamps]
        except OSError:
            return prepare(item, resize_crop)  # says what is wrong with the file
        key = _key(item, digests, resize_crop)
        if (found := self._read(key)) is None:
            found = prepare(item, resize_crop)
            # A file that changed in between is not what its digest says.
            if not self._unchanged(files, stamps) or not self._store(key, found):
                return found
        self._index(stamps, digests)
        return found

    def describe(self) -> str:
        """One line: where the cache is and how large."""
        buckets = []
        for bucket in (self.folder / "pictures").glob("??"):  # no file of a file manager
            remove_remnants(bucket)
            buckets.append(_sizes(bucket))
        count, size = sum(map(len, buckets)), sum(map(sum, buckets))
        # Each takes whole pictures alone, so that large ones fill no bucket to its end.
        most = self.limit // _BUCKETS - size / max(1, count)
        closed = sum(sum(sizes) > most for sizes in buckets)
        full = size > 0.97 * self.limit or 2 * closed > _BUCKETS
        todo = "; full: raise picture_cache_gb or delete the folder" if full else ""
        return (
            f"picture cache {self.folder}: {count} pictures, {size / 1e9:.2f} of "
            f"{self.limit / 1e9:g} GB{todo}"
        )

    def require_room(self, shape: tuple[int, int]) -> None:
        """InputError where a bucket could not take one picture of `shape` (h, w)."""
        needed = _BUCKETS * (_FRAME + 4 * shape[0] * shape[1])
        if self.limit < needed:
            raise InputError(
                f"picture_cache_gb={self.limit / 1e9:g} is too small for pictures of "
                f"{shape[0]}×{shape[1]}; set at least {-(-needed // 10**7) / 100:g}"
            )

    def _read(self, key: str) -> PreparedImage | None:
        path = self._entry(key)
        try:
            return _unpacked(path.read_bytes())
        except FileNotFoundError:
            return None
        except Exception:  # what a damaged file makes numpy and zipfile raise is no closed list
            with suppress(OSError):
                path.unlink()
            return None

    def _store(self, key: str, made: PreparedImage) -> bool:
        """Whether the entry is there afterwards."""
        path, content = self._entry(key), _packed(made)
        try:
            path.parent.mkdir(exist_ok=True)
            used = sum(_sizes(path.parent))
            if not self.writes or used + len(content) > self.limit // _BUCKETS:
                return False
            write_bytes(path, content)
        except (OSError, InputError) as error:
            self.writes = False
            log.warning("picture cache %s cannot be written: %s", self.folder, error)
            return False
        return True

    def _entry(self, key: str) -> Path:
        return self.folder / "pictures" / key[:2] / f"{key[2:]}.npz"

    def _indexed(self, stamp: Stamp) -> str | None:
        try:
            digest = self._indexed_at(stamp).read_text("ascii")
        except (OSError, UnicodeDecodeError):
            return None
        return digest if len(digest) == 64 else None

    def _index(self, stamps: list[Stamp], digests: list[str]) -> None:
        for stamp, digest in zip(stamps, digests, strict=True):
            if self.writes and time.time() - max(stamp[2:]) / 1e9 > _SETTLED:
                with suppress(InputError):  # without it the file is read again, and that is all
                    write_bytes(self._indexed_at(stamp), digest.encode())

    def _indexed_at(self, stamp: Stamp) -> Path:
        name = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()
        return self.folder / "index" / name[:2] / name[2:]

    def _unchanged(self, files: list[Path], stamps: list[Stamp]) -> bool:
        with suppress(OSError):
            return [stamp(path) for path in files] == stamps
        return False


def stamp(path: Path) -> Stamp:
    """Path, size and times in ns; ctime changes where a tool sets the mtime back."""
    found = path.stat()
    path = os.path.abspath(path)  # noqa: PTH100 - far faster than resolving links
    return path, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@cache
def digest_of(stamp: Stamp) -> str:
    """sha256 of a file, read once in a process for each `stamp` that it has."""
    known = hashlib.sha256()
    with Path(stamp[0]).open("rb") as file:
        while part := file.read(1 << 20):
            known.update(part)
    return known.hexdigest()


def _key(item: Item, digests: list[str], resize_crop: ResizeCrop) -> str:
    planted = None if item.plant_seed is None else [item.kind, item.plant_seed]
    what = [_making(), resize_crop.resize, resize_crop.crop, digests, planted, item.mask_threshold]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


@cache
def _making() -> list[str]:
    """What a picture's bits depend on beside its files, resize and crop."""
    code = hashlib.sha256()
    for name in ("images.py", "items.py", "planted.py", "transform.py", "cache.py"):
        code.update(Path(__file__).with_name(name).read_bytes())
    # JPEG decoders and floating-point code of other versions may differ in a bit.
    libraries = [PIL.__version__, str(features.version_codec("jpg")), np.__version__]
    return [code.hexdigest(), *libraries, platform.machine()]


def _packed(made: PreparedImage) -> bytes:
    """An npz file, whose checksums see damage to its arrays."""
    state = np.uint8(_STATES.index(made.state))
    return file_bytes(np.savez, pixels=made.pixels, mask=np.packbits(made.mask), state=state)


def _unpacked(content: bytes) -> PreparedImage:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        pixels, mask, state = arrays["pixels"], arrays["mask"], _STATES[arrays["state"]]
    h, w, _ = pixels.shape
    return PreparedImage(pixels, np.unpackbits(mask, count=h * w).reshape(h, w).view(bool), state)


def _sizes(bucket: Path) -> list[int]:
    """Bytes of each entry in a folder; none of another user's that may not be read."""
    sizes = []
    with suppress(PermissionError), os.scandir(bucket) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # another process was faster
                sizes.append(entry.stat().st_size)
    return sizes
