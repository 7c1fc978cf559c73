"""A Gaussian a position and a mixture over all positions together."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from padim_lit.model.density import Counted, Density, PerPosition
from padim_lit.model.gaussian import covariance_log_det, factorize
from padim_lit.model.groups import Groups
from padim_lit.model.mixture import Mixture
from padim_lit.model.moments import Moments, init
from padim_lit.model.ridge import Ridge
from padim_lit.model.triangular import Triangle

# What a place's own distance weighs at most where a kind is nearer, and the standard deviations
# of log variances up to which it does and from which on it weighs nothing.
MAX_PLACE_WEIGHT, SPREAD_ALIKE, SPREAD_APART = 0.5, 0.15, 0.17
# Patches a kind, over D, from which on its variance says anything: chosen on ELPV's cells as they
# are, and thrown, with four backbones (docs/choices.md).
MIN_PATCHES_OVER_DIM = 2 / 3
# Of the variance of all good patches, added to a kind's where those are measured.
KIND_EPS = 0.01
# Images whose patches are measured at once.
IMAGES_AT_ONCE = 16


class Both(Density):
    """P Gaussians of places (a place is a position) and K of kinds (a mixture's components).

    With d_p the distance to the place's Gaussian, d_k that to the nearest kind's, and two numbers
    c and w, d = (1−w) min(c d_p, d_k) + w c d_p: a patch is as good ones are if it is like those at
    its place, or, as far as 1−w goes, like those of a kind that is found anywhere. Where parts lie
    the same way the first knows good patches better, where they lie as they fall, or are few, the
    second; nobody has to say which.

    Wide Gaussians call everything near. Where parts lie as they fall, a place sees all kinds of
    patches, and where images are few, its covariance is mostly the pooled one: both make its
    Gaussian wider than a kind's. So its distances count c times, c⁴ = (det Σ_p / det Σ_k)^(1/D)
    with the geometric means of the determinants over places and over kinds, which goes half of the
    way to distances of Gaussians of one volume.

    A place's distance is worth hearing where one Gaussian can hold what is found there. It cannot
    where now a kind that varies much is found there, now one that hardly varies: the part, and what
    it lies on. So w is `MAX_PLACE_WEIGHT` where kinds at a place vary alike, and 0 where they do
    not; it is learnt with the kinds, see `learn`.

    Args:
        dim: D.
        seed: of the `Mixture`.
        components: K, the mixture's Gaussians.
        fit_images: good images that the mixture and ``place_weight`` are learnt from.
        shrinkage: ν, patches that the covariance pooled over all positions weighs in each one's
            own, and the one pooled over all components likewise; None takes D/2. Without it few
            images make a position's distances too large to be anyone's nearest.

    Raises:
        InputError: as `Mixture`.

    >>> Both(dim=8, components=64).gaussians(positions=784)
    848
    """

    name = "both"
    place_weight: Tensor

    def __init__(
        self,
        dim: int,
        seed: int = 0,
        components: int = 256,
        fit_images: int = 64,
        shrinkage: float | None = None,
    ):
        super().__init__(dim, seed, dim / 2 if shrinkage is None else shrinkage)
        self.position = PerPosition(dim, seed, self.shrinkage)
        self.mixture = Mixture(dim, seed, components, fit_images, self.shrinkage)
        self.options = self.mixture.options
        self.register_buffer("place_weight", torch.tensor(0.0))

    @property
    def fit_images(self) -> int:
        """The mixture's."""
        return self.mixture.fit_images

    @fit_images.setter
    def fit_images(self, images: int) -> None:
        self.mixture.fit_images = images

    @property
    def learnt(self) -> dict[str, float]:
        return {"place_weight": float(self.place_weight)}

    def gaussians(self, positions: int) -> int:
        return positions + self.mixture.components

    def parts(self, positions: int) -> list[tuple[Density, slice]]:
        return [(self.position, slice(positions)), (self.mixture, slice(positions, None))]

    def empty_means(self, positions: int) -> Tensor:
        kinds = self.mixture.empty_means(positions)
        return torch.cat([self.position.empty_means(positions).to(kinds), kinds])

    @torch.no_grad()
    def learn(self, x: Tensor) -> None:
        """The kinds (k-means), and w from how differently those found at one place vary.

        In coordinates in which all good patches together are white, log det Σ_k / D is a kind's
        mean log variance. Its standard deviation over the patches at a place, all places together,
        says how differently: up to `SPREAD_ALIKE` w is `MAX_PLACE_WEIGHT`, from `SPREAD_APART` on
        0, between them it falls linearly. Where a kind has fewer than ⅔ D patches on the average,
        too much of Σ_k is the pooled covariance, and all kinds look alike: w is 0.
        """
        self.mixture.learn(x)
        self.place_weight = torch.zeros_like(self.place_weight)
        if x.shape[:2].numel() < MIN_PATCHES_OVER_DIM * self.dim * self.mixture.components:
            return
        owners, white = [], self.mixture.white
        moments = init(self.mixture.components, self.dim, x.device)
        x = x.to(white.dtype)
        centre = x.mean(dim=(0, 1), dtype=torch.float64).to(white.dtype)
        for images in x.split(IMAGES_AT_ONCE):
            kinds = Groups(self.mixture.assign(images.flatten(0, 1)), self.mixture.components)
            owners.append(kinds.owner.view(images.shape[:2]))
            with torch.autocast(x.device.type, enabled=False):
                moments = kinds.update(moments, (images - centre).flatten(0, 1) @ white.T)
        factors = factorize(moments, Ridge(KIND_EPS, shrinkage=self.dim / 2))
        widths = (covariance_log_det(factors) / self.dim)[torch.cat(owners)]  # (B,P)
        spread = widths.var(dim=0, correction=0).mean().sqrt()  # h in docs/method.md
        alike = ((SPREAD_APART - spread) / (SPREAD_APART - SPREAD_ALIKE)).clamp(0, 1)
        self.place_weight = (MAX_PLACE_WEIGHT * alike).to(self.place_weight)

    def update_moments(
        self, moments: Moments, x: Tensor, shares: Tensor, counted: Counted
    ) -> tuple[Moments, Tensor]:
        found = [
            part.update_moments(moments.at(some), x, shares, counted)
            for part, some in self.parts(x.shape[1])
        ]
        parts, means = zip(*found, strict=True)
        counts, mean = torch.cat([m.counts for m in parts]), torch.cat([m.mean for m in parts])
        # The scatter holds both parts' already, which changed it in place.
        return Moments(counts, mean, moments.scatter), torch.cat(means, dim=1)

    def combine(self, distances: Sequence[Tensor]) -> Tensor:
        place, kind = distances
        nearest = torch.minimum(place, kind)
        return nearest + self.place_weight.to(nearest.device) * (place - nearest)

    def scales(self, log_dets: Sequence[float]) -> list[float]:
        places, kinds = log_dets
        return [math.exp((places - kinds) / (4 * self.dim)), 1.0]

    def scales_in(self, whitening: Triangle) -> list[float]:
        places, kinds = self._log_dets(whitening)
        # A scale of c takes 2D log c off the places' log det Σ: half of the difference is left.
        return [math.exp((places - kinds) / (2 * self.dim)), 1.0]

    def _log_dets(self, whitening: Triangle) -> list[float]:
        parts = self.parts(whitening.count - self.mixture.components)
        return [float(covariance_log_det(whitening.at(some)).mean()) for _, some in parts]

    def factorize(self, moments: Moments, ridge: Ridge, out: Triangle | None = None) -> Triangle:
        scatter, parts = moments.scatter, self.parts(len(moments.mean) - self.mixture.components)
        whitening = out or Triangle.zeros(scatter.count, scatter.dim, scatter.device, scatter.dtype)
        for part, some in parts:  # written where they belong: each copied would be twice in memory
            part.factorize(moments.at(some), ridge, whitening.at(some))
        for (_, some), scale in zip(parts, self.scales(self._log_dets(whitening)), strict=True):
            for band in whitening.at(some).bands:
                band.mul_(scale)
        return whitening

    def nearest(self, x: Tensor, mean: Tensor, whitening: Triangle) -> tuple[Tensor, Tensor]:
        positions = x.shape[1]
        (_, places), (_, kinds) = self.parts(positions)  # c is in the places' factors already
        to_place, place = self.position.nearest(x, mean[places], whitening.at(places))
        search = self.mixture.search(mean, whitening, kinds)
        to_kind, kind = search(x, at_most=to_place)  # may be inf where the place is nearer
        owner = torch.where(to_place <= to_kind, place, kind + positions)
        return self.combine([to_place, to_kind]), owner

    def terms(
        self, x: Tensor, mean: Tensor, whitening: Triangle
    ) -> list[tuple[float, slice | Tensor]]:
        ((_, nearest),), weight = super().terms(x, mean, whitening), float(self.place_weight)
        both = [(1 - weight, nearest), (weight, slice(x.shape[1]))]
        return both if weight else both[:1]
