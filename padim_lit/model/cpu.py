"""What makes a CPU quick: parts on a thread each, and products by oneDNN.

PyTorch computes matrix products with MKL, and 1×1 convolutions too where it has one thread and few
images. On a processor that is not Intel's, MKL uses AVX2 even where there is AVX-512, of twice the
width. oneDNN, which computes PyTorch's other convolutions, uses AVX-512 on all.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

Given = TypeVar("Given")
Found = TypeVar("Found")

_WIDE = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith(
    "AVX512"
)


def on_cpu(x: Tensor) -> bool:
    """Whether x is in float32 on a CPU and is computed with now, not traced into a graph.

    >>> on_cpu(torch.ones(1)), on_cpu(torch.ones(1).double())
    (True, False)
    """
    return (
        type(x) is Tensor  # tracing uses subclasses
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the convolution (B,D,h,w) of x (B,C,h,w) with a kernel (D,C,1,1) and a bias (D,).

    >>> pointwise(torch.ones(1, 2, 1, 1), torch.ones(3, 2, 1, 1), torch.zeros(3)).flatten().tolist()
    [2.0, 2.0, 2.0]
    """
    alike = x.dim() == 4 and weight.dtype == x.dtype  # PyTorch handles, or refuses, the rest
    if _WIDE and torch.backends.mkldnn.enabled and alike and on_cpu(x):
        bias = None if bias is None else bias.contiguous()  # oneDNN takes it for contiguous
        return torch.mkldnn_convolution(x, weight, bias, (0, 0), (1, 1), (1, 1), 1)
    return F.conv2d(x, weight, bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x Wᵀ + b (n,m) of x (n,D), weight W (m,D) and bias b (m,).

    >>> product(torch.ones(1, 2), torch.ones(3, 2), torch.zeros(3)).tolist()
    [[2.0, 2.0, 2.0]]
    """
    # On a GPU a convolution may round to TF32; and none takes an image without pixels.
    if x.device.type != "cpu" or not len(x):
        return F.linear(x, weight, bias)
    rows = x[None, :, None].permute(0, 3, 1, 2)  # one image, whose pixels are the rows
    return pointwise(rows, weight[:, :, None, None], bias).permute(0, 2, 3, 1).flatten(0, 2)


def on_one_thread_each(work: Callable[[Given], Found], parts: Sequence[Given]) -> list[Found]:
    """Return `work` of each part, in their order; each runs on one of PyTorch's threads.

    Threads that share the small products of one part mostly wait for each other: waking them for a
    product costs more than the product, on a busy machine ten times as much. Inference mode is the
    caller's, and autocast is off.

    >>> on_one_thread_each(lambda x: x * torch.get_num_threads(), [1, 2])
    [1, 2]
    """
    inference, threads = torch.is_inference_mode_enabled(), torch.get_num_threads()
    gradients = torch.is_grad_enabled()

    def alone(part: Given) -> Found:
        with (
            torch.inference_mode(inference),
            torch.set_grad_enabled(gradients and not inference),
            torch.autocast("cpu", enabled=False),
        ):
            return work(part)

    if threads == 1:
        return [alone(part) for part in parts]
    try:
        with ThreadPoolExecutor(
            max(1, min(threads, len(parts))), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            return list(pool.map(alone, parts))
    finally:
        # The pool's last setting would else be that of threads that are started later.
        torch.set_num_threads(threads)
