"""What a job of a sweep leaves to say that it is done, or why it failed."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from padim_lit.analysis.result_files import DONE, FAILED, SWEEP, sweep_of
from padim_lit.errors import InputError
from padim_lit.system.atomic import hold, run_folder, write_json, write_text
from padim_lit.version import __version__

#: Keys that say how a result is computed and not which: they change no folder and no result.
RESULT_NEUTRAL_KEYS = (
    "num_workers",
    "picture_cache",
    "max_memory_gb",
    "watch_idle",
    "watch_settle",
)

#: Folders that trackers make in a run's own.
TRACKERS = ("wandb", "mlflow", "tensorboard")


def describe(
    keys: Mapping[str, Any], without: Sequence[str] = (), content: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return all that a job's result depends on: its keys, the version, and the files' content.

    `RESULT_NEUTRAL_KEYS` are left out.

    Args:
        keys: the job's config, plain.
        without: further keys to leave out.
        content: digests of what lies in the files that the config names.
    """
    keys = {k: v for k, v in keys.items() if k not in (*RESULT_NEUTRAL_KEYS, *without)}
    # As text, because JSON has no NaN.
    return {
        "version/padim_lit": __version__,
        "config": yaml.safe_dump(keys, allow_unicode=True).splitlines(),
        "content": dict(content or {}),
    }


def is_done(folder: Path, result: str, job: dict[str, Any]) -> bool:
    """Whether `folder` holds the complete `result` (a file's name) of just this `job`."""
    if not (folder / result).exists() or (folder / FAILED).exists():
        return False
    try:
        return json.loads((folder / DONE).read_text(encoding="utf-8")) == job
    except (OSError, ValueError, RecursionError):
        return False


def begin_sweep(folder: Path, name: str) -> None:
    """Note which sweep `folder` belongs to; jobs of another sweep in it do not count.

    The folder is held until this process ends.

    Raises:
        InputError: another sweep is running there.
    """
    if hold(folder) is None and sweep_of(folder) != name:
        raise InputError(
            f"another sweep is running in {folder}; wait for its end, or give another "
            "hydra.sweep.dir"
        )
    write_text(folder / SWEEP, name)


def join_sweep(folder: Path, job: Path) -> None:
    """Add the folder `job` to the sweep in `folder`."""
    if (name := sweep_of(folder)) is not None:
        write_text(job / SWEEP, name)


def begin(folder: Path, result: str) -> None:
    """Remove the files that would make a running or killed job look finished.

    Files of trackers go, too: if they were sent beside the new run's, the job would count twice.
    """
    for name in (DONE, FAILED, result):
        (folder / name).unlink(missing_ok=True)
    for name in TRACKERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def finish(folder: Path, job: dict[str, Any]) -> None:
    write_json(folder / DONE, job)


def fail(folder: Path, reason: str) -> None:
    with run_folder(folder, [FAILED]):
        write_json(folder / FAILED, {"error": reason})
