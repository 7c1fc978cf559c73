"""Nothing half-written under its own name, nobody else's file touched, one run a folder."""

import errno
import fcntl
import gc
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from _helpers import windows

from padim_lit.errors import InputError
from padim_lit.system import atomic
from padim_lit.system.atomic import (
    HeldElsewhere,
    atomically,
    hold,
    private_folder,
    remove_remnants,
    run_folder,
    write_bytes,
)


@pytest.fixture
def writer():
    """Starts a process that is in the middle of writing `target`; it is killed at the end."""
    started = []

    def start(how: str, target: Path) -> int:
        ready, done = os.pipe()
        process = os.fork()
        if process == 0:
            held = _writing(how, target)
            next(held)
            if os.fork():  # the parent of one that lives on without locks, as loaders do
                os.write(done, b".")
            time.sleep(20)
            os._exit(0)
        started.append(process)
        assert os.read(ready, 1) == b"."
        return process

    yield start
    for process in started:
        kill(process)


def _writing(how: str, target: Path) -> Iterator[None]:
    if how == "run":
        with run_folder(target, ["a"]):
            yield
    elif how == "folder":
        with private_folder(target) as folder:
            (folder / "part").write_bytes(b"part")
            yield
    else:
        with atomically(target) as temporary:
            temporary.write_bytes(b"part")
            yield


def kill(process: int) -> None:
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        time.sleep(0.2)  # its child, just forked, may not have let go of the locks yet


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("how", ["file", "folder"])
def test_what_a_killed_writer_left_goes_after_a_day(tmp_path, writer, how):
    process = writer(how, tmp_path / "a.bin")
    (name,) = names(tmp_path)
    assert re.fullmatch(r"\.padim_lit-[0-9a-f]{16}\.tmp", name)

    def left_after(hours: int) -> list[str]:
        then = time.time() - 3600 * hours
        os.utime(tmp_path / name, (then, then))
        remove_remnants(tmp_path)
        return names(tmp_path)

    assert left_after(23) == [name]  # perhaps of a living writer
    kill(process)
    assert left_after(23) == [name]
    assert left_after(25) == []


def test_windows_removes_an_old_remnant_though_it_keeps_open_files(tmp_path, monkeypatch):
    windows.keep_open_files(monkeypatch)
    for name in (f".padim_lit-{'1' * 16}.tmp", "kept"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    with run_folder(tmp_path, ["a"]):
        write_bytes(tmp_path / "a", b"new")
    assert names(tmp_path) == [".hydra", "a", "kept"]


def test_what_a_scanner_has_open_for_a_moment_is_replaced(tmp_path, monkeypatch):
    windows.keep_open_files(monkeypatch)
    target = write_bytes(tmp_path / "a.csv", b"old")
    scanner = target.open("rb")
    monkeypatch.setattr(time, "sleep", lambda _: scanner.close())
    assert write_bytes(target, b"new").read_bytes() == b"new"
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with target.open("rb"), pytest.raises(InputError, match="close it where it is open, or"):
        write_bytes(target, b"newer")
    assert names(tmp_path) == ["a.csv"] and target.read_bytes() == b"new"


def test_no_file_of_a_users_is_a_remnant(tmp_path):
    """Names that an earlier rule took for its own, a link, and what lies deeper."""
    kept = [
        ".photos.2023.tmp/a.png", "sub/deep/.backup.40000.tmp/a", ".model.ckpt.1.tmp",
        ".export.99999.abc.tmp/a", "model.ckpt.part", ".padim_lit-notes.tmp",
        f"sub/.padim_lit-{'1' * 16}.tmp", f".padim_lit-{'1' * 16}.tmp.bak",
    ]  # fmt: skip
    old = time.time() - 10 * 24 * 3600
    for name in kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
        os.utime(tmp_path / name, (old, old))
    (tmp_path / f".padim_lit-{'2' * 16}.tmp").symlink_to(tmp_path / "sub")
    before = sorted(tmp_path.rglob("*"))
    remove_remnants(tmp_path)
    with run_folder(tmp_path, ["model.ckpt"]):
        write_bytes(tmp_path / "model.ckpt", b"")
    left = set(tmp_path.rglob("*")) - {tmp_path / "model.ckpt"}
    assert sorted(p for p in left if ".hydra" not in p.parts) == before


def test_writers_of_one_file_at_once_leave_one_of_theirs(tmp_path):
    target = tmp_path / "a.bin"

    def write(n: int) -> None:
        write_bytes(target, bytes([n]) * 100_000)
        remove_remnants(tmp_path)
        found = target.read_bytes()
        assert len(found) == 100_000 and len(set(found)) == 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(200)))
    assert names(tmp_path) == ["a.bin"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    target = write_bytes(tmp_path / "a", b"old")
    with pytest.raises(ZeroDivisionError), atomically(target) as temporary:
        temporary.write_bytes(b"new")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), private_folder(target) as folder:
        (folder / "part").write_bytes(b"new")
        raise ZeroDivisionError
    assert names(tmp_path) == ["a"] and target.read_bytes() == b"old"


def test_a_file_is_on_the_disk_before_its_name_and_the_name_at_the_end(tmp_path, monkeypatch):
    happened, sync, replace = [], os.fsync, Path.replace

    def synced(handle):
        there = Path(f"/proc/self/fd/{getattr(handle, 'fileno', lambda: handle)()}").readlink()
        happened.append("folder" if there == tmp_path else there.suffix)
        sync(handle)

    def replaced(*paths):
        happened.append("name")
        return replace(*paths)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_bytes(tmp_path / "a", b"new")
    assert happened == [".tmp", "name", "folder"]
    write_bytes(tmp_path / "a", b"newer", lasting=False)
    assert happened[3:] == ["name"] and (tmp_path / "a").read_bytes() == b"newer"


def test_where_a_folder_cannot_be_synced_the_file_is_written(tmp_path, monkeypatch):
    real = os.open

    def refuses(path, *more, **how):
        if Path(path).is_dir():
            raise PermissionError(13, "Access is denied")  # Windows
        return real(path, *more, **how)

    monkeypatch.setattr(os, "open", refuses)
    assert write_bytes(tmp_path / "a", b"new").read_bytes() == b"new"


def test_long_names_can_be_written(tmp_path):
    assert write_bytes(tmp_path / ("x" * 255), b"a").read_bytes() == b"a"


# --- run folders -------------------------------------------------------------------------------


def test_a_folder_takes_one_run_at_a_time(tmp_path, writer):
    process = writer("run", tmp_path)
    with (
        pytest.raises(InputError, match="another run is writing into it"),
        run_folder(tmp_path, []),
    ):
        pass
    kill(process)
    with run_folder(tmp_path, []):
        pass


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EIO])
def test_where_locks_do_not_work_a_run_goes_on_without(tmp_path, writer, monkeypatch, code):
    def none(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", none)
    kill(writer("run", tmp_path))  # what it leaves is no lock of its own
    with run_folder(tmp_path, []), run_folder(tmp_path, []):
        pass


def test_a_child_leaves_its_parents_locks(tmp_path):
    """Loaders are forked, and end before the run does."""
    with run_folder(tmp_path, []):
        if (process := os.fork()) == 0:
            with suppress(BaseException):
                gc.collect()
                for held in atomic._held:
                    held.release(force=True)
            os._exit(0)
        os.waitpid(process, 0)
        with pytest.raises(HeldElsewhere), run_folder(tmp_path, []):
            pass


def test_threads_of_one_process_share_no_folder(tmp_path):
    def another() -> None:
        with run_folder(tmp_path, []):
            pass

    with run_folder(tmp_path, []), ThreadPoolExecutor(1) as pool, pytest.raises(HeldElsewhere):
        pool.submit(another).result()
    another()


def test_what_nobody_releases_is_held_to_the_end(tmp_path):
    assert hold(tmp_path)
    gc.collect()
    assert hold(tmp_path) is None


def test_a_lock_whose_file_cannot_be_made_is_none(tmp_path):
    (tmp_path / ".hydra/padim_lit.lock").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be written"), run_folder(tmp_path, []):
        pass


def test_a_run_does_not_touch_what_no_run_has_made(tmp_path):
    (tmp_path / "heatmaps").mkdir()
    with (
        pytest.raises(InputError, match="holds heatmaps, not written by a run"),
        run_folder(tmp_path, ["metrics.json", "heatmaps"]),
    ):
        pass
    shutil.rmtree(tmp_path / "heatmaps")
    with run_folder(tmp_path, ["metrics.json", "heatmaps"]):
        (tmp_path / "heatmaps").mkdir()
    with run_folder(tmp_path, ["metrics.json", "heatmaps"]):  # its own
        pass
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(InputError, match=r"model\.ckpt"), run_folder(tmp_path, ["model.ckpt"]):
        pass


@pytest.mark.parametrize("content", [b"", bytes(9)])
def test_a_list_that_a_power_loss_has_emptied_is_named(tmp_path, content):
    with run_folder(tmp_path, ["a"]):
        (tmp_path / "a").touch()
    (marker := tmp_path / ".hydra/padim_lit").write_bytes(content)
    with pytest.raises(InputError) as error, run_folder(tmp_path, ["a"]):
        pass
    assert f"holds a, not written by a run of padim_lit here, or {marker}, which" in str(
        error.value
    )
    assert "is damaged; nothing was changed: give another hydra.run.dir" in str(error.value)
    (tmp_path / "a").unlink()
    for _ in range(2):
        with run_folder(tmp_path, ["a"]):
            (tmp_path / "a").touch()
