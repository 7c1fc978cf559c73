"""From moments to Mahalanobis distances: factor once, then score with one batched product."""

import torch
from torch import Tensor

from padim_lit.model.cpu import on_one_thread_each
from padim_lit.model.moments import Moments, covariance
from padim_lit.model.ridge import Ridge
from padim_lit.model.triangular import Triangle, blocks, invert_lower

# Gaussians are factored in blocks of about so many float64 numbers: on a CPU they stay in its
# cache, elsewhere they are enough for large steps, and bound what a fit needs beyond its state.
CACHED_NUMBERS, BLOCK_NUMBERS = 2**18, 2**22


def factorize(
    moments: Moments,
    ridge: Ridge,
    rows: Tensor | None = None,
    factor: float = 1.0,
    out: Triangle | None = None,
) -> Triangle:
    """Whitening factors W = L⁻¹ with Σ + εI = L Lᵀ (eq. 4 and 9), lower triangular.

    Factored in float64, because Σ's condition number, the features' spread over ε, reaches 10⁵;
    inverted in the scatter's dtype, because that of the triangle L is only its root.

    Args:
        moments: of G Gaussians.
        ridge: what is added to their covariances.
        rows, factor: (d,) indices below D; the factors are then those of factor · x[rows], not x.
        out: triangles of zeros to write the factors into; None: new ones.

    Returns:
        G triangles of D (or d) rows in the scatter's dtype.

    Raises:
        InputError: fewer than 2 patches, or a covariance that is not positive definite (ε too small
            for N ≤ D).

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
    """Gaussians a few at a time: as many as one step factors.

    >>> factored_together(Triangle.zeros(40, 100, "cpu", torch.float32))
    [slice(0, 26, None), slice(26, 52, None)]
    """
    numbers = CACHED_NUMBERS if scatter.device.type == "cpu" else BLOCK_NUMBERS
    step = max(1, numbers // scatter.dim**2)
    return [slice(i, i + step) for i in range(0, scatter.count, step)]


def mahalanobis(x: Tensor, mean: Tensor, whitening: Triangle) -> Tensor:
    """Distances M = ‖W(x−μ)‖ = sqrt((x−μ)ᵀ Σ⁻¹ (x−μ)) (eq. 5 and 10), not squared.

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
