"""From moments to Mahalanobis distances: factor once, then score with one batched product."""

import torch
from torch import Tensor

from padim_lit.model.cpu import on_one_thread_each
from padim_lit.model.moments import Moments, covariance
from padim_lit.model.ridge import Ridge
from padim_lit.model.triangular import Triangle, blocks, invert_lower

# Float64 numbers of the covariances that are factored at once: on a CPU few, which stay in its
# cache; elsewhere more, because large steps are quicker, but not all, because of the memory.
CACHED_NUMBERS, BLOCK_NUMBERS = 2**18, 2**22


def factorize(
    moments: Moments, ridge: Ridge, rows: Tensor | None = None, factor: float = 1.0,
    out: Triangle | None = None,
) -> Triangle:  # fmt: skip
    """Return whitening factors W, the inverses of the Cholesky factors of Σ (eq. 4 and 9).

    So W Σ Wᵀ = I, and W is lower triangular. Σ is factored in float64, because its condition
    number, the features' variance over ε, reaches 10⁵; the factor is inverted in the scatter's
    dtype, because its own condition number is only the root of that.

    Args:
        moments: of G Gaussians.
        ridge: ε and ν, see `padim_lit.model.moments.covariance`.
        rows, factor: D' indices below D; the factors are then those of factor · x[rows], not x.
        out: triangles of zeros to write the factors into; None: new ones.

    Returns:
        G triangles of D (or D') rows in the scatter's dtype.

    Raises:
        InputError: fewer than 2 patches without ν, or a covariance that is not positive definite
            (ε too small for n ≤ D).

    >>> scatter = Triangle.of(torch.full((1, 1, 1), 27.0))
    >>> ten = Moments(torch.tensor([10.0]), torch.zeros(1, 1), scatter)
    >>> factorize(ten, Ridge(eps=1.0)).bands[0].item()  # variance 3 + 1
    0.5
    """
    gaussians, dim = len(moments.mean), moments.scatter.dim if rows is None else len(rows)
    device, dtype = moments.scatter.device, moments.scatter.dtype
    out = out or Triangle.zeros(gaussians, dim, device, dtype)
    eps, prior = ridge.of(moments, rows, factor)

    def work(block: slice) -> bool:
        part = moments.at(block)
        if rows is None:
            sigma = covariance(part, eps, symmetric=False, prior=prior)
        else:
            sigma = covariance(part, 0, prior=prior)[:, rows[:, None], rows] * factor**2
            sigma.diagonal(dim1=-2, dim2=-1).add_(eps)
        lower, failed = torch.linalg.cholesky_ex(sigma)
        lower = lower.to(dtype)
        out.fill(block, invert_lower(lower))
        return bool(failed.any())

    steps = factored_together(moments.scatter)
    if device.type == "cpu":
        failures = on_one_thread_each(work, steps)
    else:
        with torch.autocast(device.type, enabled=False):
            failures = [work(block) for block in steps]
    if any(failures):
        raise ridge.too_small(dim)
    return out


def factored_together(scatter: Triangle) -> list[slice]:
    """Return slices of the Gaussians, each as many as are factored at once.

    >>> factored_together(Triangle.zeros(40, 100, "cpu", torch.float32))
    [slice(0, 26, None), slice(26, 52, None)]
    """
    numbers = CACHED_NUMBERS if scatter.device.type == "cpu" else BLOCK_NUMBERS
    step = max(1, numbers // scatter.dim**2)
    return [slice(i, i + step) for i in range(0, scatter.count, step)]


def mahalanobis(x: Tensor, mean: Tensor, whitening: Triangle) -> Tensor:
    """Return distances d = ‖W(x−μ)‖ = √((x−μ)ᵀ Σ⁻¹ (x−μ)) (eq. 5 and 10), not squared.

    Args:
        x: (B,G,D), a patch for each Gaussian.
        mean: (G,D).
        whitening: G triangles of D rows.

    Returns:
        (B,G).

    >>> half = Triangle.of(torch.full((1, 1, 1), 0.5))  # a standard deviation of 2
    >>> mahalanobis(torch.full((1, 1, 1), 7.0), torch.ones(1, 1), half).item()
    3.0
    """
    x = x.transpose(0, 1)
    norms = x.new_empty(x.shape[:2])
    for block in blocks(x.shape[0], x.shape[1] * x.shape[2], x.device):
        deviation = x.new_empty(x[block].shape)  # contiguous, unlike x
        torch.sub(x[block], mean[block].to(x.dtype).unsqueeze(1), out=deviation)
        norms[block] = whitening.at(block).norms(deviation)
    return norms.T
