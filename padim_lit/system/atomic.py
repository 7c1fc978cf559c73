"""Write whole or not at all, and one writer at a time: the rules for all that this program writes.

**Names.** What is not finished lies directly beside its target, because a rename is atomic only
within one file system, under ``.padim_lit-RANDOM.tmp``: 16 hexadecimal digits, drawn anew for
every write, so that no two writers (threads, processes, containers, hosts) share a name.

**Disks.** A file is on the disk before its name is, and both are when the block ends: a power loss
leaves the old file or the new one. What is made again anyway need not wait for that.

**Locks.** Its writer holds an exclusive `flock` on it until it is renamed. The kernel gives the
lock back when the writer dies, however that happens; containers on one host see each other's. A
folder that is not finished lies beside such a file, under its name and ``.d``, and goes with it.

**Remnants.** `remove_remnants` looks at what lies directly in one folder and has such a name,
nothing else. It removes what nobody holds a day after its last change: over a share, and where
there is no `flock`, a living writer's lock may not be seen.

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

from padim_lit.errors import InputError, refusing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NAME = re.compile(r"\.padim_lit-[0-9a-f]{16}\.tmp")
_OLD = 24 * 3600.0  # seconds
_MARKER = Path(".hydra") / "padim_lit"


class HeldElsewhere(InputError):
    """Another run writes into the folder."""


#: Locks that this process holds. A forked child (a loader) would keep them beyond its parent's end.
_held: set[int] = set()


def _forget() -> None:
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def writing(path: Path) -> AbstractContextManager[None]:
    """Turn an OSError of the block into one line that names `path`.

    >>> with writing(Path("a.txt")):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    padim_lit.errors.InputError: a.txt cannot be written (No space left on device); choose a ...
    """
    todo = "choose a writable folder with enough space"
    if fcntl is None:  # Windows keeps what is open
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
    for pause in (0.01, 0.1, 1.0) if fcntl is None else ():
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
    with _beside(Path(beside)) as temporary:
        (folder := Path(f"{temporary}.d")).mkdir()
        yield folder


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A new file beside `path`, locked, and gone after the block."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".padim_lit-{secrets.token_hex(8)}.tmp"
        handle = lock(temporary, os.O_CREAT | os.O_EXCL)
        if fcntl is None:  # an open file cannot be renamed there
            release(handle)
            handle = None
        try:
            yield temporary
        finally:
            _remove(temporary)
            release(handle)


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
    listed = marker.exists()
    handle = hold(folder)
    if handle is None:
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
                if listed and not known:  # as a power loss may leave it
                    lost = f", or {marker}, which lists what is, is damaged"
                raise InputError(
                    f"{folder} holds {', '.join(there)}, not written by a run of padim_lit here"
                    f"{lost}; nothing was changed: give another hydra.run.dir, or move that away"
                )
            os.lseek(handle, 0, os.SEEK_END)
            os.write(handle, "".join(f"{name}\n" for name in new).encode())
            os.fsync(handle)
            _sync_folder(marker.parent)
        for path in [folder, *(folder / name for name in names)]:
            remove_remnants(path)
        yield
    finally:
        release(handle)


def hold(folder: Path) -> int | None:
    """What `lock` gives of a run's or sweep's folder, made if missing; raises as `writing`."""
    with writing(folder):
        (marker := folder / _MARKER).parent.mkdir(parents=True, exist_ok=True)
        return lock(marker, os.O_CREAT)


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
                    _remove_remnant(path)


def _remove_remnant(path: Path) -> None:
    if time.time() - path.stat().st_mtime < _OLD or (handle := lock(path)) is None:
        return
    if fcntl is None:  # an open file cannot be removed there
        release(handle)
        handle = None
    try:
        _remove(path)
    finally:
        release(handle)


def _remove(temporary: Path) -> None:
    shutil.rmtree(f"{temporary}.d", ignore_errors=True)
    temporary.unlink(missing_ok=True)


def lock(path: Path, flags: int = 0) -> int | None:
    """A locked descriptor of the file, opened with `flags`; None where somebody else holds it.

    It is held until `release` or the end of this process, however it ends; no child inherits it.
    Where locks do not work the descriptor comes without one.
    """
    while True:
        handle = os.open(path, os.O_RDWR | flags, 0o666)
        _held.add(handle)
        try:
            if fcntl is None:
                raise OSError
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if not isinstance(error, BlockingIOError):  # locks do not work here
                return handle
            release(handle)
            return None
        if os.fstat(handle).st_nlink:
            return handle
        release(handle)  # it was removed before it was locked


def release(handle: int | None) -> None:
    """Give back what `lock` gave."""
    if handle in _held:
        _held.discard(handle)
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)  # whatever copies a child just forked still has
        os.close(handle)


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
