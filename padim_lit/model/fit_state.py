"""What a fit gathers, image by image: the moments, and which images they are made of.

A fit is a sum, so two states add and one can be taken away again (`mode=merge`, `update`,
`remove`), and the ranks of a fit on several devices add theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from padim_lit.errors import InputError
from padim_lit.model.moments import Moments
from padim_lit.model.triangular import Triangle

# Gaussians whose scatter crosses the network at once.
REDUCE_GAUSSIANS = 256


@dataclass(frozen=True)
class FitState:
    """Sums over N images.

    Attributes:
        count: N.
        moments: counts, mean and scatter of G Gaussians.
        layer_means: (L,G,D) float32, each layer's share of μ, by which scores are explained.
        digests: (N,16) uint8, which images they are (`padim_lit.digests`); None: not known.

    >>> from padim_lit.model.moments import init, update
    >>> moments = update(init(4, 2), torch.rand(8, 4, 2))
    >>> empty = FitState.empty(init(4, 2), layers=1)
    >>> state = empty.update(moments, torch.rand(1, 4, 2)).with_images(count=8, digests=None)
    >>> state.merge(state).count
    16
    """

    count: int
    moments: Moments
    layer_means: Tensor
    digests: Tensor | None

    @classmethod
    def empty(cls, moments: Moments, layers: int) -> "FitState":
        """Return the sums over no image; `moments` are those of no patch."""
        means = moments.mean.new_zeros(layers, *moments.mean.shape, dtype=torch.float32)
        return cls(0, moments, means, torch.empty(0, 16, dtype=torch.uint8))

    def map(self, change: Callable[[Tensor], Tensor]) -> "FitState":
        """Return the state with `change` applied to each tensor of moments and layer means."""
        means = change(self.layer_means)
        return FitState(self.count, self.moments.map(change), means, self.digests)

    def update(self, moments: Moments, layer_means: Tensor) -> "FitState":
        """Return the state with the patches of a batch.

        Args:
            moments: those with the batch.
            layer_means: (L,G,D), those of the batch alone.
        """
        means = _updated_layer_means(self, layer_means, moments)
        return FitState(self.count, moments, means, self.digests)

    def with_images(self, count: int, digests: Tensor | None) -> "FitState":
        """Return the state that counts a batch's images too, whose patches `update` has added.

        Args:
            count: B.
            digests: (B,16) uint8; None: not known.

        Raises:
            InputError: digests that are not (count,16) uint8.
        """
        if digests is not None:
            require_digests(digests, count)
        known = _together(self.digests, None if digests is None else digests.cpu())
        return FitState(self.count + count, self.moments, self.layer_means, known)

    def require_shape(self, *shape: int) -> None:
        """Raise InputError unless the state is of `shape`, (layers, Gaussians, dimensions)."""
        if (own := tuple(self.layer_means.shape)) != shape:
            raise InputError(
                f"fits of {own} and {shape} (layers, Gaussians, dimensions) do not combine; both "
                "must come from one config"
            )

    def merge(self, other: "FitState") -> "FitState":
        """Return the sums over both sets of images, as new tensors.

        Raises:
            InputError: the shapes differ.
        """
        other.require_shape(*self.layer_means.shape)
        known = _together(self.digests, other.digests)
        moments = merge(self.moments, other.moments)
        means = _updated_layer_means(self, other.layer_means, moments)
        return FitState(self.count + other.count, moments, means, known)

    def subtract(self, part: "FitState", left: Tensor, empty: Tensor) -> "FitState":
        """Return the sums without the images of `part`.

        Args:
            left: digests of the images that stay.
            empty: (G,D), the means of Gaussians without patches.

        Raises:
            InputError: other shapes, or fewer than 2 images would stay.
        """
        part.require_shape(*self.layer_means.shape)
        count = self.count - part.count
        if count < 2:
            raise InputError(
                f"cannot remove {part.count} of {self.count} images: at least 2 must stay"
            )
        moments = subtract(self.moments, part.moments, empty)
        return FitState(count, moments, _updated_layer_means(self, part.layer_means, moments), left)

    def reduce(
        self, sum_over_ranks: Callable[[Tensor], Tensor], gather: Callable[[Any], list[Any]]
    ) -> "FitState":
        """Return the sums over all ranks' images, on every rank. The scatter is changed in place.

        Args:
            sum_over_ranks: all-reduce of a contiguous tensor by summing, in place or not.
            gather: all-gather of an object, as a list.
        """
        mine = self.layer_means * self.moments.counts[:, None].float()
        moments = reduce(self.moments, sum_over_ranks)
        means = sum_over_ranks(mine) / moments.counts.clamp(min=1)[:, None].float()
        counts, ranks = zip(*gather((self.count, self.digests)), strict=True)
        return FitState(sum(counts), moments, means, _together(*ranks))


def require_digests(digests: Any, count: int) -> None:
    """Raise InputError unless these are `count` digests, (count,16) uint8.

    >>> require_digests(torch.arange(3), count=3)
    Traceback (most recent call last):
    padim_lit.errors.InputError: a batch's digest is torch.int64 (3,); it must be torch.uint8 ...
    """
    tensor = isinstance(digests, Tensor)
    given = f"{digests.dtype} {tuple(digests.shape)}" if tensor else type(digests).__name__
    if given != (wanted := f"torch.uint8 {(count, 16)}"):
        raise InputError(
            f"a batch's digest is {given}; it must be {wanted}, see padim_lit.digests.digest, or "
            "be left out"
        )


def _together(*digests: Tensor | None) -> Tensor | None:
    """Return all digests (N,16); None where some are not known."""
    return None if any(part is None for part in digests) else torch.cat(digests)


def _updated_layer_means(state: FitState, means: Tensor, moments: Moments) -> Tensor:
    """Return the layers' means for the counts of `moments`.

    `means` are those of the patches by which the counts grow, or, where they shrink, of those that
    leave.
    """
    share = (moments.counts - state.moments.counts) / moments.counts.clamp(min=1)
    found = state.layer_means + (means - state.layer_means) * share.unsqueeze(1).float()
    return found * (moments.counts > 0).unsqueeze(1)


def merge(a: Moments, b: Moments) -> Moments:
    """Return the moments of both sets of patches, as if fitted on all; new tensors.

    S = S_a + S_b + (n_a n_b / n) δδᵀ with δ = μ_b − μ_a and n = n_a + n_b.

    >>> from padim_lit.model.moments import init, update
    >>> one = update(init(4, 2), torch.rand(3, 4, 2))
    >>> merge(one, one).counts.tolist()
    [6.0, 6.0, 6.0, 6.0]
    """
    counts = a.counts + b.counts
    share = b.counts / counts.clamp(min=1)  # 0 where neither has a patch
    delta = b.mean - a.mean
    scatter = a.scatter.map(torch.add, b.scatter)
    _add_outer(scatter, delta, a.counts * share)
    return Moments(counts, a.mean + delta * share.unsqueeze(1), scatter)


def subtract(whole: Moments, part: Moments, empty: Tensor) -> Moments:
    """Return the moments of the patches of `whole` without those of `part`; new tensors.

    The inverse of `merge`: S = S_whole − S_part − (n_part n / n_whole) δδᵀ, δ = μ_part − μ. The
    rounding errors of the whole stay, so what is left is relatively less exact.

    Args:
        empty: (G,D), the means of Gaussians without patches.

    Raises:
        InputError: a Gaussian of `part` has more patches than that of `whole`.

    >>> from padim_lit.model.moments import init, update
    >>> one = update(init(4, 2), torch.rand(3, 4, 2))
    >>> subtract(merge(one, one), one, empty=init(4, 2).mean).counts.tolist()
    [3.0, 3.0, 3.0, 3.0]
    """
    left = whole.counts - part.counts
    if (left < 0).any():
        raise InputError("what is to be removed holds more patches of a Gaussian than it has")
    total = whole.mean * whole.counts.unsqueeze(1) - part.mean * part.counts.unsqueeze(1)
    mean = torch.where(left.unsqueeze(1) > 0, total / left.unsqueeze(1), empty.to(total))
    scatter = whole.scatter.map(torch.sub, part.scatter)
    _add_outer(scatter, part.mean - mean, -part.counts * left / whole.counts.clamp(min=1))
    # Where no patch is left, only rounding errors would be.
    scatter = scatter.map(lambda band: band * (left > 0).to(band.dtype)[:, None, None])
    return Moments(left, mean, scatter)


def reduce(moments: Moments, sum_over_ranks: Callable[[Tensor], Tensor]) -> Moments:
    """Return the moments of all ranks' patches, on every rank. The scatter is changed in place.

    S = Σ_r (S_r + n_r δ_r δ_rᵀ) with δ_r = μ_r − μ. Only sums cross the network, a block of
    Gaussians at a time, so no rank holds the moments of another.

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
    """Add w δδᵀ to the scatter in place, with δ (G,D) and w (G,), all of one sign."""
    rows = delta * weights.abs().sqrt().unsqueeze(1)
    sign = -1.0 if (weights < 0).any() else 1.0
    scatter.add_products(rows.to(scatter.dtype).unsqueeze(1), sign)
