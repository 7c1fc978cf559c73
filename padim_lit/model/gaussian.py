"""From moments to Mahalanobis distances: factor once, then score with one batched product."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from padim_lit.errors import InputError
from padim_lit.model.moments import Moments, covariance
from padim_lit.model.triangular import Triangle, blocks, invert_lower

# Positions are factored in blocks of about this many float64 numbers: it bounds what the fit
# needs beyond its state.
BLOCK_NUMBERS = 2**22


def whiten(
    moments: Moments, eps: float, rows: Tensor | None = None, factor: float = 1.0
) -> Triangle:
    """Whitening factors W_ij = L_ij⁻¹ with Σ_ij + εI = L_ij L_ijᵀ (eq. 4 and 9), lower triangular.

    Factored in float64, because the features' spread over ε reaches 10⁵; inverted in the
    scatter's dtype, because a triangle's condition is only the root of that.

    Args:
        moments: of N images at P positions.
        eps: ε ≥ 0, added to the diagonal, in squared feature units.
        rows: (d,) indices below D: factors of the moments of factor · x[rows] instead.
        factor: see `rows`.

    Returns:
        P triangles of D (or d) rows in the scatter's dtype.

    Raises:
        InputError: fewer than 2 images, or a covariance that is not positive definite (ε too small
            for N ≤ D).

    >>> ten = Moments(10, torch.zeros(1, 1), Triangle.of(torch.full((1, 1, 1), 27.0)))
    >>> whiten(ten, eps=1.0).bands[0].item()  # variance 3 + 1
    0.5
    """
    positions, dim = len(moments.mean), moments.scatter.dim if rows is None else len(rows)
    device, dtype = moments.scatter.device, moments.scatter.dtype
    out = Triangle.zeros(positions, dim, device, dtype)
    step = max(1, BLOCK_NUMBERS // moments.scatter.dim**2)
    inference = torch.is_inference_mode_enabled()

    def work(start: int) -> bool:
        block = slice(start, start + step)
        with torch.inference_mode(inference):
            part = Moments(moments.count, moments.mean[block], moments.scatter.at(block))
            if rows is None:
                sigma = covariance(part, eps, symmetric=False)
            else:
                sigma = covariance(part, 0)[:, rows[:, None], rows] * factor**2
                sigma.diagonal(dim1=-2, dim2=-1).add_(eps)
            lower, failed = torch.linalg.cholesky_ex(sigma)
            lower = lower.to(dtype)
            out.fill(block, invert_lower(lower))
        return bool(failed.any())

    starts = range(0, positions, step)
    if device.type == "cpu":
        # One thread a block: threads that share one small matrix spend their time waiting for
        # each other, and on a busy machine ten times as long.
        with ThreadPoolExecutor(
            torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            failures = list(pool.map(work, starts))
    else:
        failures = [work(start) for start in starts]
    if any(failures):
        raise InputError(
            f"eps={eps}: the covariance of {moments.count} images in {dim} dimensions is "
            "singular; set eps > 0 (PaDiM uses 0.01) or use more images than dimensions"
        )
    return out


def scoring_bytes(positions: int, dim: int) -> int:
    """Bytes of what scoring needs beside backbone and Π: means and packed triangles in float32.

    >>> scoring_bytes(positions=784, dim=100) / 2**20  # 15.4 MiB
    15.40...
    """
    return 4 * positions * (dim + dim * (dim + 1) // 2)


def mahalanobis(x: Tensor, mean: Tensor, whitening: Triangle) -> Tensor:
    """Distances M = ‖W(x−μ)‖ = sqrt((x−μ)ᵀ Σ⁻¹ (x−μ)) (eq. 5 and 10), not squared.

    Args:
        x: (B,P,D).
        mean: (P,D).
        whitening: P triangles of D rows.

    Returns:
        (B,P).

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
