"""One file over HTTP: resumed where it stopped, checked, and there only when complete.

Python's urllib does the transfer: what is needed is one GET with a Range header, and it comes with
proxies, redirects and certificates.
"""

import contextlib
import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from padim_lit.errors import InputError
from padim_lit.version import __version__

TIMEOUT = 60.0  # seconds without a byte
_CHUNK = 1 << 20
_RESUME = "run the same command again, which goes on where it stopped"


@dataclass(frozen=True)
class _Begun:
    """What is known about a file that is being loaded, or has been; lies beside it as JSON."""

    url: str
    validator: str | None  # a strong ETag, else Last-Modified: what If-Range takes
    total: int | None  # bytes


def fetch(url: str, target: Path, sha256: str | None = None, timeout: float = TIMEOUT) -> str:
    """Load `url` into `target`, which appears whole or not at all; returns its sha256 in hex.

    The bytes gather in TARGET.part. A later call goes on from there with Range and If-Range, and
    starts anew where the server gives another file, no part of one, or nothing to tell by (no ETag,
    no Last-Modified) while `sha256` is not known either. A TARGET of an earlier call with the same
    `url` is taken as it is. `discard` removes it and what lies beside it.

    Args:
        url: http or https.
        target: where the file is to lie; its folder must exist.
        sha256: what the file must have; None takes any.
        timeout: seconds that the server may be silent.

    Raises InputError for every way in which this fails, on one line, and for a `target` that is
    something else. Where the bytes are wrong (checksum) they are removed; where they are too few
    they stay, to go on from.
    """
    part, begun = _part(target), _read_begun(target)
    ours = begun is not None and begun.url == url
    if target.exists():
        if not (ours and target.is_file()):
            raise InputError(f"{target} is in the way of {url}; move it elsewhere")
        return _checked(url, target, target, sha256)
    known = ours and (begun.validator or sha256)
    have = part.stat().st_size if known and part.is_file() else 0
    if not (known and have and have == begun.total):
        try:
            _transfer(url, target, begun if have else None, have, timeout)
        except OSError as error:  # urllib's URLError and HTTPError are OSErrors too
            raise InputError(_reason(url, part, error, timeout)) from error
        except http.client.HTTPException as error:
            raise InputError(_cut(url, part, None)) from error
    found = _checked(url, part, target, sha256)
    part.replace(target)
    return found


def discard(target: Path) -> None:
    """Remove what `fetch` left of `target`."""
    for path in (target, _part(target), _beside(target)):
        path.unlink(missing_ok=True)


def digest(path: Path) -> str:
    """sha256 of a file in hex."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()


def _checked(url: str, file: Path, target: Path, sha256: str | None) -> str:
    found = digest(file)
    if sha256 is not None and found != sha256.lower():
        discard(target)
        raise InputError(
            f"{url} has sha256 {found}, but {sha256.lower()} is expected; the file was removed; "
            "try again, or set data.sha256 to the new one if you know that it is right"
        )
    return found


def _transfer(url: str, target: Path, begun: _Begun | None, have: int, timeout: float) -> None:
    """Bring the .part to its full length, from `have` bytes where the server allows it."""
    part = _part(target)
    headers = {"User-Agent": f"padim_lit/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if begun.validator:
            headers["If-Range"] = begun.validator
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.build_opener(_NoDowngrade).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if have and error.code == 416:  # the file is shorter now than what is here: start anew
            return _transfer(url, target, None, 0, timeout)
        raise
    with response:
        if "html" in response.headers.get_content_type():
            raise InputError(
                f"{url} answers with a web page, not an archive; the link has probably moved; "
                "set data.url to the present one"
            )
        total = _total(response, have)
        resumes = bool(have) and response.status == 206
        if resumes and (total is None or total != begun.total):
            return _transfer(url, target, None, 0, timeout)
        have = have if resumes else 0
        _require_space(part, total, have)
        now = _Begun(url, _validator(response), total)
        _beside(target).write_text(json.dumps(asdict(now)))
        with _bar(url, have, total) as advance, part.open("ab" if resumes else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                advance(len(chunk))
    if total is not None and have != total:
        raise InputError(_cut(url, part, total))
    return None


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            fp.close()
            raise InputError(f"{req.full_url} redirects to {newurl}, without encryption; refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _total(response: http.client.HTTPResponse, have: int) -> int | None:
    """Bytes of the whole file, or None where the server does not say or gives another part."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        return int(match[2]) if match and int(match[1]) == have else None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _validator(response: http.client.HTTPResponse) -> str | None:
    tag = response.headers.get("ETag")
    # A weak tag says that two files mean the same, not that their bytes are the same.
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _require_space(part: Path, total: int | None, have: int) -> None:
    """Room for the rest of the archive and for what comes out of it, as images hardly compress."""
    if total is None:
        return
    free, needed = shutil.disk_usage(part.parent).free, (total - have) + total
    if free < needed:
        raise InputError(
            f"{part.parent} has {free / 1e9:.1f} GB free, but the archive and its images need "
            f"{needed / 1e9:.1f} GB; free some or set data.root to another disk"
        )


@contextlib.contextmanager
def _bar(url: str, have: int, total: int | None):
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(Path(urlsplit(url).path).name, total=total, completed=have)
        advance: Callable[[int], None] = lambda count: bar.advance(task, count)  # noqa: E731
        yield advance


def _reason(url: str, part: Path, error: OSError, timeout: float) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return (
            f"{url} answers {error.code} {error.reason}; the link may have moved; set data.url to "
            "the present one"
        )
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"{url}: no answer within {timeout:g} s; check the network; {_RESUME}"
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {part.parent} is full; free some space; {_RESUME}"
    if isinstance(error, urllib.error.URLError):
        what = getattr(cause, "strerror", None) or " ".join(str(cause).split())
        return f"{url} cannot be reached ({what}); check the address and the network"
    if error.filename is not None:
        return f"{error.filename} cannot be written ({error.strerror}); set data.root to another"
    return _cut(url, part, None)


def _cut(url: str, part: Path, total: int | None) -> str:
    have = part.stat().st_size if part.is_file() else 0
    of = f" of {total}" if total is not None else ""
    return f"{url} broke off after {have}{of} bytes; {_RESUME}"


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _beside(target: Path) -> Path:
    return target.with_name(f"{target.name}.part.json")


def _read_begun(target: Path) -> _Begun | None:
    try:
        return _Begun(**json.loads(_beside(target).read_text()))
    except (OSError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def alone(lock: Path):
    """Only one process at a time gets past this; the others wait. Does nothing without fcntl."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # Some network folders know no locks; two downloads at once are rare enough there.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
