"""What the launchers of sweeps (joblib, submitit, Ray) do to a job's process, and how they end."""

import multiprocessing
import re
import traceback

from padim_lit.system.orphans import end_with_parent

PLUGIN = re.compile(r"^hydra_plugins\.hydra_(joblib|submitit|ray)_launcher\b")
#: The extra of pyproject.toml that brings a launcher of Hydra's.
EXTRAS = {"joblib": "joblib", "submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray"}


def allow_loaders() -> None:
    """Let this process start a loader's processes as any other process does.

    In joblib's workers Python's way to start a process is joblib's own, of which PyTorch's loaders
    know nothing. They end with the sweep that started them, too.
    """
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        end_with_parent()
        multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)


def error_line(error: BaseException) -> str | None:
    """Return one line for an error that came out of a launcher; None for any other error.

    A job catches what goes wrong in it (`experiment.run_job`), so this is about its process: it
    was killed, could not start, or the machines are not there.
    """
    frames = traceback.walk_tb(error.__traceback__)
    found = (PLUGIN.match(frame.f_globals.get("__name__", "")) for frame, _ in frames)
    engine = next((match[1] for match in found if match), None)
    if engine is None:
        return None
    return (
        f"the {engine} launcher ended early ({_summary(error)}); the same command again does "
        "the jobs that are missing"
    )


def _summary(error: BaseException) -> str:
    """Shorten a message to its first two lines and its last: SLURM's state, and a log's error."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    said = dict.fromkeys([*lines[:2], *lines[-1:]])
    return ": ".join([type(error).__name__, *said]).rstrip(".:")
