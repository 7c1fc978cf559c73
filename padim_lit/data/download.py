"""One file over HTTP, by pooch: checked, and there only when complete."""

import hashlib
import logging
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from tqdm import tqdm

from padim_lit.errors import InputError
from padim_lit.version import __version__

TIMEOUT = 60.0  # seconds without a byte


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
    if problem := _problem(folder, response):
        response.close()
        raise InputError(problem)


def _problem(folder: Path, response: Any) -> str | None:
    url, headers = response.url, response.headers
    if response.is_redirect:
        target = urljoin(url, headers["Location"])
        if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
            return f"{url} redirects to {target}, without encryption; refused"
    elif response.ok and "html" in headers.get("Content-Type", ""):
        return (
            f"{url} answers with a web page, not an archive; the link has probably moved; "
            "set data.url to the present one"
        )
    # Twice, because images hardly compress: what comes out is as large again.
    needed, free = 2 * int(headers.get("Content-Length", 0)), shutil.disk_usage(folder).free
    if free >= needed:
        return None
    return (
        f"{folder.parent} has {free / 1e9:.1f} GB free, but the archive and its images need "
        f"{needed / 1e9:.1f} GB; free some or set data.root to another disk"
    )


def _innermost(error: BaseException) -> str:
    """The system's word for it, without the layers of libraries around."""
    while error.__context__ is not None:
        error = error.__context__
    return getattr(error, "strerror", None) or " ".join(str(error).split())
