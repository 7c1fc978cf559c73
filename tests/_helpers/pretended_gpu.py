"""A GPU that is pretended: tensors say that they lie there, and their values lie on the CPU.

So what is written for a GPU runs where there is none, its results can be held against the CPU's,
and what a GPU refuses is refused: tensors of two devices in one operation, NumPy, a generator of
the other device. It shows nothing of speed, memory or rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda:0")
#: cuSOLVER is said to give eigenvalues of some 32,000 matrices at once, and no more.
MOST_MATRICES = 2**13
#: Operations whose first tensor may lie there and its indices here.
INDEXING = ("__getitem__", "__setitem__")


class OnGPU(Tensor):
    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)


def there(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    with torch._C.DisableTorchFunction(), torch.no_grad():
        return x.as_subclass(OnGPU)


def here(x: Any) -> Any:
    if not isinstance(x, OnGPU):
        return x
    with torch._C.DisableTorchFunction(), torch.no_grad():
        return x.as_subclass(Tensor)


class Pretend(TorchFunctionMode):
    """Refuses what a GPU refuses, computes all else on the CPU, and marks what lies there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_gpu = [x for x in tensors if isinstance(x, OnGPU)]
        if name == "_has_compatible_shallow_copy_type":
            return False  # so a Module that moves makes its parameters anew
        if name in ("to", "cpu", "cuda") and tensors:
            return moved(name, *args, **kwargs)
        if name == "__deepcopy__":
            return copied(*args)
        device = torch.device(kwargs.get("device") or (GPU if on_gpu else "cpu"))
        if name in ("numpy", "__array__") and on_gpu:
            raise TypeError("can't convert a tensor on a GPU to NumPy")
        if kwargs.get("generator") is not None and device.type == GPU.type:
            raise RuntimeError(f"{name}: a generator on the CPU for a tensor on a GPU")
        both = on_gpu and any(x.dim() for x in tensors if not isinstance(x, OnGPU))
        if both and name != "copy_" and not (name in INDEXING and isinstance(args[0], OnGPU)):
            raise RuntimeError(f"{name}: tensors on two devices")
        matrices = on_gpu[0].shape[:-2].numel() if on_gpu else 0
        if name.startswith("linalg_eig") and matrices > MOST_MATRICES:
            raise RuntimeError(f"{name}: {matrices} matrices at once")
        if device.type == GPU.type and "device" in kwargs:
            kwargs = {**kwargs, "device": "cpu"}
        args, kwargs = tree_map(here, (args, kwargs))
        found = func(*args, **kwargs)
        if device.type != GPU.type or isinstance(found, torch.Size):
            return found
        return tree_map(there, found)


def moved(name: str, x: Tensor, *words: Any, **named: Any) -> Tensor:
    """``x.to(*words, **named)``, ``x.cpu()`` or ``x.cuda()``."""
    target = {"cpu": torch.device("cpu"), "cuda": GPU}.get(name, x.device)
    dtype = x.dtype
    for word in (*words, *named.values()):
        if isinstance(word, Tensor):
            target, dtype = word.device, word.dtype
        elif isinstance(word, str | torch.device):
            target = torch.device(word)
        elif isinstance(word, torch.dtype):
            dtype = word
    if target.type == x.device.type and dtype == x.dtype and "memory_format" not in named:
        return x
    layout = {key: named[key] for key in ("memory_format",) if key in named}
    found = here(x).to(dtype, copy=True, **layout)
    return there(found) if target.type == GPU.type else found


def copied(x: Tensor, known: dict[int, Any]) -> Tensor:
    found = there(here(x).clone()) if isinstance(x, OnGPU) else x.clone()
    known[id(x)] = Parameter(found, x.requires_grad) if isinstance(x, Parameter) else found
    return known[id(x)]


@contextmanager
def pretended_gpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, Pretend():
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (2**37, 2**37))
        for name in ("memory_reserved", "memory_allocated", "synchronize"):
            patch.setattr(torch.cuda, name, lambda device: 0)
        yield
