"""Squared distances of chosen pairs, a component and a patch each."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Pairs of which distances are computed at once: their scratch stays in a CPU's cache.
PAIRS = 2**14


class Pairs:
    """Patches and pairs (k,p) → ‖T_k(x_p−μ_k)‖², with matrices T_k of K components.

    Args:
        mean: μ (K,D).
        bands: T cut into bands of rows, each (K,rows,columns) from the first column on.

    >>> squares = Pairs(torch.zeros(2, 1), [torch.tensor([[[1.0]], [[3.0]]])])
    >>> squares(torch.tensor([[2.0]]), torch.tensor([0, 1]), torch.tensor([0, 0]))
    tensor([ 4., 36.])
    """

    def __init__(self, mean: Tensor, bands: Sequence[Tensor]):
        self.mean = mean
        self.bands = [(band.shape[1], band.shape[2], band.mT.unbind()) for band in bands]

    def __call__(self, x: Tensor, component: Tensor, patch: Tensor) -> Tensor:
        """Squares (m,) of x (n,D); the m pairs come component by component."""
        squares = x.new_zeros(len(patch))
        parts = zip(component.split(PAIRS), patch.split(PAIRS), squares.split(PAIRS), strict=True)
        for k, p, out in parts if self.bands else ():
            deviation = x.index_select(0, p).sub_(self.mean.index_select(0, k))
            sizes = k.bincount(minlength=len(self.mean)).tolist()
            for rows, columns, factors in self.bands:
                white = x.new_empty(len(p), rows)
                few = zip(
                    deviation[:, :columns].split(sizes), factors, white.split(sizes), strict=True
                )
                for part, factor, result in few:
                    if len(part):
                        torch.mm(part, factor, out=result)
                out += white.square_().sum(dim=1)
        return squares
