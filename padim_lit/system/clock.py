"""Time of work that a GPU may still be doing."""

import time

import torch


def clock(device: torch.device) -> float:
    """Seconds, all that was given to `device` done.

    >>> start = clock(torch.device("cpu"))
    >>> clock(torch.device("cpu")) >= start
    True
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
