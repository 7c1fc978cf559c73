"""Squared distances of chosen pairs, a component and a patch each."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Numbers of the pairs that are computed at once: about what the cache holds that a core has for
# itself.
SCRATCH_NUMBERS = 2**18


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
        """Squares (m,) of x (n,D).

        Args:
            x: (n,D).
            component, patch: (m,) the pairs, component by component.
        """
        squares, pairs = x.new_zeros(len(patch)), max(1, SCRATCH_NUMBERS // x.shape[1])
        if not self.bands:
            return squares
        chunks = zip(component.split(pairs), patch.split(pairs), squares.split(pairs), strict=True)
        for k, p, out in chunks:
            deviation = x.index_select(0, p).sub_(self.mean.index_select(0, k))
            present, sizes = (ids.tolist() for ids in k.unique_consecutive(return_counts=True))
            for rows, columns, factors in self.bands:
                white = x.new_empty(len(p), rows)
                parts = deviation[:, :columns].split(sizes), white.split(sizes)
                for one, part, result in zip(present, *parts, strict=True):
                    torch.mm(part, factors[one], out=result)
                out += white.square_().sum(dim=1)
        return squares
