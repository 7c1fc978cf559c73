"""How much memory a device has left, and how much this process has used at most."""

import ctypes
import re
from contextlib import suppress
from pathlib import Path

import torch


def keep_freed_memory(limit: int = 2**30) -> bool:
    """Let this process keep up to `limit` freed bytes instead of giving them back each time.

    Every batch asks for the same large blocks again. glibc fetches blocks above some megabytes from
    the system and returns them, and their pages are made anew at each first touch, which costs more
    than the arithmetic on them where pages are dear (virtual machines). Call it before any work.

    Returns:
        Whether this system's allocator took the settings (glibc does).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
    return bool(mallopt(mmap_threshold, limit) and mallopt(trim_threshold, limit))


def available_bytes(device: torch.device) -> int | None:
    """Return the bytes that can still be allocated on `device`; None where nothing tells."""
    if device.type == "cuda":
        # What PyTorch keeps of freed blocks is counted as used by the driver.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    free = _number(Path("/proc/meminfo"), r"^MemAvailable:\s*(\d+) kB")
    return None if free is None else min([1024 * free, *_within_groups()])


def _number(file: Path, pattern: str) -> int | None:
    """Read the number in the line of a Linux file that fits the pattern; None without one."""
    with suppress(OSError):
        if found := re.search(pattern, file.read_text(), re.MULTILINE):
            return int(found[1])
    return None


def _within_groups(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """Return the bytes that a container, or a SLURM job, may still take; nothing without limits.

    A limit of any control group that this process is in counts (of version 2; the first has none
    here): a container sees its own as the root, a job's lies below it.
    """
    found = None
    with suppress(OSError):
        found = re.search(r"^0::/(.+)", own.read_text(), re.MULTILINE)
    group = root / found[1] if found else root
    left = []
    for one in [one for one in (group, *group.parents) if one.is_relative_to(root)]:
        most = _number(one / "memory.max", r"^(\d+)$")  # "max": there is no limit
        used = _number(one / "memory.current", r"^(\d+)$")
        if most is not None and used is not None:
            # Cached files give way.
            cached = _number(one / "memory.stat", r"^inactive_file (\d+)") or 0
            left.append(max(0, most - used + cached))
    return left


def reset_peak(device: torch.device) -> None:
    """Start a new measurement, so that a job of a sweep does not report an earlier one's peak."""
    # Before anything is on the GPU there is no peak, and resetting it fails.
    if device.type == "cuda" and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # not Linux, or not allowed: the peak is then the process's own
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int | None:
    """Return the most bytes in use since `reset_peak`: of the GPU, or resident in this process.

    None where the system is not Linux.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = _number(Path("/proc/self/status"), r"^VmHWM:\s*(\d+) kB")
    return None if peak is None else 1024 * peak


def readable(count: int) -> str:
    """Write bytes as GiB or MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
