"""Write a file whole or not at all."""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from padim_lit.errors import InputError


def write_bytes(path: str | os.PathLike, content: bytes) -> Path:
    """Write ``content`` to a temporary file beside ``path`` and rename it into place.

    Missing parent folders are made. A reader sees the old file or the new one, never a part, and
    a failed write leaves the old file as it was.

    Raises:
        InputError: the folder or the file cannot be written.
    """
    path = Path(path)
    # Beside the target, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); "
            "choose a writable folder with enough space"
        ) from error
    return path


def remove_remnants(folder: Path) -> None:
    """Remove what killed writers left below `folder`; those that still run keep theirs."""
    for path in list(folder.rglob(".*.tmp")):
        # .NAME.PID.tmp, or the folder .export.PID.RANDOM.tmp
        pid = next((part for part in path.name.split(".")[-3:-1] if part.isdigit()), None)
        if pid is None or _runs(int(pid)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Write ``text`` as UTF-8, line ends as given; raises as ``write_bytes`` does."""
    # A file name on disk need not be valid UTF-8; Python carries its odd bytes as surrogates.
    return write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: str | os.PathLike, content: Any) -> Path:
    """Write ``content`` as strict JSON with two spaces of indent; ``None`` becomes ``null``.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold.
        InputError: as ``write_bytes``.
    """
    return write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(
    path: str | os.PathLike, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> Path:
    """Write ``rows`` under a header of ``columns``; floats round-trip, missing and None are empty.

    Raises:
        ValueError: a row has a key that is not in ``columns``.
        InputError: as ``write_bytes``.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_text(path, text.getvalue())
