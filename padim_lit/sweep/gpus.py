"""One GPU for each process of a sweep: the first that no other process of this user holds."""

import os
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from padim_lit.errors import InputError
from padim_lit.system.atomic import lock


def visible(count: int, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Name the `count` GPUs that this process sees, so that all processes use the same names."""
    names = [n.strip() for n in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if n.strip()]
    return tuple(names if len(names) == count else map(str, range(count)))


@cache
def claim(names: tuple[str, ...], folder: Path | None = None) -> int:
    """Return the index of a GPU that stays this process's own until the process ends.

    Each GPU has a file whose lock the system gives back with the process. A process that asks
    again gets the same one. Where locks do not work the first serves all.

    Args:
        names: of the GPUs, equal in all processes.
        folder: of the lock files, on this machine's own disk; None: in the temporary folder.

    Raises:
        InputError: other processes hold them all.
    """
    user = os.getuid() if hasattr(os, "getuid") else "0"  # Windows: a folder for each user anyway
    folder = folder or Path(tempfile.gettempdir()) / f"padim_lit-gpus-{user}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for index, name in enumerate(names):
        if lock(folder / f"{name.replace('/', '-')}.lock") is not None:
            return index
    raise InputError(
        f"all {len(names)} GPUs ({', '.join(names)}) are held by other jobs; run at most "
        f"{len(names)} at once (hydra.launcher.n_jobs={len(names)}), or share one with "
        "trainer.devices=[0]"
    )
