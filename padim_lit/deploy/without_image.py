"""A mixture's Gaussians without one image, on a CPU: only those that it has patches in change."""

import torch
from torch import Tensor

from padim_lit.errors import InputError
from padim_lit.model.groups import Groups
from padim_lit.model.mixture import Mixture
from padim_lit.model.moments import Moments
from padim_lit.model.ridge import Ridge
from padim_lit.model.search import Search, squared_distances
from padim_lit.model.triangular import Triangle

#: Why an image cannot be left out of a fit that its loader says it is in.
OTHER_PIXELS = (
    "an image that is left out is not the one that was fitted: its dataset, or a hook, gives other "
    "pixels each time"
)


class ComponentsWithout:
    """The K Gaussians of a mixture without the patches of one image.

    An image has patches in a third of the Gaussians (MVTec's screws, K = 256), too many to factor
    anew for each image. Where r of a Gaussian's n patches y = x − μ leave, with s = Σ y and
    m = n−1+ν, what is left is

        μ' = μ − s/(n−r),    S' = S − Σ y yᵀ − ssᵀ/(n−r),    m' = m − r,

    or, where r = n, the centroid, S' = 0 and m' = ν. S − S' is positive semidefinite, and so is
    mΣ − m'Σ' if the pooled covariance and ε are fixed. So a patch at a distance of d or more is now
    at √(m'/m) · (d − ‖W(μ'−μ)‖) or more: lower bounds for the full Gaussians still tell which of
    the K may be the nearest, and only these are factored.

    Args:
        mixture: assigns patches to components.
        moments: of the K, with the image.
        ridge: its ``common``, which must be given, is that of all images.
        search: of the K, with the image.
        image: the patches that leave, one a row of D: those that count, in all directions.

    Raises:
        InputError: the image was not in the moments, or a covariance is too near a singular one.

    >>> from padim_lit.model.moments import init
    >>> from padim_lit.model.ridge import pooled
    >>> mixture, x = Mixture(dim=2, components=1), torch.rand(8, 9, 2)
    >>> mixture.learn(x)
    >>> moments, _ = mixture.update_moments(init(1, 2), x, x[None], lambda x: x)
    >>> ridge = Ridge(common=pooled(moments))
    >>> search = mixture.search(moments.mean, mixture.factorize(moments, ridge))
    >>> ComponentsWithout(mixture, moments, ridge, search, image=x[0]).nearest(x[:1]).shape
    torch.Size([1, 9])
    """

    def __init__(
        self, mixture: Mixture, moments: Moments, ridge: Ridge, search: Search, image: Tensor
    ):
        self.mixture, self.ridge, self.search = mixture, ridge, search
        self.whole, groups = moments, Groups(mixture.assign(image), mixture.components)
        taken, y = groups.sizes, image.double() - moments.mean[groups.owner]
        self.gone, self.left = groups.sums(y), moments.counts - taken
        #: For each Gaussian the patches that leave it, less its mean.
        self.patches = y[groups.order].to(moments.scatter.dtype).split(taken.tolist())
        if (self.left < 0).any():
            raise InputError(OTHER_PIXELS)
        mean = moments.mean - self.gone / self.left.clamp(min=1).unsqueeze(1)
        self.mean = torch.where(self.left.unsqueeze(1) > 0, mean, mixture.empty_means(0))
        self.changed = taken > 0
        # Index of each Gaussian among those that are factored; −1: not yet.
        self.row = torch.full_like(taken, -1)
        self.factors = Triangle.zeros(0, moments.scatter.dim, image.device, moments.scatter.dtype)
        self.factored = torch.empty_like(self.mean[:0])

    def nearest(self, x: Tensor, at_most: Tensor | None = None) -> Tensor:
        """Return distances (1,P) of (1,P,D) to the nearest Gaussian; `at_most` as for `Search`."""
        return self.rest()(x, at_most)[0]

    def rest(self) -> Search:
        """Return the search among the K without the patches."""
        which = self.changed.nonzero()[:, 0]
        moved = (self.mean[which] - self.search.centre).float()
        shift = self.search.squares(moved, which, torch.arange(len(which))).sqrt()
        before, after = (
            (counts[which] - 1).clamp(min=0) + self.mixture.shrinkage
            for counts in (self.whole.counts, self.left)
        )
        return self.search.without(which, (after / before).sqrt(), shift, self.squares)

    def squares(self, x: Tensor, component: Tensor, patch: Tensor) -> Tensor:
        """Return squared distances of pairs of centred patches, as `Pairs` does."""
        changed, squares = self.changed[component], x.new_empty(len(patch))
        squares[~changed] = self.search.squares(x, component[~changed], patch[~changed])
        component, patch = component[changed], patch[changed]
        some = component.unique()
        self._factor(some[self.row[some] < 0])
        mean = (self.factored - self.search.centre).float()
        squares[changed] = squared_distances(mean, self.factors)(x, self.row[component], patch)
        return squares

    def _factor(self, some: Tensor) -> None:
        if not len(some):
            return
        left, scatter = self.left[some], self.whole.scatter.at(some)
        last = self.gone[some] * left.clamp(min=1).rsqrt().unsqueeze(1)
        for i, (component, row) in enumerate(
            zip(some.tolist(), last.to(scatter.dtype), strict=True)
        ):
            rows = torch.cat([self.patches[component], row.unsqueeze(0)])
            scatter.at(slice(i, i + 1)).add_products(rows.unsqueeze(0), weight=-1.0)
        for band in scatter.bands:
            band[left == 0] = 0  # only rounding errors would be left
        rest = Moments(left, self.mean[some], scatter)
        self.row[some] = len(self.factored) + torch.arange(len(some))
        factors = self.mixture.factorize(rest, self.ridge)
        self.factors = self.factors.map(lambda *bands: torch.cat(bands), factors)
        self.factored = torch.cat([self.factored, rest.mean])
