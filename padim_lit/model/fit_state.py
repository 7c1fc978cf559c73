"""What a fit gathers, image by image: the moments, and which images they are made of.

A fit is a sum, so two states add and one can be taken away again (`mode=merge`, `update`,
`remove`), and the ranks of a fit on several devices add theirs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from padim_lit.model import moments as sums
from padim_lit.model.embedding import ProjectedLayer, add_up
from padim_lit.model.moments import Moments


@dataclass(frozen=True)
class FitState:
    """Sums over n images.

    Attributes:
        moments: mean and scatter of every position, what the Gaussians are made of.
        layer_means: (L,P,D) float32, each layer's share of the mean: what scores are explained by.
        digests: (n,16) uint8, which images they were (`padim_lit.digests`); None where unknown.

    >>> state = FitState.empty(positions=4, dim=2, layers=1)
    >>> state = state.update(torch.rand(8, 4, 2), torch.rand(1, 4, 2), None)
    >>> state.merge(state).count
    16
    """

    moments: Moments
    layer_means: Tensor
    digests: Tensor | None

    @classmethod
    def empty(
        cls, positions: int, dim: int, layers: int, device: torch.device | str = "cpu"
    ) -> "FitState":
        """Of no image, for P positions, D dimensions and L layers."""
        return cls(
            sums.init(positions, dim, device),
            torch.zeros(layers, positions, dim, device=device),
            torch.empty(0, 16, dtype=torch.uint8),
        )

    @property
    def count(self) -> int:
        """n."""
        return self.moments.count

    def map(self, change: Callable[[Tensor], Tensor]) -> "FitState":
        """Moments and layer means changed."""
        return FitState(self.moments.map(change), change(self.layer_means), self.digests)

    def update(self, x: Tensor, layer_means: Tensor, digests: Tensor | None) -> "FitState":
        """With B images more. The scatter is changed in place; use what is returned.

        Args:
            x: (B,P,D), finite.
            layer_means: (L,P,D) of these images, see `mean_of_layers`.
            digests: (B,16), or None.
        """
        known = None
        if digests is not None and self.digests is not None:
            known = torch.cat([self.digests, digests.cpu()])
        means = _mean(self, layer_means, len(x))
        return FitState(sums.update(self.moments, x), means, known)

    def merge(self, other: "FitState") -> "FitState":
        """Of both sets of images; new tensors. InputError where the shapes differ."""
        known = None
        if self.digests is not None and other.digests is not None:
            known = torch.cat([self.digests, other.digests])
        moments = sums.merge(self.moments, other.moments)
        return FitState(moments, _mean(self, other.layer_means, other.count), known)

    def subtract(self, part: "FitState", left: Tensor) -> "FitState":
        """Without the images of `part`; `left` are the digests of those that stay.

        Raises:
            InputError: other shapes, or fewer than 2 images would stay.
        """
        moments = sums.subtract(self.moments, part.moments)
        return FitState(moments, _mean(self, part.layer_means, -part.count), left)

    def reduce(
        self, sum_over_ranks: Callable[[Tensor], Tensor], gather: Callable[[Any], list[Any]]
    ) -> "FitState":
        """Of all ranks' images, on every rank. The scatter is changed in place.

        Args:
            sum_over_ranks: see `padim_lit.model.moments.reduce`.
            gather: every rank's object, from this rank's.
        """
        moments = sums.reduce(self.moments, sum_over_ranks)
        means = sum_over_ranks(self.layer_means * self.count) / max(moments.count, 1)
        ranks = gather(self.digests)
        known = None if any(part is None for part in ranks) else torch.cat(ranks)
        return FitState(moments, means, known)


def mean_of_layers(layers: Sequence[ProjectedLayer], grid: tuple[int, int], dim: int) -> Tensor:
    """Each layer's share of the mean embedding of a batch, (L,P,D): they add up to it.

    >>> layers = [ProjectedLayer(torch.ones(3, 1, 1, 2), slice(0, 2))]
    >>> mean_of_layers(layers, (2, 2), dim=2).shape
    torch.Size([1, 4, 2])
    """
    means = [ProjectedLayer(layer.values.mean(dim=0, keepdim=True), layer.dims) for layer in layers]
    return torch.cat([add_up([mean], grid, dim) for mean in means])


def _mean(state: FitState, means: Tensor, count: int) -> Tensor:
    """The layers' means with those of `count` images more; below 0 they are taken away."""
    if state.count == 0:
        return means
    return state.layer_means + (means - state.layer_means) * (count / (state.count + count))
