"""How much memory a device has left, and how much this process has used at most."""

import ctypes
import re
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
    """Bytes that can still be allocated on `device`; None where the system does not tell."""
    if device.type == "cuda":
        # What PyTorch keeps of freed blocks is counted as used by the driver.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    told = _told("/proc/meminfo", "MemAvailable")
    return None if told is None else min([told, *_within_groups()])


def _told(file: str, name: str) -> int | None:
    """Bytes that a file of Linux gives for a name; None where there is none."""
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB", Path(file).read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _within_groups(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """Bytes that a container, or a SLURM job, may still take; none where no limit is set.

    A limit of any control group that this process is in counts (of version 2; the first has none
    here): a container sees its own as the root, a job's lies below it.
    """
    try:
        found = re.search(r"^0::/(.+)", own.read_text(), re.M)
    except OSError:
        found = None
    group = root / found[1] if found else root
    within = [one for one in (group, *group.parents) if one.is_relative_to(root)]
    return [left for one in within if (left := _left_in(one)) is not None]


def _left_in(group: Path) -> int | None:
    try:
        most = int((group / "memory.max").read_text())  # a ValueError: "max", there is no limit
        used = int((group / "memory.current").read_text())
        # Cached files give way.
        cached = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.M)
    except (OSError, ValueError):
        return None
    return max(0, most - used + (int(cached[1]) if cached else 0))


def reset_peak(device: torch.device) -> None:
    """Start a new measurement, so that a job of a sweep does not report an earlier one's peak."""
    # Before anything is on the GPU there is no peak, and resetting it fails.
    if device.type == "cuda" and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak is then the process's own
        return


def peak_bytes(device: torch.device) -> int | None:
    """Most bytes in use since `reset_peak`: of the GPU, or resident bytes of this process.

    None where the system is not Linux.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _told("/proc/self/status", "VmHWM")


def readable(count: int) -> str:
    """Bytes as GiB or MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
