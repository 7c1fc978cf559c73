"""Densities: which Gaussian a patch is fitted to, and how far a patch is from the Gaussians.

To add one: subclass `Density`, give it a `name` (which registers it), implement what is abstract,
and add ``conf/density/NAME.yaml``, which names the class (docs/own.md).
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from padim_lit.errors import InputError
from padim_lit.model.embedding import ProjectedLayer
from padim_lit.model.gaussian import factorize, mahalanobis
from padim_lit.model.moments import Moments, init, update
from padim_lit.model.registered import Part
from padim_lit.model.ridge import Ridge
from padim_lit.model.triangular import Triangle

#: Every subclass of `Density` by its name, where its module has been imported.
DENSITIES: dict[str, type["Density"]] = {}
#: From layers' shares to the embeddings (B,P,D) that they add up to.
AddUp = Callable[[Sequence[ProjectedLayer]], Tensor]
#: Keeps of (B,P,…) the positions in the region of interest, where there is one.
Counted = Callable[[Tensor], Tensor]


class Density(Part):
    """Base: G Gaussians, and a rule that assigns patches to them.

    The rule is settled before the fit, so that a fit is a sum over patches: more can be added.

    Args:
        dim: D.
        seed: the only source of randomness.
        shrinkage: ν, how many patches the covariance pooled over all Gaussians weighs in each one's
            own.

    Raises:
        InputError: ν below 0 or not finite.

    >>> DENSITIES['mixture'](dim=8, components=64).gaussians(positions=784)
    64
    """

    key, known = "density", DENSITIES

    def __init__(self, dim: int, seed: int = 0, shrinkage: float = 0.0):
        super().__init__()
        if not 0 <= shrinkage < math.inf:
            raise InputError(f"density.shrinkage={shrinkage}: must be finite and 0 or more patches")
        self.dim, self.seed, self.shrinkage = dim, seed, float(shrinkage)

    @property
    def learnt(self) -> dict[str, float]:
        """Numbers that `learn` has set, by name, for a run's results."""
        return {}

    @abstractmethod
    def gaussians(self, positions: int) -> int:
        """Return G for P positions."""

    def empty(self, positions: int, device: torch.device | str) -> Moments:
        """Return the moments of no patch."""
        means = self.empty_means(positions).to(device)
        return replace(init(len(means), self.dim, device), mean=means)

    def empty_means(self, positions: int) -> Tensor:
        """Return the means (G,D) float64 of Gaussians without patches: 0, or what was learnt."""
        return torch.zeros(self.gaussians(positions), self.dim, dtype=torch.float64)

    def learn(self, x: Tensor) -> None:
        """Choose the rule before the fit, from patches (B,P,D) of good images."""
        raise NotImplementedError(f"density={self.name} learns nothing before the fit")

    def adopt(self, other: "Density") -> None:
        """Take over what `other` has learnt, so that moments of both can be added."""
        self.load_state_dict(other.state_dict())
        self.fit_images = 0

    def layer_embeddings(self, layers: Sequence[ProjectedLayer], add_up: AddUp) -> Tensor:
        """Return each layer's share of the embeddings, (L,B,P,D), or its mean over B, (L,1,P,D)."""
        return torch.stack([add_up([layer]) for layer in layers])

    @abstractmethod
    def update_moments(
        self, moments: Moments, x: Tensor, shares: Tensor, counted: Counted
    ) -> tuple[Moments, Tensor]:
        """Add a batch; return the moments, and each layer's share of the batch's means (L,G,D).

        Args:
            moments: their scatter is changed in place.
            x: the batch's embeddings (B,P,D).
            shares: see `layer_embeddings`.
            counted: see `Counted`.
        """

    def shrinking(self, ridge: Ridge) -> Ridge:
        """Return `ridge` with this density's ν."""
        return replace(ridge, shrinkage=self.shrinkage)

    def factorize(self, moments: Moments, ridge: Ridge, out: Triangle | None = None) -> Triangle:
        """Return the factors that `nearest` takes, see `padim_lit.model.gaussian.factorize`."""
        return factorize(moments, self.shrinking(ridge), out=out)

    @abstractmethod
    def nearest(self, x: Tensor, mean: Tensor, whitening: Triangle) -> tuple[Tensor, Tensor]:
        """Return patches' distances, not squared, and which Gaussian is nearest: both (B,P).

        A distance is the Mahalanobis distance to that Gaussian; of `Both` it is a weighted sum of
        two, see `terms`.

        Args:
            x: (B,P,D).
            mean: (G,D).
            whitening: G triangles of D rows.
        """

    def parts(self, positions: int) -> list[tuple["Density", slice]]:
        """Return the densities that this one is made of, each with its slice of the G Gaussians."""
        return [(self, slice(None))]

    def scales(self, log_dets: Sequence[float]) -> list[float]:
        """Return what the distances to each part's Gaussians are multiplied by.

        Args:
            log_dets: mean log det Σ of each part's Gaussians.
        """
        return [1.0]

    def scales_in(self, whitening: Triangle) -> list[float]:
        """Return the `scales` that `factorize` has put into these factors."""
        return [1.0]

    def combine(self, distances: Sequence[Tensor]) -> Tensor:
        """Return the patches' distances, made of the scaled distances to each part."""
        (only,) = distances
        return only

    def terms(
        self, x: Tensor, mean: Tensor, whitening: Triangle
    ) -> list[tuple[float, slice | Tensor]]:
        """Return weights, and for each which Gaussian it applies to: indices (P,), or a slice.

        The distances to these Gaussians, so weighted, add up to the distances of `nearest`.

        Args:
            x: (1,P,D); the others as `nearest` takes them.
        """
        return [(1.0, self.nearest(x, mean, whitening)[1][0])]


class PerPosition(Density):
    """One Gaussian a position, as PaDiM has it: for parts that always lie the same way.

    >>> PerPosition(dim=8).gaussians(positions=784)
    784
    """

    name = "position"
    seeded = False

    def gaussians(self, positions: int) -> int:
        return positions

    def layer_embeddings(self, layers: Sequence[ProjectedLayer], add_up: AddUp) -> Tensor:
        # Averaged on each layer's own grid, which is smaller.
        means = [ProjectedLayer(x.values.mean(dim=0, keepdim=True), x.dims) for x in layers]
        return super().layer_embeddings(means, add_up)

    def update_moments(
        self, moments: Moments, x: Tensor, shares: Tensor, counted: Counted
    ) -> tuple[Moments, Tensor]:
        return update(moments, x), shares.mean(dim=1)

    def nearest(self, x: Tensor, mean: Tensor, whitening: Triangle) -> tuple[Tensor, Tensor]:
        distances = mahalanobis(x, mean, whitening)
        return distances, torch.arange(len(mean), device=x.device).expand_as(distances)

    def terms(
        self, x: Tensor, mean: Tensor, whitening: Triangle
    ) -> list[tuple[float, slice | Tensor]]:
        if type(self) is not PerPosition:  # a subclass may measure otherwise
            return super().terms(x, mean, whitening)
        return [(1.0, slice(None))]  # a view of the factors, where indices would copy them
