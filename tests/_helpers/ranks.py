"""What an all-reduce does, in threads: every rank runs to its next sum, then all sums meet."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def all_ranks(states: Sequence[T], work: Callable[[T, Callable, Callable], Any]) -> list[Any]:
    """``work(state, sum_over_ranks, gather)`` of every rank's state."""
    barrier, board = threading.Barrier(len(states)), [None] * len(states)
    results = [None] * len(states)

    def rank(i: int) -> None:
        def gather(mine: Any) -> list[Any]:
            board[i] = mine
            barrier.wait()
            everyone = list(board)
            barrier.wait()
            return everyone

        def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
            return torch.stack(gather(tensor.clone())).sum(dim=0)

        results[i] = work(states[i], sum_over_ranks, gather)

    threads = [threading.Thread(target=rank, args=(i,)) for i in range(len(states))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return results
