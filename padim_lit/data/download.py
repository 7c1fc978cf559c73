"""Archives of strangers: loaded whole and checked, by pooch; unpacked without links."""

import logging
import lzma
import sys
import tarfile
import zlib
from pathlib import Path

from padim_lit.errors import InputError, refusing

TIMEOUT = 60.0  # seconds without a byte


def fetch(url: str, folder: Path, sha256: str | None = None) -> Path:
    """Load `url` into `folder` and return the file, which appears whole or not at all.

    The file of an earlier call with the same `url` is taken as it is, if it has `sha256`.

    Args:
        url: http or https.
        folder: made if missing.
        sha256: what the file must have, in hex; None takes any.

    Raises InputError for what the server or the network does wrong, and for a Python that cannot
    unpack it safely, OSError where the disk fails.
    """
    if not hasattr(tarfile, "data_filter"):
        raise InputError("this Python unpacks unsafely; update it to 3.10.12, 3.11.4 or later")
    import pooch  # takes a second, and few runs load anything
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    loader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)
    todo = (
        "check the network and the address, set data.url where the link has moved, data.sha256 to "
        "the file's if you know that it is right, and run the same command again"
    )
    with refusing(f"{url} was not loaded", todo, requests.RequestException, ValueError):
        known = sha256 and sha256.lower()
        # Absolute, as pooch would expand a ~.
        return Path(pooch.retrieve(url, known, path=folder.absolute(), downloader=loader))


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive (xz, gzip, bzip2 or none) into `folder`, which must be new.

    Only plain files and folders below `folder` are let through: the "data" filter of Python's
    tarfile sees to the paths, and before it links and devices are refused. After an error it is the
    caller's to remove `folder`.

    Raises InputError for what is no archive, is cut off, or holds what is not let through.
    """
    kinds = tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError
    what = f"{archive} cannot be unpacked as a tar archive"
    todo = "check the address that it is from, and that the disk has room"
    with refusing(what, todo, *kinds), tarfile.open(archive) as tar:
        for member in tar:
            if not (member.isfile() or member.isdir()):
                raise InputError(f"{archive} holds a link or a device ({member.name!r}); refused")
            tar.extract(member, folder, filter="data")
        # To its end: the checksums of a compressed file come last.
        while tar.fileobj.read(1 << 20):
            pass
