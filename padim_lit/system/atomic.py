"""Write whole or not at all, and one writer at a time: the rules for all that this program writes.

**Names.** What is not finished lies directly beside its target, because a rename is atomic only
within one file system, under ``.padim_lit-RANDOM.tmp``: 16 hexadecimal digits, drawn anew for
every write, so that no two writers (threads, processes, containers, hosts) share a name.

**Disks.** A file is on the disk before its name is, and both are when the block ends: a power loss
leaves the old file or the new one. What is made again anyway need not wait for that.

**Remnants.** `remove_remnants` looks at what lies directly in one folder and has such a name,
nothing else. It removes it a day after its last change: no writer leaves it alone as long.

**Locks.** They are of files that hold nothing, and stay. The system gives a lock back when its
process dies, however that happens; containers on one host see each other's.

**Runs.** `run_folder` holds a folder for as long as a run writes into it, and keeps in
``.hydra/padim_lit`` which names in it are runs' own: no run touches a file that is not on the list.
"""

import csv
import io
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from padim_lit.errors import InputError, refusing

_WINDOWS = os.name == "nt"
_NAME = re.compile(r"\.padim_lit-[0-9a-f]{16}\.tmp")
_OLD = 24 * 3600.0  # seconds
_MARKER = Path(".hydra") / "padim_lit"
_LOCK = Path(".hydra") / "padim_lit.lock"

#: Locks that this process holds: one goes with the last reference to it.
_held: list[FileLock] = []


class HeldElsewhere(InputError):
    """Another run writes into the folder."""


def writing(path: Path) -> AbstractContextManager[None]:
    """Turn an OSError of the block into one line that names `path`.

    >>> with writing(Path("a.txt")):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    padim_lit.errors.InputError: a.txt cannot be written (No space left on device); choose a ...
    """
    todo = "choose a writable folder with enough space"
    if _WINDOWS:  # which keeps what is open
        todo = f"close it where it is open, or {todo}"
    return refusing(f"{path} cannot be written", todo, OSError)


@contextmanager
def atomically(path: str | os.PathLike, lasting: bool = True) -> Iterator[Path]:
    """A temporary file beside ``path`` to write to, renamed to ``path`` at the end of the block.

    Missing parent folders are made. A reader sees the old file or the new one, never a part. After
    an error in the block the old file is as it was, and the temporary one is gone. Without
    `lasting` nobody waits for the disk, and after a power loss the file may be empty.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "new" / "a.txt"
    >>> with atomically(target) as temporary:
    ...     _ = temporary.write_text("whole")
    ...     print(target.exists())
    False
    >>> target.read_text(), len(list(target.parent.iterdir()))
    ('whole', 1)

    Raises:
        InputError: the folder or the file cannot be written.
    """
    with _beside(Path(path)) as temporary:
        yield temporary
        put(temporary, Path(path), lasting)


def put(temporary: Path, path: Path, lasting: bool = True) -> None:
    """Rename a file, over one that is there; `lasting` as in `atomically`."""
    if lasting:
        with temporary.open("rb+") as file:
            os.fsync(file)
    _rename(temporary, path)
    if lasting:
        _sync_folder(path.parent)


def _rename(temporary: Path, path: Path) -> None:
    # Windows refuses that while any program has either open, as scanners have for milliseconds.
    for pause in (0.01, 0.1, 1.0) if _WINDOWS else ():
        with suppress(PermissionError):
            temporary.replace(path)
            return
        time.sleep(pause)
    temporary.replace(path)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # Windows opens none, some network folders sync none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def private_folder(beside: str | os.PathLike) -> Iterator[Path]:
    """A new folder beside the file ``beside``, made with its parents and gone after the block.

    For files that must be read under their own names before they are moved into place.

    Raises:
        InputError: it cannot be made or written.
    """
    remove_remnants(Path(beside).parent)
    with _beside(Path(beside)) as folder:
        folder.mkdir()
        yield folder


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A name beside `path` for a file or folder, which is gone after the block."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".padim_lit-{secrets.token_hex(8)}.tmp"
        try:
            yield temporary
        finally:
            _remove(temporary)


@contextmanager
def run_folder(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Hold ``folder`` while one run writes ``names`` (files and folders directly in it).

    Remnants of killed runs are removed, from it and from the folders among ``names``.

    Raises:
        HeldElsewhere: another run holds it.
        InputError: something is there under one of the names that no run has made; the folder
            cannot be written.
    """
    marker = folder / _MARKER
    if (held := hold(folder)) is None:
        raise HeldElsewhere(
            f"{folder}: another run is writing into it; wait for its end, or give another "
            "hydra.run.dir (with -m: hydra.sweep.dir)"
        )
    try:
        with writing(folder):
            known = written_by_runs(folder)
            new = [name for name in names if name not in known]
            if there := [name for name in new if os.path.lexists(folder / name)]:
                lost = ""
                if marker.exists() and not known:  # as a power loss may leave it
                    lost = f", or {marker}, which lists what is, is damaged"
                raise InputError(
                    f"{folder} holds {', '.join(there)}, not written by a run of padim_lit here"
                    f"{lost}; nothing was changed: give another hydra.run.dir, or move that away"
                )
            with marker.open("ab", buffering=0) as file:
                file.write("".join(f"{name}\n" for name in new).encode())
                os.fsync(file)
            _sync_folder(marker.parent)
        for path in [folder, *(folder / name for name in names)]:
            remove_remnants(path)
        yield
    finally:
        with suppress(OSError):
            held.release()
        _held.remove(held)


def hold(folder: Path) -> FileLock | None:
    """What `lock` gives of a run's or sweep's folder, made if missing; raises as `writing`."""
    with writing(folder):
        (file := folder / _LOCK).parent.mkdir(parents=True, exist_ok=True)
        return lock(file)


def written_by_runs(folder: Path) -> set[str]:
    """Return the names in ``folder`` that runs wrote, or may write; see `run_folder`."""
    try:
        # A power loss can leave zeros.
        return set((folder / _MARKER).read_text("utf-8").replace("\0", "").splitlines())
    except (OSError, UnicodeDecodeError):
        return set()


def remove_remnants(folder: Path) -> None:
    """Remove what killed writers left directly in ``folder``; the module says what that is."""
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if _NAME.fullmatch(path.name) and not path.is_symlink():
                with suppress(OSError):
                    if time.time() - path.stat().st_mtime > _OLD:
                        _remove(path)


def _remove(temporary: Path) -> None:
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)


def lock(path: Path) -> FileLock | None:
    """The lock of the file, which is made if missing; None where somebody else holds it.

    It is held until its release or the end of this process, however it ends; no child inherits it.
    Where locks do not work it comes without being held.

    Raises:
        OSError: the file cannot be made or written.
    """
    path.open("ab").close()  # else its OSError would be taken for one of the lock
    # A soft lock would outlive a killed process; of a file that goes two could hold one each.
    found = FileLock(path, thread_local=False, fallback_to_soft=False, preserve_lock_file=True)
    try:
        found.acquire(blocking=False)
    except Timeout:
        return None
    except OSError:  # locks do not work here
        pass
    _held.append(found)
    return found


def write_bytes(path: str | os.PathLike, content: bytes, lasting: bool = True) -> Path:
    """Write ``content`` with `atomically`; raises as that does."""
    with atomically(path, lasting) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def file_bytes(save: Callable[..., Any], /, *args: Any, **how: Any) -> bytes:
    """What ``save(file, ...)`` writes into an open file.

    >>> file_bytes(lambda file, text: file.write(text), b"whole")
    b'whole'
    """
    file = io.BytesIO()
    save(file, *args, **how)
    return file.getvalue()


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Write ``text`` as UTF-8, line ends as given; raises as ``write_bytes`` does."""
    # A file name on disk need not be valid UTF-8; Python carries its odd bytes as surrogates. One
    # such name must not make all of a table unreadable: é in Latin-1 becomes \udce9.
    return write_bytes(path, text.encode("utf-8", "backslashreplace"))


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
    """Write `csv_text`.

    >>> import tempfile
    >>> path = write_csv(Path(tempfile.mkdtemp()) / "a.csv", ["x", "y"], [{"x": 0.1}, {"y": None}])
    >>> path.read_text()
    'x,y\\n0.1,\\n,\\n'

    Raises:
        ValueError: a row has a key that is not in ``columns``.
        InputError: as ``write_bytes``.
    """
    return write_text(path, csv_text(columns, rows))


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """``rows`` under a header of ``columns``; floats round-trip, missing and None are empty.

    Text that a spreadsheet would compute comes as `harmless` has it.

    >>> csv_text(["path", "score"], [{"path": "=a.png", "score": 0.1}])
    'path,score\\n./=a.png,0.1\\n'

    Raises:
        ValueError: a row has a key that is not in ``columns``.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: harmless(v, path=k == "path") for k, v in row.items()} for row in rows)
    return text.getvalue()


def harmless(cell: Any, path: bool = False) -> Any:
    """The cell of a table as no spreadsheet takes for a formula: ``=``, ``+``, ``-``, ``@`` lead.

    A path gets ``./`` in front and means the same file, other text ``'``; numbers and signs stay.

    >>> harmless("=cmd.png", path=True), harmless("@crack"), harmless("-0.5"), harmless(-0.5)
    ('./=cmd.png', "'@crack", '-0.5', -0.5)
    """
    if not isinstance(cell, str) or len(cell) < 2 or cell[0] not in "=+-@\t\r":
        return cell
    if path:
        return f"./{cell}"
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
