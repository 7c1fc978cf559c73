"""Failures of the machine: memory that ends, processes that are killed, a full disk."""

import errno
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from padim_lit.errors import InputError

log = logging.getLogger(__name__)

T = TypeVar("T")

_HOST_MEMORY = re.compile(r"DefaultCPUAllocator|[Cc]annot allocate memory|std::bad_alloc")
_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? [\d, ]+\) (is killed by signal|exited)")
# Of gloo, and of NCCL.
_PEER = re.compile(r"gloo.*(closed by peer|reset by peer|timed out)|remote process exited", re.I)
_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS}
_DISK = re.compile(r"PytorchStreamWriter failed|unexpected pos|No space left on device")

#: What linear algebra raises where statistics degenerate.
NOT_FACTORED = (torch.linalg.LinAlgError, np.linalg.LinAlgError)


def error_line(error: BaseException, folder: Path | None = None) -> str | None:
    """Return one line for a failure of the machine; None for any other error.

    `folder` is where the program writes: a full disk says of no file which one it is.
    """
    text = " ".join(str(error).split())
    gpu = isinstance(error, torch.OutOfMemoryError)
    if gpu or isinstance(error, MemoryError) or _HOST_MEMORY.search(text):
        what, more = ("GPU memory", "trainer=cpu") if gpu else ("memory", "fewer num_workers")
        return (
            f"out of {what} ({text[:160] or type(error).__name__}); set a smaller batch_size, dim, "
            f"grid or image_size, or {more}"
        )
    if isinstance(error, RuntimeError) and _WORKER.search(text):
        return (
            f"a process that reads images has ended ({text[:160]}); it may have run out of memory: "
            "set fewer num_workers, or num_workers=0"
        )
    if isinstance(error, RuntimeError) and _PEER.search(text):
        return "another process of this run has ended; its own line says why, if it had the time"
    if isinstance(error, NOT_FACTORED):
        return (
            f"the images' statistics cannot be factored ({text[:160]}); set a larger eps or a "
            "smaller dim, or use more images, and such that differ"
        )
    full = isinstance(error, OSError) and error.errno in _FULL
    if full or (isinstance(error, RuntimeError) and _DISK.search(text)):
        what = getattr(error, "filename", None) or (f"a file in {folder}" if folder else "a file")
        return f"{what} cannot be written ({text[:160]}); make room, or choose another folder"
    return None


def halving(size: int, work: Callable[[int], T], what: str) -> tuple[T, int]:
    """Call ``work(size)``, with half the size while the GPU's memory runs out; return the size.

    Raises:
        InputError: one image is too much.
    """
    while True:
        try:
            return work(size), size
        except torch.OutOfMemoryError as error:
            reason = error_line(error)
        # Here, where nothing of the failed attempt is referred to any more.
        if size == 1:
            raise InputError(f"{what}: one image at a time is too much: {reason}")
        log.warning(
            "%s: out of GPU memory with batch_size=%d; going on with %d", what, size, size // 2
        )
        size //= 2
        torch.cuda.empty_cache()


def in_parts(
    model: Callable[[Tensor], tuple[Tensor, Tensor]], images: Tensor, size: int
) -> tuple[Tensor, Tensor, int]:
    """Call ``model(images)``, `size` images at a time; return the size that memory allowed, too.

    Args:
        model: (B,3,h,w) → scores (B,) and maps (B,h,w).
        images: (B,3,h,w).
        size: at most so many at once; halved as `halving` does.
    """

    def work(count: int) -> list[tuple[Tensor, Tensor]]:
        return [model(part) for part in images.split(count)]

    first = min(size, len(images))
    found, used = halving(first, work, "prediction")
    size = size if used == first else used
    if len(found) == 1:  # as it came: a copy of all would be for nothing
        return *found[0], size
    scores, maps = zip(*found, strict=True)
    return torch.cat(scores), torch.cat(maps), size
