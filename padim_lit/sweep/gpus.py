"""One GPU for each process of a sweep: the first that no other process of this user holds."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from padim_lit.errors import InputError

try:
    from fcntl import LOCK_EX, LOCK_NB, lockf
except ImportError:  # Windows
    lockf = None

#: The locks that this process holds until it ends, by the index of their GPU.
_HELD: dict[int, IO] = {}


def visible(count: int, environment: Mapping[str, str] = os.environ) -> list[str]:
    """What to call the `count` GPUs that this process sees, so that all processes agree."""
    names = [n.strip() for n in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if n.strip()]
    return names if len(names) == count else [str(index) for index in range(count)]


def claim(names: Sequence[str], folder: Path | None = None) -> int:
    """The index of a GPU that is this process's own until it ends, however it ends.

    Each GPU has a file whose lock the kernel gives back with the process. A process that asks
    again gets the same one. Without file locks (Windows) the first serves all.

    Args:
        names: of the GPUs, equal in all processes.
        folder: of the lock files, on this machine's own disk; None: in the temporary folder.

    Raises:
        InputError: other processes hold them all.
    """
    if _HELD:
        return next(iter(_HELD))
    if lockf is None:
        return 0
    folder = folder or Path(tempfile.gettempdir()) / f"padim_lit-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for index, name in enumerate(names):
        # POSIX's locks, which a loader's process does not inherit.
        file = (folder / f"{name.replace('/', '-')}.lock").open("w")
        try:
            lockf(file, LOCK_EX | LOCK_NB)
        except OSError:
            file.close()
        else:
            _HELD[index] = file
            return index
    raise InputError(
        f"all {len(names)} GPUs ({', '.join(names)}) are held by other jobs; run at most "
        f"{len(names)} at once (hydra.launcher.n_jobs={len(names)}), or share one with "
        "trainer.devices=[0]"
    )
