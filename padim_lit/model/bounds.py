"""What rules out most of a mixture's components: lower bounds of the distances to all of them."""

import torch
from torch import Tensor

from padim_lit.model.triangular import Triangle, blocks

# What float32 may move a bound by, relative to the largest that its terms can be.
ROUNDING = 1e-5
# Components that the directions are chosen by, evenly spread: any directions give bounds.
ASKED = 32


class LowerBounds:
    """Patches (n,D) → squared distances to K Gaussians that are never too large, (K,n).

    Seen along r directions alone, y = Bx, a patch is at most as far: (x−μ)ᵀ Σ⁻¹ (x−μ) ≥
    (y−Bμ)ᵀ (BΣBᵀ)⁻¹ (y−Bμ) = ‖F(y−Bμ)‖². That is a quadratic form Σ q_ij v_i v_j of v, y with a 1
    behind: the products v_i v_j are made once for all K, and one matrix product with the K forms
    gives all bounds.

    Args:
        basis: B (r,D).
        factor: F and −FBμ behind it, (K,r,r+1), lower triangular but for its last column.

    >>> mean, whitening = torch.tensor([[0.0], [5.0]]), Triangle.of(torch.ones(2, 1, 1))
    >>> bounds = LowerBounds.of(mean, whitening, white=torch.eye(1), rows=1)
    >>> bounds(torch.tensor([[3.0]])).round().tolist()
    [[9.0], [4.0]]
    """

    def __init__(self, basis: Tensor, factor: Tensor):
        self.basis, self.factor, form = basis, factor, factor.mT @ factor
        i, j = torch.triu_indices(*form.shape[1:], device=form.device)
        self.weights = (form[:, i, j] * torch.where(i == j, 1.0, 2.0)).float()
        self.slack = ROUNDING * form.flatten(1).norm(dim=1).float()

    @classmethod
    def of(cls, mean: Tensor, whitening: Triangle, white: Tensor, rows: int) -> "LowerBounds":
        """Along the `rows` directions in which patches differ most against the components.

        Args:
            mean: (K,D).
            whitening: K triangles of D rows.
            white: (D,D) lower triangular, makes good patches white. So is y: no direction's scale
                drowns another's, and rounding stays small.
            rows: r; D where that is less.
        """
        white, dim = white.double(), whitening.dim
        some = whitening.at(slice(None, None, -(-len(mean) // ASKED))).square(symmetric=False)
        against = some.flatten(0, 1).double() @ torch.linalg.inv(white)
        directions = torch.linalg.eigh(against.T @ against).eigenvectors.flip(1)[:, :rows]
        basis = directions.T @ white
        factors = []
        for few in blocks(len(mean), dim * dim, mean.device):
            factor = whitening.at(few).square(symmetric=False, dtype=torch.float64)
            spread = torch.linalg.solve_triangular(factor, basis, upper=False, left=False)
            factors.append(torch.linalg.inv(torch.linalg.cholesky(spread @ spread.mT)))
        factor = torch.cat(factors)
        offset = factor @ (mean.double() @ basis.T).unsqueeze(2)
        return cls(basis.float(), torch.cat([factor, -offset], dim=2))

    @classmethod
    def of_first(cls, mean: Tensor, whitening: Triangle, white: Tensor, rows: int) -> "LowerBounds":
        """Along the first `rows` dimensions: further below, but made at once.

        A factor is triangular, so its first rows see the first dimensions alone: they are F.
        """
        rows = min(rows, whitening.bands[0].shape[1])
        some = slice(rows)
        basis = torch.zeros(rows, whitening.dim, device=mean.device)
        basis[:, some] = white[some, some]
        factor = whitening.bands[0][:, some, some] @ torch.linalg.inv(white[some, some])
        offset = factor @ (mean @ basis.T).unsqueeze(2)
        return cls(basis, torch.cat([factor, -offset], dim=2))

    def leading(self, rows: int) -> "LowerBounds":
        """Along the first of the directions alone: cheaper, and further below."""
        rows = min(rows, len(self.basis))
        factor = torch.cat([self.factor[:, :rows, :rows], self.factor[:, :rows, -1:]], dim=2)
        return LowerBounds(self.basis[:rows], factor)

    def __call__(self, x: Tensor) -> Tensor:
        v = torch.cat([self.basis @ x.T, x.new_ones(1, len(x))])  # (r+1,n)
        products, stop = x.new_empty(self.weights.shape[1], len(x)), 0
        for i in range(len(v)):
            start, stop = stop, stop + len(v) - i
            torch.mul(v[i], v[i:], out=products[start:stop])
        slack = torch.outer(self.slack, v.square().sum(dim=0))
        return torch.addmm(slack, self.weights, products, beta=-1)
