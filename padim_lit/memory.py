"""How much memory a device has left, and how much this process has used at most."""

import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on `device`; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kilobytes[0]) * 1024 if kilobytes else None


def reset_peak(device: torch.device) -> None:
    """Start a new measurement, so that a job of a sweep does not report an earlier one's peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak is then the process's own
        return


def peak_bytes(device: torch.device) -> int | None:
    """Most bytes in use since `reset_peak`: of the GPU, or resident bytes of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        lines = _STATUS.read_text().splitlines()
        peak = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        if peak:
            return int(peak[0]) * 1024
    try:
        import resource  # absent on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def readable(count: int) -> str:
    """Bytes as GiB or MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
