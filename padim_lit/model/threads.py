"""Work in parts, each on a thread of its own."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Found = TypeVar("Found")


def on_one_thread_each(work: Callable[[Part], Found], parts: Sequence[Part]) -> list[Found]:
    """`work` of each part, in their order; each on one thread, as many at once as PyTorch has.

    Threads that share the many small products of one part spend their time waiting for each other:
    to be woken for each product costs more than the product, and on a busy machine ten times as
    much. Inference mode is the caller's, and autocast is off.

    >>> on_one_thread_each(lambda x: x * torch.get_num_threads(), [1, 2])
    [1, 2]
    """
    inference, threads = torch.is_inference_mode_enabled(), torch.get_num_threads()
    gradients = torch.is_grad_enabled()

    def alone(part: Part) -> Found:
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
