"""What a job of a sweep leaves to say that it is done, or why it failed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from padim_lit.analysis.result_files import DONE, FAILED
from padim_lit.sweep.folders import RESULT_NEUTRAL_KEYS
from padim_lit.system.atomic import write_json
from padim_lit.version import __version__


def describe(config: DictConfig, without: Sequence[str] = ()) -> dict[str, Any]:
    """All that a job's result depends on: the resolved config, and the version.

    `RESULT_NEUTRAL_KEYS` are left out.

    Args:
        config: the job's.
        without: further keys to leave out.

    Raises:
        OmegaConfBaseException: the config refers to what is not set.
    """
    keys = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    for key in (*RESULT_NEUTRAL_KEYS, *without):
        keys.pop(key, None)
    if isinstance(keys.get("logger"), dict):
        keys["logger"].pop("save_dir", None)  # the folder itself, which may have been moved
    # As text, because JSON has no NaN.
    return {
        "version/padim_lit": __version__,
        "config": yaml.safe_dump(keys, allow_unicode=True).splitlines(),
    }


def is_done(folder: Path, result: str, job: dict[str, Any]) -> bool:
    """Whether `folder` holds the complete `result` (a file's name) of just this `job`."""
    if not (folder / result).exists() or (folder / FAILED).exists():
        return False
    try:
        return json.loads((folder / DONE).read_text(encoding="utf-8")) == job
    except (OSError, ValueError):
        return False


def begin(folder: Path, result: str) -> None:
    """Take away what would make the job look finished while it runs, or after it was killed."""
    for name in (DONE, FAILED, result):
        (folder / name).unlink(missing_ok=True)


def finish(folder: Path, job: dict[str, Any]) -> None:
    write_json(folder / DONE, job)


def fail(folder: Path, reason: str) -> None:
    write_json(folder / FAILED, {"error": reason})
