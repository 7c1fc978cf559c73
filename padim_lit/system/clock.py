"""Time of work that a GPU may still be doing, and the time of day."""

import time
from datetime import datetime, timezone

import torch


def clock(device: torch.device) -> float:
    """Return the time in seconds, after all work that was given to `device` is done.

    >>> start = clock(torch.device("cpu"))
    >>> clock(torch.device("cpu")) >= start
    True
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def now(digits: str = "seconds") -> str:
    """Return the time in UTC as files say it; `digits` as datetime's ``timespec``.

    >>> now()[10:], len(now("milliseconds")) - len(now())
    ('T...+00:00', 4)
    """
    return datetime.now(timezone.utc).isoformat(timespec=digits)
