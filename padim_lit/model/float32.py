"""Networks are made in float32, whatever precision the caller's program computes in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def made_in_float32() -> Iterator[None]:
    """For what makes a network: torch.set_default_dtype and torch.autocast would round its weights.

    >>> with torch.autocast("cpu", torch.bfloat16), made_in_float32():
    ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
    torch.float32
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_default_dtype(before)
