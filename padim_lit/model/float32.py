"""Models are float32, whatever precision the caller's program computes in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from padim_lit.errors import InputError


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


def require_float32(change: Callable[[Tensor], Tensor]) -> None:
    """Raise InputError where a change of a model's tensors, such as ``half()``, is of their type.

    >>> require_float32(Tensor.half)
    Traceback (most recent call last):
    padim_lit.errors.InputError: a model cannot become torch.float16: it is float32, and ...
    """
    if (given := change(torch.empty(0, dtype=torch.float32)).dtype) != torch.float32:
        raise InputError(
            f"a model cannot become {given}: it is float32, and its moments would be rounded or "
            "mixed; leave it so, or fit with Trainer(precision='bf16-mixed')"
        )
