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
from padim_lit.model import merging
from padim_lit.model.moments import Moments


@dataclass(frozen=True)
class FitState:
    """Sums over N images.

    Attributes:
        count: N.
        moments: counts, mean and scatter of G Gaussians.
        layer_means: (L,G,D) float32, each layer's share of the mean: what scores are explained by.
        digests: (N,16) uint8, which images they were (`padim_lit.digests`); None where unknown.

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
        """Of no image; `moments` are those of no patch."""
        means = moments.mean.new_zeros(layers, *moments.mean.shape, dtype=torch.float32)
        return cls(0, moments, means, torch.empty(0, 16, dtype=torch.uint8))

    def map(self, change: Callable[[Tensor], Tensor]) -> "FitState":
        """Moments and layer means changed."""
        means = change(self.layer_means)
        return FitState(self.count, self.moments.map(change), means, self.digests)

    def update(self, moments: Moments, layer_means: Tensor) -> "FitState":
        """With the patches of a batch more.

        Args:
            moments: with the batch.
            layer_means: (L,G,D), of the batch alone.
        """
        means = _updated_layer_means(self, layer_means, moments)
        return FitState(self.count, moments, means, self.digests)

    def with_images(self, count: int, digests: Tensor | None) -> "FitState":
        """With so many images more, whose patches are in; their digests (B,16), if known.

        Raises:
            InputError: digests that no checkpoint could hold.
        """
        if digests is not None:
            require_digests(digests, count)
        known = _together(self.digests, None if digests is None else digests.cpu())
        return FitState(self.count + count, self.moments, self.layer_means, known)

    def require_shape(self, *shape: int) -> None:
        """Raise InputError unless it is of so many layers, Gaussians and dimensions."""
        if (own := tuple(self.layer_means.shape)) != shape:
            raise InputError(
                f"fits of {own} and {shape} (layers, Gaussians, dimensions) do not combine; both "
                "must come from one config"
            )

    def merge(self, other: "FitState") -> "FitState":
        """Of both sets of images; new tensors. InputError where the shapes differ."""
        other.require_shape(*self.layer_means.shape)
        known = _together(self.digests, other.digests)
        moments = merging.merge(self.moments, other.moments)
        means = _updated_layer_means(self, other.layer_means, moments)
        return FitState(self.count + other.count, moments, means, known)

    def subtract(self, part: "FitState", left: Tensor, empty: Tensor) -> "FitState":
        """Without the images of `part`; `left` are the digests of those that stay.

        Args:
            empty: see `padim_lit.model.merging.subtract`.

        Raises:
            InputError: other shapes, or fewer than 2 images would stay.
        """
        part.require_shape(*self.layer_means.shape)
        count = self.count - part.count
        if count < 2:
            raise InputError(
                f"cannot remove {part.count} of {self.count} images: at least 2 must stay"
            )
        moments = merging.subtract(self.moments, part.moments, empty)
        return FitState(count, moments, _updated_layer_means(self, part.layer_means, moments), left)

    def reduce(
        self, sum_over_ranks: Callable[[Tensor], Tensor], gather: Callable[[Any], list[Any]]
    ) -> "FitState":
        """Of all ranks' images, on every rank. The scatter is changed in place.

        Args:
            sum_over_ranks: see `padim_lit.model.merging.reduce`.
            gather: every rank's object, from this rank's.
        """
        mine = self.layer_means * self.moments.counts[:, None].float()
        moments = merging.reduce(self.moments, sum_over_ranks)
        means = sum_over_ranks(mine) / moments.counts.clamp(min=1)[:, None].float()
        counts, ranks = zip(*gather((self.count, self.digests)), strict=True)
        return FitState(sum(counts), moments, means, _together(*ranks))


def require_digests(digests: Any, count: int) -> None:
    """Raise InputError unless they are so many as `padim_lit.digests.digest` makes them.

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
    """(N,16) of all; None where some are unknown."""
    return None if any(part is None for part in digests) else torch.cat(digests)


def _updated_layer_means(state: FitState, means: Tensor, moments: Moments) -> Tensor:
    """The layers' means once the counts are those of `moments`.

    `means` weigh as many patches as the counts grow by, and are taken away where they shrink.
    """
    share = (moments.counts - state.moments.counts) / moments.counts.clamp(min=1)
    found = state.layer_means + (means - state.layer_means) * share.unsqueeze(1).float()
    return found * (moments.counts > 0).unsqueeze(1)
