"""What makes a CPU quick: parts on a thread each, and products by oneDNN.

PyTorch multiplies matrices with MKL, and 1×1 convolutions too if it has one thread and few images.
MKL gives processors that are not Intel's registers of half the width that theirs have (AVX2 in
place of AVX-512); oneDNN, which PyTorch's other convolutions run on, gives all they have.
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
    """Whether x is computed with in float32 on a CPU, now: not written into a graph.

    >>> on_cpu(torch.ones(1)), on_cpu(torch.ones(1).double())
    (True, False)
    """
    return (
        type(x) is Tensor  # those that a graph is made with are of other kinds
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution of x (B,C,h,w) with a kernel (D,C,1,1) and a bias (D,): (B,D,h,w).

    >>> pointwise(torch.ones(1, 2, 1, 1), torch.ones(3, 2, 1, 1), torch.zeros(3)).flatten().tolist()
    [2.0, 2.0, 2.0]
    """
    alike = x.dim() == 4 and weight.dtype == x.dtype  # what else there is, PyTorch knows
    if _WIDE and torch.backends.mkldnn.enabled and alike and on_cpu(x):
        bias = None if bias is None else bias.contiguous()  # it is read as if it were
        return torch.mkldnn_convolution(x, weight, bias, (0, 0), (1, 1), (1, 1), 1)
    return F.conv2d(x, weight, bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b of x (n,D), W (m,D) and b (m,): (n,m).

    >>> product(torch.ones(1, 2), torch.ones(3, 2), torch.zeros(3)).tolist()
    [[2.0, 2.0, 2.0]]
    """
    # A GPU's convolution may round to TF32, and none takes an image without pixels.
    if x.device.type != "cpu" or not len(x):
        return F.linear(x, weight, bias)
    rows = x[None, :, None].permute(0, 3, 1, 2)  # one image, its pixels are the rows
    return pointwise(rows, weight[:, :, None, None], bias).permute(0, 2, 3, 1).flatten(0, 2)


def on_one_thread_each(work: Callable[[Given], Found], parts: Sequence[Given]) -> list[Found]:
    """`work` of each part, in their order; each on one thread, as many at once as PyTorch has.

    Threads that share the many small products of one part spend their time waiting for each other:
    to be woken for each product costs more than the product, and on a busy machine ten times as
    much. Inference mode is the caller's, and autocast is off.

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
        # A thread that is started later, as a server starts them, begins with what was set last.
        torch.set_num_threads(threads)
