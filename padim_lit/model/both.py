"""The default density: a Gaussian at each position, and a mixture over all positions, together."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from padim_lit.errors import InputError
from padim_lit.model.density import Counted, Density, PerPosition
from padim_lit.model.gaussian import factorize
from padim_lit.model.groups import Groups
from padim_lit.model.mixture import Mixture
from padim_lit.model.moments import Moments, init
from padim_lit.model.ridge import Ridge
from padim_lit.model.triangular import Triangle, covariance_log_det

# The most that a position's own distance weighs where a component is nearer; and the standard
# deviations of log variances up to which it weighs that, and from which on it weighs nothing.
MAX_POSITION_WEIGHT, SPREAD_ALIKE, SPREAD_APART = 0.5, 0.15, 0.17
# Patches of a component, divided by D, from which on its variance says anything. It was chosen on
# ELPV's cells, as they are and thrown, with four backbones (docs/choices.md).
MIN_PATCHES_OVER_DIM = 2 / 3
# Share of the variance of all good patches that is added to a component's while w is learnt.
COMPONENT_EPS = 0.01
# Images whose patches are measured at once.
IMAGES_AT_ONCE = 16


class Both(Density):
    """P Gaussians, one for each position, and K more, the components of a mixture.

    With d_p the distance to the position's Gaussian, d_k that to the nearest component's, and two
    numbers c and w, d = (1−w) min(c d_p, d_k) + w c d_p. So a patch is normal if it is like good
    patches at its position, or, with the weight 1−w, like those of a component, which may come from
    anywhere. The position knows good patches better where all parts lie the same way; the
    components do where parts lie in any way, or where images are few.

    To a wide Gaussian everything is near. Where parts lie in any way, a position sees patches of
    all components, and where images are few, its covariance is mostly the pooled one: both make
    its Gaussian wider than a component's. So its distances count c times,
    c⁴ = (det Σ_p / det Σ_k)^(1/D) with the geometric means of the determinants over positions and
    over components. That is half of the way to distances of Gaussians of equal volume.

    A position's distance is useful where one Gaussian can describe the patches there. It cannot
    where one image has a component there that varies much, and the next one that hardly varies, as
    a part and the ground that it lies on. So w is `MAX_POSITION_WEIGHT` where components at a
    position vary alike, and 0 where they do not; it is learnt with the components, see `learn`, or
    given.

    Args:
        dim: D.
        seed: of the `Mixture`.
        components: K, the mixture's Gaussians.
        fit_images: good images that the mixture and ``position_weight`` are learnt from.
        shrinkage: ν, how many patches the covariance pooled over all positions counts as in that
            of each position, and the one pooled over all components likewise; None takes D/2.
            Without it, few images give such large distances to positions that a component is
            nearly always nearer.
        position_weight: w, from 0 (the nearer alone counts) to 1 (the position alone); None learns
            it, from 0 to 0.5. Give 0.5 for aligned parts where other sizes, D or projections than
            the default's learn less.

    Raises:
        InputError: as `Mixture`; w beyond 0 and 1.

    >>> Both(dim=8, components=64).gaussians(positions=784)
    848
    """

    name = "both"
    position_weight: Tensor

    def __init_subclass__(cls, **kwargs: Any):
        """Raise InputError: what measures the parts apart would not know what a class changes."""
        raise InputError(
            f"{cls.__name__}: no class can be derived from Both; derive it from Density, "
            "PerPosition or Mixture, as docs/own.md shows"
        )

    def __init__(
        self,
        dim: int,
        seed: int = 0,
        components: int = 256,
        fit_images: int = 64,
        shrinkage: float | None = None,
        position_weight: float | None = None,
    ):
        if position_weight is not None and not 0 <= position_weight <= 1:
            raise InputError(
                f"density.position_weight={position_weight}: must be from 0 to 1, the share that "
                "a position's own distance has where a component is nearer, or null to learn it"
            )
        super().__init__(dim, seed, dim / 2 if shrinkage is None else shrinkage)
        self.position = PerPosition(dim, seed, self.shrinkage)
        self.mixture = Mixture(dim, seed, components, fit_images, self.shrinkage)
        self.components, self.fit_images = components, fit_images
        self.given_weight = position_weight
        self.register_buffer(
            "position_weight", torch.tensor(float(position_weight or 0), dtype=torch.float32)
        )

    @cached_property
    def options(self) -> dict[str, Any]:
        # Only a given weight is named, as checkpoints from before it could be given name none.
        learns = self.given_weight is None
        return {k: v for k, v in super().options.items() if k != "position_weight" or not learns}

    def argument(self, name: str) -> Any:
        return self.given_weight if name == "position_weight" else super().argument(name)

    @property
    def learnt(self) -> dict[str, float]:
        return {"position_weight": float(self.position_weight)}

    def gaussians(self, positions: int) -> int:
        return positions + self.components

    def parts(self, positions: int) -> list[tuple[Density, slice]]:
        return [(self.position, slice(positions)), (self.mixture, slice(positions, None))]

    def empty_means(self, positions: int) -> Tensor:
        components = self.mixture.empty_means(positions)
        return torch.cat([self.position.empty_means(positions).to(components), components])

    @torch.no_grad()
    def learn(self, x: Tensor) -> None:
        """Learn the components (k-means), and w from how differently those at a position vary.

        In coordinates in which all good patches together are white, log det Σ_k / D is a
        component's mean log variance. h² is its variance over the images at a position, in the mean
        over positions. Up to h = `SPREAD_ALIKE` w is `MAX_POSITION_WEIGHT`, from `SPREAD_APART` on
        it is 0, and between them it falls linearly. Where components have fewer than ⅔ D patches on
        average, too much of Σ_k is the pooled covariance, and all components look alike: w is 0.
        """
        self.mixture.learn(x)
        if self.given_weight is not None:
            return
        self.position_weight = torch.zeros_like(self.position_weight)
        if x.shape[:2].numel() < MIN_PATCHES_OVER_DIM * self.dim * self.components:
            return
        owners, white = [], self.mixture.white
        moments = init(self.components, self.dim, x.device)
        x = x.to(white.dtype)
        centre = x.mean(dim=(0, 1), dtype=torch.float64).to(white.dtype)
        for images in x.split(IMAGES_AT_ONCE):
            groups = Groups(self.mixture.assign(images.flatten(0, 1)), self.components)
            owners.append(groups.owner.view(images.shape[:2]))
            with torch.autocast(x.device.type, enabled=False):
                moments = groups.update(moments, (images - centre).flatten(0, 1) @ white.T)
        factors = factorize(moments, Ridge(COMPONENT_EPS, shrinkage=self.dim / 2))
        widths = (covariance_log_det(factors) / self.dim)[torch.cat(owners)]  # (B,P)
        spread = widths.var(dim=0, correction=0).mean().sqrt()  # h in docs/method.md
        alike = ((SPREAD_APART - spread) / (SPREAD_APART - SPREAD_ALIKE)).clamp(0, 1)
        self.position_weight = (MAX_POSITION_WEIGHT * alike).to(self.position_weight)

    def update_moments(
        self, moments: Moments, x: Tensor, shares: Tensor, counted: Counted
    ) -> tuple[Moments, Tensor]:
        found = [
            part.update_moments(moments.at(some), x, shares, counted)
            for part, some in self.parts(x.shape[1])
        ]
        parts, means = zip(*found, strict=True)
        counts, mean = torch.cat([m.counts for m in parts]), torch.cat([m.mean for m in parts])
        # Both parts have changed their scatter in place.
        return Moments(counts, mean, moments.scatter), torch.cat(means, dim=1)

    def combine(self, distances: Sequence[Tensor]) -> Tensor:
        to_position, to_component = distances
        nearest = torch.minimum(to_position, to_component)
        return nearest + self.position_weight.to(nearest.device) * (to_position - nearest)

    def scales(self, log_dets: Sequence[float]) -> list[float]:
        positions, components = log_dets
        return [math.exp((positions - components) / (4 * self.dim)), 1.0]

    def scales_in(self, whitening: Triangle) -> list[float]:
        positions, components = self._log_dets(whitening)
        # A scale of c takes 2D log c off the positions' log det Σ: half of the difference is left.
        return [math.exp((positions - components) / (2 * self.dim)), 1.0]

    def _log_dets(self, whitening: Triangle) -> list[float]:
        parts = self.parts(whitening.count - self.components)
        return [float(covariance_log_det(whitening.at(some)).mean()) for _, some in parts]

    def factorize(self, moments: Moments, ridge: Ridge, out: Triangle | None = None) -> Triangle:
        scatter, parts = moments.scatter, self.parts(len(moments.mean) - self.components)
        whitening = out or Triangle.zeros(scatter.count, scatter.dim, scatter.device, scatter.dtype)
        for part, some in parts:  # written where they belong: each copied would be twice in memory
            part.factorize(moments.at(some), ridge, whitening.at(some))
        for (_, some), scale in zip(parts, self.scales(self._log_dets(whitening)), strict=True):
            for band in whitening.at(some).bands:
                band.mul_(scale)
        return whitening

    def nearest(self, x: Tensor, mean: Tensor, whitening: Triangle) -> tuple[Tensor, Tensor]:
        (_, positions), (_, components) = self.parts(x.shape[1])  # c is in the positions' factors
        to_position, position = self.position.nearest(x, mean[positions], whitening.at(positions))
        search = self.mixture.search(mean, whitening, components)
        # inf where the position's is nearer
        to_component, component = search(x, at_most=to_position)
        owner = torch.where(to_position <= to_component, position, component + x.shape[1])
        return self.combine([to_position, to_component]), owner

    def terms(
        self, x: Tensor, mean: Tensor, whitening: Triangle
    ) -> list[tuple[float, slice | Tensor]]:
        ((_, nearest),) = super().terms(x, mean, whitening)
        weight = float(self.position_weight)
        both = [(1 - weight, nearest), (weight, slice(x.shape[1]))]
        return both if weight else both[:1]
