"""Which versions and which device a result was made with."""

import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from padim_lit.system.clock import now
from padim_lit.version import __version__

PACKAGES = ("torch", "torchvision", "lightning", "timm", "torchmetrics", "numpy", "pillow")


def device_name(device: torch.device) -> str:
    """Return a GPU's name, or the CPU's kind and how many of its threads are used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads, {platform.machine()}"


def made_with(device: torch.device) -> dict[str, str]:
    """Return what every result says of its making: ``device``, and `versions`.

    >>> list(made_with(torch.device("cpu")))[:3]
    ['device', 'version/padim_lit', 'version/python']
    """
    return {"device": device_name(device), **versions()}


def written_with(device: torch.device | None = None) -> dict[str, str]:
    """Return when a result is written, in UTC, and with what; None: no device took part.

    >>> list(written_with())[:2]
    ['written', 'version/padim_lit']
    """
    return {"written": now(), **(versions() if device is None else made_with(device))}


def versions() -> dict[str, str]:
    """Return ``version/NAME`` of padim_lit, Python and `PACKAGES`, and of the `commit` if known."""
    found = {"padim_lit": __version__, "python": platform.python_version()}
    found |= {"commit": known} if (known := commit()) else {}
    found |= {name: metadata.version(name) for name in PACKAGES}
    return {f"version/{name}": version for name, version in found.items()}


@cache
def commit(root: Path = Path(__file__).parents[2]) -> str | None:
    """Return the git commit of `root`, with "+changes" if its files differ; None: no repository.

    That of the first call counts: files may change while a process runs what it read before.
    """
    if not (root / ".git").exists():  # or it could be that of a folder around site-packages
        return None
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*words: str) -> str:
        known = ["git", "--no-optional-locks", f"--git-dir={root / '.git'}", f"--work-tree={root}"]
        how: dict[str, Any] = {"capture_output": True, "timeout": 5, "check": True, "env": own}
        return subprocess.run([*known, *words], cwd=root, text=True, **how).stdout.strip()

    with suppress(OSError, subprocess.SubprocessError):
        if git("ls-files", "padim_lit/version.py"):  # else the repository is somebody else's
            return git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes")
    return None
