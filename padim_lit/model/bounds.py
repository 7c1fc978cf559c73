"""Lower bounds of distances, which rule out most of a mixture's components; and the distances."""

from collections.abc import Sequence

import torch
from torch import Tensor

from padim_lit.model.cpu import product
from padim_lit.model.triangular import Triangle, blocks

# Directions of the first bounds, and of the tighter ones.
COARSE_DIM, FINE_DIM = 32, 64
# The directions are chosen in a space of SPAN_DIM, and that by means of ASKED_COMPONENTS of the
# components, evenly spread.
SPAN_DIM, ASKED_COMPONENTS = 128, 32
# The share of the components that count as near a component: it is to be told apart from these.
NEAR_SHARE = 1 / 4
# Intermediate numbers of the bounds of all components: they stay in a CPU's cache.
SCRATCH_NUMBERS = 2**19
# Numbers of the patches of pairs that are computed at once: they fit into a core's own cache.
PAIR_NUMBERS = 2**18
# A product's patches are filled up to a multiple of these: oneDNN compiles code for each number,
# and keeps it.
PATCH_MULTIPLE = 32
# How far float32 may move a bound, relative to the largest that its terms can be.
BOUND_ROUNDING = 1e-5


class LowerBounds:
    """Lower bounds of patches' squared distances to K Gaussians.

    Seen along r directions only, u = Qx, a distance can only become smaller: (x−μ)ᵀ Σ⁻¹ (x−μ) ≥
    (u−Qμ)ᵀ (QΣQᵀ)⁻¹ (u−Qμ) = ‖F(u−Qμ)‖², F the inverse of QΣQᵀ's Cholesky factor. F is lower
    triangular, so its first rows give the bound along the first directions, and each further row
    adds to it.

    For all K at once the bound is computed as a quadratic form vᵀ R v, with v = (u, 1) and R a
    matrix for each Gaussian: the products v_i v_j are made once, and one matrix product gives all
    bounds. That costs little along the first few directions. Along all of them it costs less than
    `further` does where many components are left.

    Args:
        basis: Q (r,D).
        factor: F (K,r,r).
        mean: Qμ (K,r).

    >>> mean, whitening = torch.tensor([[0.0], [5.0]]), Triangle.of(torch.ones(2, 1, 1))
    >>> bounds = LowerBounds.of(mean, whitening, white=torch.eye(1))
    >>> bounds(bounds.along(torch.tensor([[3.0]]))).round().tolist()
    [[9.0], [4.0]]
    """

    def __init__(self, basis: Tensor, factor: Tensor, mean: Tensor):
        rows = sorted({min(COARSE_DIM, len(basis)), len(basis)})
        self.forms = [(r, _forms(factor[:, :r, :r], mean[:, :r])) for r in rows]
        self.basis, rest = basis.float(), factor[:, COARSE_DIM:]
        self.rest = Pairs(mean.float(), [rest.float()] if rest.shape[1] else [])
        self.rest_slack = BOUND_ROUNDING * (rest @ rest.mT).flatten(1).norm(dim=1).float()
        self.squared_norms = mean.square().sum(dim=1).float()

    @classmethod
    def of(cls, mean: Tensor, whitening: Triangle, white: Tensor) -> "LowerBounds":
        """Return bounds along the directions that tell the patches of near components apart.

        Args:
            mean: (K,D).
            whitening: K triangles of D rows.
            white: (D,D) lower triangular: white · x varies alike in all directions over good
                patches. So does u, which keeps rounding errors small.
        """
        white, dim = white.double(), whitening.dim
        # Where D is above SPAN_DIM: what weighs most in the distances to the components asked.
        asked = whitening.at(slice(None, None, -(-len(mean) // ASKED_COMPONENTS))).to_dense(
            symmetric=False
        )
        against = asked.flatten(0, 1).double() @ torch.linalg.inv(white)  # W_k of white patches
        span = _leading(against.T @ against, SPAN_DIM) @ white
        covariances = []
        for block in blocks(len(mean), dim * dim, mean.device):
            factor = whitening.at(block).to_dense(symmetric=False, dtype=torch.float64)
            spread = torch.linalg.solve_triangular(factor, span, upper=False, left=False)
            covariances.append(spread @ spread.mT)
        sigma, centres = torch.cat(covariances), mean.double() @ span.T
        chosen = _telling_apart(centres, sigma)
        factor = torch.linalg.inv(torch.linalg.cholesky(chosen @ sigma @ chosen.T))
        return cls(chosen @ span, factor, centres @ chosen.T)

    @classmethod
    def of_first(cls, mean: Tensor, whitening: Triangle, white: Tensor) -> "LowerBounds":
        """Return bounds along the first dimensions: looser ones, but quick to prepare.

        W_k is lower triangular, so its first rows are F in the first dimensions.
        """
        some = slice(min(FINE_DIM, whitening.bands[0].shape[1]))
        basis = mean.new_zeros(some.stop, whitening.dim)
        basis[:, some] = white[some, some]
        factor = whitening.bands[0][:, some, some] @ torch.linalg.inv(white[some, some])
        return cls(basis, factor, mean @ basis.T)

    def along(self, x: Tensor) -> Tensor:
        """Return u (n,r) of patches (n,D)."""
        return product(x, self.basis)

    def __call__(self, u: Tensor, fine: bool = False) -> Tensor:
        """Return bounds (K,n) along the first directions, or with `fine` along all."""
        rows, forms = self.forms[-1 if fine else 0]
        found = [
            _products(part, forms)
            for part in u[:, :rows].split(max(1, SCRATCH_NUMBERS // forms.shape[1]))
        ]
        return torch.cat(found, dim=1)

    def further(self, u: Tensor, component: Tensor, patch: Tensor) -> Tensor:
        """Return what the further directions add to the bounds of pairs (m,), see `Pairs`."""
        squared_norms = u.square().sum(dim=1)[patch] + self.squared_norms[component]
        return self.rest(u, component, patch).sub_(self.rest_slack[component] * squared_norms)


def _forms(factor: Tensor, mean: Tensor) -> Tensor:
    """Return R, with vᵀ R v = ‖F(u−Qμ)‖² less its rounding, as coefficients (K,q) of i ≤ j."""
    form = torch.cat([factor, -factor @ mean.unsqueeze(2)], dim=2)
    form = form.mT @ form
    form.diagonal(dim1=1, dim2=2).sub_(BOUND_ROUNDING * form.flatten(1).norm(dim=1, keepdim=True))
    i, j = torch.triu_indices(*form.shape[1:], device=form.device)
    return (form[:, i, j] * torch.where(i == j, 1.0, 2.0)).float()


def _products(u: Tensor, forms: Tensor) -> Tensor:
    """Return the values (K,n) of quadratic forms (K,q) for u (n,r)."""
    v = u.new_zeros(u.shape[1] + 1, -(-len(u) // PATCH_MULTIPLE) * PATCH_MULTIPLE)
    v[:-1, : len(u)], v[-1] = u.T, 1
    products, stop = u.new_empty(forms.shape[1], v.shape[1]), 0
    for i in range(len(v)):
        start, stop = stop, stop + len(v) - i
        torch.mul(v[i], v[i:], out=products[start:stop])
    return product(products.T, forms).T[:, : len(u)]


def _leading(matrix: Tensor, rows: int) -> Tensor:
    """Return the eigenvectors of the largest eigenvalues, as rows, the largest first."""
    return torch.linalg.eigh(matrix).eigenvectors.flip(1)[:, :rows].T


def _telling_apart(mean: Tensor, sigma: Tensor) -> Tensor:
    """Return directions (r,q), r ≤ FINE_DIM, along which a component is far from those near it.

    With Λ_k = Σ_k⁻¹ and A_k = E (x−μ_k)(x−μ_k)ᵀ over patches x of the components near k, their mean
    squared distance from k is tr(Λ_k A_k). The directions are eigenvectors of the sum over k of
    (Λ_k A_k + A_k Λ_k) / tr(Λ_k A_k): divided so, a component that is far from all others weighs no
    more than they do.

    Args:
        mean: (K,q), μ in q coordinates.
        sigma: (K,q,q), Σ in these.
    """
    count = max(1, int(NEAR_SHARE * len(mean)))
    precision = torch.linalg.inv(sigma)
    moment = sigma + mean.unsqueeze(2) * mean.unsqueeze(1)
    pulled = (precision @ mean.unsqueeze(2)).squeeze(2)
    far = precision.flatten(1) @ moment.flatten(1).T - 2 * pulled @ mean.T
    far += (pulled * mean).sum(dim=1, keepdim=True)
    far.fill_diagonal_(torch.inf)
    distance, near = far.topk(count, dim=1, largest=False)
    weight = torch.zeros_like(far).scatter_(1, near, 1 / count)
    total = torch.zeros_like(sigma[0])  # the sum over k of Λ_k A_k / tr(Λ_k A_k)
    for ks in blocks(len(mean), sigma[0].numel(), mean.device):
        own, near_mean = mean[ks].unsqueeze(2), (weight[ks] @ mean).unsqueeze(2)  # μ_k and E x
        around = (weight[ks] @ moment.flatten(1)).view_as(sigma[ks])  # E xxᵀ; below A_k
        around += own @ (own - near_mean).mT - near_mean @ own.mT
        total += (precision[ks] @ around / distance[ks].mean(dim=1)[:, None, None]).sum(dim=0)
    return _leading(total + total.T, FINE_DIM)


class Pairs:
    """Squares ‖T_k(x−μ_k)‖² for chosen pairs of a component k and a patch x.

    Args:
        mean: μ (K,D).
        bands: the matrices T, cut into bands of rows, each (K,rows,columns) from the first column.

    >>> squares = Pairs(torch.zeros(2, 1), [torch.tensor([[[1.0]], [[3.0]]])])
    >>> squares(torch.tensor([[2.0]]), torch.tensor([0, 1]), torch.tensor([0, 0]))
    tensor([ 4., 36.])
    """

    def __init__(self, mean: Tensor, bands: Sequence[Tensor]):
        self.mean = mean
        self.bands = [(band.shape[1], band.shape[2], band.mT.unbind()) for band in bands]

    def __call__(self, x: Tensor, component: Tensor, patch: Tensor) -> Tensor:
        """Return the squares (m,).

        Args:
            x: patches (n,D).
            component, patch: indices (m,) of the pairs, sorted by component.
        """
        squares, pairs = x.new_zeros(len(patch)), max(1, PAIR_NUMBERS // x.shape[1])
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
