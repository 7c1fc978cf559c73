"""Lower bounds of distances, which rule out most of a mixture's components, and those to others."""

from collections.abc import Sequence

import torch
from torch import Tensor

from padim_lit.model.cpu import product
from padim_lit.model.triangular import Triangle, blocks

# Directions of the bounds of all components, and of the tighter ones of those that are left.
COARSE_DIM, FINE_DIM = 32, 64
# They are chosen among SPAN_DIM directions, and these by ASKED of the components, evenly spread.
SPAN_DIM, ASKED_COMPONENTS = 128, 32
# The share of the components that a component must be told apart from: those near it.
NEAR_SHARE = 1 / 4
# Numbers of scratch for bounds of all components: they stay in a CPU's cache.
SCRATCH_NUMBERS = 2**19
# Numbers of the pairs that are computed at once: about what the cache holds that a core has for
# itself.
PAIR_NUMBERS = 2**18
# Patches that a product takes are made a multiple of these: oneDNN keeps what it compiles for each
# number.
PATCH_MULTIPLE = 32
# What float32 may move a bound by, relative to the largest that its terms can be.
BOUND_ROUNDING = 1e-5


class LowerBounds:
    """Patches → squared distances to K Gaussians that are never too large.

    Seen along r directions alone, y = Bx, a patch is at most as far: (x−μ)ᵀ Σ⁻¹ (x−μ) ≥
    (y−Bμ)ᵀ (BΣBᵀ)⁻¹ (y−Bμ) = ‖F(y−Bμ)‖². F is lower triangular, so its first rows give the bound
    along the first directions, and each further row adds to it.

    Of all K at once it is computed as a quadratic form Σ q_ij v_i v_j of v, y with a 1 behind: the
    products v_i v_j are made once, and one matrix product with the K forms gives all bounds. That
    costs little along the first few directions. Along all of them it costs less than `further` does
    where many components are left.

    Args:
        basis: B (r,D).
        factor: F (K,r,r).
        mean: Bμ (K,r).

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
        """Along the directions that tell the patches of near components apart.

        Args:
            mean: (K,D).
            whitening: K triangles of D rows.
            white: (D,D) lower triangular, makes good patches white. So is y: no direction's scale
                drowns another's, and rounding stays small.
        """
        white, dim = white.double(), whitening.dim
        # If D is above SPAN_DIM: those that weigh most in the distances to the components asked.
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
        """Along the first dimensions: further below, but made at once.

        A factor is triangular, so its first rows see the first dimensions alone: they are F.
        """
        some = slice(min(FINE_DIM, whitening.bands[0].shape[1]))
        basis = mean.new_zeros(some.stop, whitening.dim)
        basis[:, some] = white[some, some]
        factor = whitening.bands[0][:, some, some] @ torch.linalg.inv(white[some, some])
        return cls(basis, factor, mean @ basis.T)

    def along(self, x: Tensor) -> Tensor:
        """y (n,r) of patches (n,D)."""
        return product(x, self.basis)

    def __call__(self, y: Tensor, fine: bool = False) -> Tensor:
        """Bounds (K,n) along the first directions, or along all."""
        rows, forms = self.forms[-1 if fine else 0]
        found = [
            _products(part, forms)
            for part in y[:, :rows].split(max(1, SCRATCH_NUMBERS // forms.shape[1]))
        ]
        return torch.cat(found, dim=1)

    def further(self, y: Tensor, component: Tensor, patch: Tensor) -> Tensor:
        """What the further directions add to the bounds of pairs, see `Pairs`: (m,)."""
        squared_norms = y.square().sum(dim=1)[patch] + self.squared_norms[component]
        return self.rest(y, component, patch).sub_(self.rest_slack[component] * squared_norms)


def _forms(factor: Tensor, mean: Tensor) -> Tensor:
    """Quadratic forms of v that are ‖F(y−Bμ)‖² less what rounding may be, of i ≤ j: (K,q)."""
    form = torch.cat([factor, -factor @ mean.unsqueeze(2)], dim=2)
    form = form.mT @ form
    form.diagonal(dim1=1, dim2=2).sub_(BOUND_ROUNDING * form.flatten(1).norm(dim=1, keepdim=True))
    i, j = torch.triu_indices(*form.shape[1:], device=form.device)
    return (form[:, i, j] * torch.where(i == j, 1.0, 2.0)).float()


def _products(y: Tensor, forms: Tensor) -> Tensor:
    """What the forms (K,q) of r directions are for y (n,r): (K,n)."""
    v = y.new_zeros(y.shape[1] + 1, -(-len(y) // PATCH_MULTIPLE) * PATCH_MULTIPLE)
    v[:-1, : len(y)], v[-1] = y.T, 1
    products, stop = y.new_empty(forms.shape[1], v.shape[1]), 0
    for i in range(len(v)):
        start, stop = stop, stop + len(v) - i
        torch.mul(v[i], v[i:], out=products[start:stop])
    return product(products.T, forms).T[:, : len(y)]


def _leading(matrix: Tensor, rows: int) -> Tensor:
    """Eigenvectors of the largest eigenvalues, as rows, the largest first."""
    return torch.linalg.eigh(matrix).eigenvectors.flip(1)[:, :rows].T


def _telling_apart(mean: Tensor, sigma: Tensor) -> Tensor:
    """Directions (r,q), r ≤ FINE_DIM, along which near components' patches are far from each.

    With P = Σ⁻¹ and A_k = E (x−μ_k)(x−μ_k)ᵀ over patches x of the components near k, tr(P_k A_k) is
    their mean squared distance from it. Directions are eigenvectors of Σ_k (P_k A_k + A_k P_k) /
    tr(P_k A_k): a component that is far from all others asks for no more than the others.

    Args:
        mean: (K,q), along the q directions that these are chosen among.
        sigma: (K,q,q), covariances.
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
    total = torch.zeros_like(sigma[0])  # Σ_k P_k A_k / tr(P_k A_k)
    for ks in blocks(len(mean), sigma[0].numel(), mean.device):
        own, near_mean = mean[ks].unsqueeze(2), (weight[ks] @ mean).unsqueeze(2)  # μ_k and E x
        around = (weight[ks] @ moment.flatten(1)).view_as(sigma[ks])  # E xxᵀ, and then A_k
        around += own @ (own - near_mean).mT - near_mean @ own.mT
        total += (precision[ks] @ around / distance[ks].mean(dim=1)[:, None, None]).sum(dim=0)
    return _leading(total + total.T, FINE_DIM)


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
