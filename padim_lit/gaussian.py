"""From moments to Mahalanobis distances: factor once, then score with one batched product."""

import torch
from torch import Tensor

from padim_lit.errors import InputError
from padim_lit.moments import Moments, covariance, require_two

# Positions are factored in blocks of about this many float64 numbers: it bounds what the fit
# needs beyond its state.
BLOCK_NUMBERS = 2**24


def whiten(moments: Moments, eps: float) -> Tensor:
    """Whitening factors W_ij = L_ij⁻¹ with Σ_ij + εI = L_ij L_ijᵀ (eq. 4 and 9), lower triangular.

    Factored in float64, because the features' spread over ε reaches 10⁵.

    Args:
        moments: of N images at P positions.
        eps: ε ≥ 0, added to the diagonal, in squared feature units.

    Returns:
        (P,D,D) in the scatter's dtype.

    Raises:
        InputError: fewer than 2 images, or a covariance that is not positive definite (ε too small
            for N ≤ D).
    """
    require_two(moments)
    positions, dim = moments.mean.shape
    factor = torch.empty_like(moments.scatter)
    identity = torch.eye(dim, dtype=torch.float64, device=moments.scatter.device)
    step = max(1, BLOCK_NUMBERS // dim**2)
    for i in range(0, positions, step):
        block = Moments(moments.count, moments.mean[i : i + step], moments.scatter[i : i + step])
        lower, failed = torch.linalg.cholesky_ex(covariance(block, eps))
        if failed.any():
            raise InputError(
                f"eps={eps}: the covariance of {moments.count} images in {dim} dimensions is "
                "singular; set eps > 0 (PaDiM uses 0.01) or use more images than dimensions"
            )
        factor[i : i + step] = torch.linalg.solve_triangular(lower, identity, upper=False)
    return factor


def mahalanobis(x: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """Distances M = ‖W(x−μ)‖ = sqrt((x−μ)ᵀ Σ⁻¹ (x−μ)) (eq. 5 and 10), not squared.

    Args:
        x: (B,P,D).
        mean: (P,D).
        whitening: (P,D,D).

    Returns:
        (B,P).
    """
    deviation = (x - mean.to(x.dtype)).transpose(0, 1)  # (P,B,D)
    return torch.bmm(deviation, whitening.transpose(1, 2)).norm(dim=2).T
