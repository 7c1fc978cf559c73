"""What a projection that depends on data learns from, before the fit: a few good images.

Means of the positions and the covariance around them, in all C channels. The covariance is averaged
over the positions, so that some ten images already give thousands of patches and the result is one
(C,C) matrix.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from padim_lit.errors import InputError


def spread(total: int, count: int) -> list[int]:
    """`count` of the indices below `total`, evenly spread; all of them where there are fewer."""
    count = min(total, count)
    return [i * total // count for i in range(count)]


def patch_statistics(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Covariance within positions and their means, from embeddings (B,P,C) batch by batch.

    S_w = 1/((N−1)P) Σ_n Σ_p (x_np − μ_p)(x_np − μ_p)ᵀ. Sums are taken around the first image, so
    that they do not cancel, in float64, and image by image, so that the split into batches does
    not matter.

    Returns:
        within (C,C) and means (P,C), float64.

    Raises:
        InputError: fewer than two images, or a value that is not finite.
    """
    origin, count = None, 0
    for batch in batches:
        for x in batch:
            if origin is None:
                origin = x
                total = torch.zeros_like(x, dtype=torch.float64)
                squares = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
            shifted = x - origin
            total += shifted
            squares += shifted.T @ shifted
            count += 1
    if count < 2:
        raise InputError(f"a projection that learns needs at least 2 training images, not {count}")
    within = (squares - total.T @ total / count) / ((count - 1) * len(total))
    if not within.isfinite().all():
        raise InputError("a training image's features are not finite; check images and weights")
    return within, origin.double() + total / count
