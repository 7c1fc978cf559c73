"""What rules out most of a mixture's components: lower bounds of the distances to all of them."""

import torch
from torch import Tensor

from padim_lit.model.triangular import Triangle

# Rows of the factors that the bounds are made of. Fewer rule out fewer; more cost more.
ROWS = 48
# What float32 may move a bound by, relative to the largest that its terms can be.
ROUNDING = 1e-5


class LowerBounds:
    """Patches (n,D) → squared distances to K Gaussians that are never too large, (K,n).

    A factor is triangular, so its first r rows see the first r dimensions alone, and what they
    give is a lower bound: ‖W(x−μ)‖² ≥ ‖(W(x−μ))_1..r‖². That is a quadratic form Σ q_ij v_i v_j of
    v, the first r numbers of x with a 1 behind: the products v_i v_j are made once for all K, and
    one matrix product with the K forms gives all bounds.

    Args:
        mean: (K,D).
        whitening: K triangles of D rows.
        white: (D,D) lower triangular, makes good patches white: so that in v no dimension's scale
            drowns another's, and rounding stays small.

    >>> mean, whitening = torch.tensor([[0.0], [5.0]]), Triangle.of(torch.ones(2, 1, 1))
    >>> LowerBounds(mean, whitening, white=torch.eye(1))(torch.tensor([[3.0]])).round().tolist()
    [[9.0], [4.0]]
    """

    def __init__(self, mean: Tensor, whitening: Triangle, white: Tensor):
        self.rows = min(ROWS, whitening.bands[0].shape[1])
        some = slice(self.rows)
        self.white = white[some, some]
        factor = whitening.bands[0][:, some, some] @ torch.linalg.inv(self.white)
        offset = factor @ (mean[:, some] @ self.white.T).unsqueeze(2)
        factor = torch.cat([factor, -offset], dim=2)  # (K,r,r+1)
        form = factor.mT @ factor
        i, j = torch.triu_indices(self.rows + 1, self.rows + 1, device=form.device)
        self.weights = form[:, i, j] * torch.where(i == j, 1.0, 2.0)
        self.slack = ROUNDING * form.flatten(1).norm(dim=1)

    def __call__(self, x: Tensor) -> Tensor:
        v = torch.cat([self.white @ x[:, : self.rows].T, x.new_ones(1, len(x))])  # (r+1,n)
        products, stop = x.new_empty(self.weights.shape[1], len(x)), 0
        for i in range(len(v)):
            start, stop = stop, stop + len(v) - i
            torch.mul(v[i], v[i:], out=products[start:stop])
        slack = torch.outer(self.slack, v.square().sum(dim=0))
        return self.weights @ products - slack
