"""Archives of strangers: loaded whole and checked, by pooch; unpacked without links and bombs."""

import bz2
import errno
import gzip
import hashlib
import logging
import lzma
import os
import re
import shutil
import tarfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

from tqdm import tqdm

from padim_lit.errors import InputError
from padim_lit.version import __version__

TIMEOUT = 60.0  # seconds without a byte
LIMIT = 32 * 10**9  # bytes; MVTec AD has 5.3·10⁹
_HELPING = 10**6  # bytes; names and attributes of a file fit in many times
_DEPTH = 100  # folders in each other; making and removing them goes down one by one
#: Of an OSError: gzip and bz2 report broken data without a number; names may contradict each other.
_ITS_OWN = (None, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
_RESERVE = 10**8  # bytes of the disk that stay free


def fetch(url: str, folder: Path, sha256: str | None = None, timeout: float = TIMEOUT) -> Path:
    """Load `url` into `folder` and return the file, which appears whole or not at all.

    The file of an earlier call with the same `url` is taken as it is, if it has `sha256`. All else
    in `folder` is removed, which must be ours alone, under a lock.

    Args:
        url: http or https.
        folder: made if missing.
        sha256: what the file must have, in hex; None takes any.
        timeout: seconds that the server may be silent.

    Raises InputError for what the server or the network does wrong, OSError where the disk fails.
    """
    import pooch  # takes a second, and few runs load anything
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    # Each address has a name of its own: two archives may be called alike.
    name = re.sub(r"[^\w.-]", "", Path(urlsplit(url).path).name)
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    folder = folder.absolute()  # pooch would expand a ~
    try:
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name != name:
                path.unlink()
        what = name.partition("-")[2]
        # On terminals alone (None). pooch sets the total, but asks for a bar that has one.
        with tqdm(desc=what, total=1, unit="B", unit_scale=True, disable=None) as bar:
            loader = pooch.HTTPDownloader(
                progressbar=bar,
                timeout=timeout,
                headers={"User-Agent": f"padim_lit/{__version__}", "Accept-Encoding": "identity"},
                hooks={"response": partial(_require_archive, folder)},
            )
            found = pooch.retrieve(url, sha256 and sha256.lower(), name, folder, downloader=loader)
    except requests.HTTPError as error:
        error.response.close()
        raise InputError(
            f"{url} answers {error.response.status_code} {error.response.reason}; the link may "
            "have moved; set data.url to the present one"
        ) from error
    except requests.RequestException as error:
        raise InputError(
            f"{url} was not loaded ({_innermost(error)}); check the address and the network, and "
            "run the same command again"
        ) from error
    except InputError:
        raise
    except ValueError as error:  # the checksum; its message holds both
        raise InputError(
            f"{url}: {' '.join(str(error).split())} Try again, or set data.sha256 to the new one "
            "if you know that it is right"
        ) from error
    return Path(found)


def _require_archive(folder: Path, response: Any, **_: Any) -> None:
    """InputError for an answer that is no archive, or none that fits on the disk."""
    url, headers, problem = response.url, response.headers, None
    # Twice, because images hardly compress: what comes out is as large again.
    needed, free = 2 * int(headers.get("Content-Length", 0)), shutil.disk_usage(folder).free
    if free < needed:
        problem = (
            f"{folder.parent} has {free / 1e9:.1f} GB free, but the archive and its images need "
            f"{needed / 1e9:.1f} GB; free some or set data.root to another disk"
        )
    if response.is_redirect:
        target = urljoin(url, headers["Location"])
        if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
            problem = f"{url} redirects to {target}, without encryption; refused"
    elif response.ok and "html" in headers.get("Content-Type", ""):
        problem = (
            f"{url} answers with a web page, not an archive; the link has probably moved; "
            "set data.url to the present one"
        )
    if problem is not None:
        response.close()
        raise InputError(problem)


def _innermost(error: BaseException) -> str:
    """The system's word for it, without the layers of libraries around."""
    while error.__context__ is not None:
        error = error.__context__
    return getattr(error, "strerror", None) or " ".join(str(error).split())


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
                if member.name.count("/") > _DEPTH:
                    raise BadArchive(
                        f"{archive} nests folders more than {_DEPTH} deep "
                        f"({member.name[:60]!r}…); refused"
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
