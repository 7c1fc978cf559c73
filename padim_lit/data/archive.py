"""Unpacking tar archives of strangers: nothing outside the folder, no links, no bombs."""

import bz2
import errno
import gzip
import lzma
import os
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import BinaryIO

from padim_lit.errors import InputError

LIMIT = 32 * 10**9  # bytes; MVTec AD has 5.3·10⁹
_HELPING = 10**6  # bytes; names and attributes of a file fit in many times
#: Of an OSError: gzip and bz2 report broken data without a number; names may contradict each other.
_ITS_OWN = (None, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
_RESERVE = 10**8  # bytes of the disk that stay free


class BadArchive(InputError):
    """The archive itself is at fault: reading it again will not help."""


def unpack(archive: Path, folder: Path, limit: int = LIMIT) -> None:
    """Unpack a tar archive (xz, gzip, bzip2 or none) into `folder`, which must be new.

    Only plain files and folders below `folder` are let through: the "data" filter of Python's
    tarfile sees to the paths, and before it links and devices are refused. After an error it is the
    caller's to remove `folder`.

    Args:
        archive: the tar file.
        folder: is made here.
        limit: bytes that all files together may have.

    Raises BadArchive for what is no archive, is cut off, or holds what is not let through, and
    InputError for a Python without the filter, OSError where the disk fails.
    """
    if not hasattr(tarfile, "data_filter"):
        raise InputError(
            "this Python unpacks tar archives unsafely; update it to 3.10.12, 3.11.4 or later, or "
            f"unpack {archive} by hand"
        )
    folder.mkdir()
    room = shutil.disk_usage(folder).free - _RESERVE
    total = 0
    try:
        # Front to back: a member is checked before what is behind it is even decompressed.
        with (
            _decompressed(archive) as stream,
            tarfile.open(fileobj=(bounded := _Bounded(stream, archive)), mode="r:") as tar,
        ):
            for member in tar:
                if not (member.isfile() or member.isdir()):
                    raise BadArchive(
                        f"{archive} holds a link or a device ({member.name!r}); refused"
                    )
                total += member.size
                if total > limit:
                    raise BadArchive(
                        f"{archive} unpacks to more than {limit / 1e9:g} GB, which no archive of "
                        "images should; refused"
                    )
                if total > room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder.parent)
                tar.extract(member, folder, filter="data")
            # tarfile takes a broken header, or none, for the end of the archive.
            if bounded.last != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it ends in the middle")
            _drain(stream, limit)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        if getattr(error, "errno", None) not in _ITS_OWN:
            raise
        raise BadArchive(
            f"{archive} cannot be unpacked as a tar archive ({' '.join(str(error).split())}); "
            "nothing was unpacked"
        ) from error


def _decompressed(archive: Path) -> BinaryIO:
    with archive.open("rb") as file:
        start = file.read(6)
    for magic, module in ((b"\xfd7zXZ\0", lzma), (b"\x1f\x8b", gzip), (b"BZh", bz2)):
        if start.startswith(magic):
            return module.open(archive)
    return archive.open("rb")


class _Bounded:
    """What tarfile needs of a stream, in small helpings.

    It reads an extended header whole, at the length that the archive claims, and a few compressed
    kilobytes may claim gigabytes.
    """

    def __init__(self, stream: BinaryIO, archive: Path) -> None:
        self.stream, self.archive = stream, archive
        self.seek, self.tell = stream.seek, stream.tell
        self.last = b""  # what was read last

    def read(self, size: int) -> bytes:
        if size > _HELPING:
            raise BadArchive(f"{self.archive} has a header of {size} bytes; refused")
        self.last = self.stream.read(size)
        return self.last


def _drain(stream: BinaryIO, limit: int) -> None:
    """Read what is left, because the checksums of a compressed file come last."""
    for _ in range(0, limit, 1 << 20):
        if not stream.read(1 << 20):
            return
    raise tarfile.ReadError("it goes on behind its end")
