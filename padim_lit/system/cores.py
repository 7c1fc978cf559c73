"""How many processes read images beside the work on them."""

import os


def default_workers() -> int:
    """Return how many loader processes suit this machine.

    None on up to two cores, else the number of cores minus two, at most 8.

    Decoding takes about a tenth of a small backbone's time, so on two cores, which the backbone
    keeps busy, there is little to overlap.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(0, min(8, (cores or 1) - 2))
