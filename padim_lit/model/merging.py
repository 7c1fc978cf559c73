"""Moments of several fits: added, one taken away from another, summed over ranks."""

from collections.abc import Callable

import torch
from torch import Tensor

from padim_lit.errors import InputError
from padim_lit.model.moments import Moments
from padim_lit.model.triangular import Triangle

# Gaussians whose scatter crosses the network at once.
REDUCE_GAUSSIANS = 256


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of both sets of patches, as if fitted on all; new tensors.

    S = S_a + S_b + (n_a n_b / n) δδᵀ with δ = μ_b − μ_a.

    Raises:
        InputError: the two have other numbers of Gaussians or dimensions.

    >>> from padim_lit.model.moments import init, update
    >>> one = update(init(4, 2), torch.rand(3, 4, 2))
    >>> merge(one, one).counts.tolist()
    [6.0, 6.0, 6.0, 6.0]
    """
    _check_alike(a, b)
    counts = a.counts + b.counts
    share = b.counts / counts.clamp(min=1)  # of nothing and nothing it is nothing
    delta = b.mean - a.mean
    pairs = zip(a.scatter.bands, b.scatter.bands, strict=True)
    scatter = Triangle(tuple(x + y for x, y in pairs))
    _add_outer(scatter, delta, a.counts * share)
    return Moments(counts, a.mean + delta * share.unsqueeze(1), scatter)


def subtract(whole: Moments, part: Moments, empty: Tensor) -> Moments:
    """Moments of the patches of `whole` without those of `part`; new tensors.

    The inverse of `merge`. Rounding of the whole stays, so it is relatively less exact the more
    is taken away.

    Args:
        empty: (G,D), the means of Gaussians without patches.

    Raises:
        InputError: other shapes, or a Gaussian would have fewer than none.

    >>> from padim_lit.model.moments import init, update
    >>> one = update(init(4, 2), torch.rand(3, 4, 2))
    >>> subtract(merge(one, one), one, empty=init(4, 2).mean).counts.tolist()
    [3.0, 3.0, 3.0, 3.0]
    """
    _check_alike(whole, part)
    left = whole.counts - part.counts
    if (left < 0).any():
        raise InputError("what is to be removed holds more patches of a Gaussian than it has")
    total = whole.mean * whole.counts.unsqueeze(1) - part.mean * part.counts.unsqueeze(1)
    mean = torch.where(left.unsqueeze(1) > 0, total / left.unsqueeze(1), empty.to(total))
    pairs = zip(whole.scatter.bands, part.scatter.bands, strict=True)
    scatter = Triangle(tuple(x - y for x, y in pairs))
    _add_outer(scatter, part.mean - mean, -part.counts * left / whole.counts.clamp(min=1))
    # Rounding alone would stay where nothing does.
    scatter = scatter.map(lambda band: band * (left > 0).to(band.dtype)[:, None, None])
    return Moments(left, mean, scatter)


def reduce(moments: Moments, sum_over_ranks: Callable[[Tensor], Tensor]) -> Moments:
    """Moments of all ranks' patches, on every rank. The scatter is changed in place.

    S = Σ_r S_r + n_r δ_r δ_rᵀ with δ_r = μ_r − μ. Sums alone cross the network, a block of
    Gaussians at a time, so nothing is ever held once per rank.

    Args:
        moments: this rank's; n_r may be 0.
        sum_over_ranks: all-reduce of a contiguous tensor by summing, in place or not.

    >>> from padim_lit.model.moments import init, update
    >>> both = reduce(update(init(4, 2), torch.rand(3, 4, 2)), lambda mine: mine * 2)
    >>> both.counts.tolist()  # of two ranks
    [6.0, 6.0, 6.0, 6.0]
    """
    counts = sum_over_ranks(moments.counts.clone())
    total = sum_over_ranks(moments.mean * moments.counts.unsqueeze(1))
    mean = torch.where(counts.unsqueeze(1) > 0, total / counts.unsqueeze(1), moments.mean)
    _add_outer(moments.scatter, moments.mean - mean, moments.counts)
    for band in moments.scatter.bands:
        for block in band.split(REDUCE_GAUSSIANS):
            block.copy_(sum_over_ranks(block))
    return Moments(counts, mean, moments.scatter)


def _add_outer(scatter: Triangle, delta: Tensor, weights: Tensor) -> None:
    """Add w δδᵀ with w (G,), all of one sign."""
    rows = delta * weights.abs().sqrt().unsqueeze(1)
    sign = -1.0 if (weights < 0).any() else 1.0
    scatter.add_products(rows.to(scatter.dtype).unsqueeze(1), sign)


def _check_alike(a: Moments, b: Moments) -> None:
    if a.mean.shape != b.mean.shape:
        raise InputError(
            f"moments of {tuple(a.mean.shape)} and {tuple(b.mean.shape)} (Gaussians, dimensions) "
            "do not combine; both must come from one config"
        )
