"""The nearest of a mixture's Gaussians, exactly, though few distances are computed: on a CPU."""

from collections.abc import Callable
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from padim_lit.model.bounds import LowerBounds
from padim_lit.model.exhaustive import Exhaustive
from padim_lit.model.triangular import Triangle

# Directions of the bounds that all patches are given, and of those for patches that they leave
# more than this share of the components.
COARSE, FINE, MANY = 48, 64, 1 / 8
# What float32 may move a squared distance by, relatively.
ROUNDING = 1e-4
# Up to this D a component's factor is multiplied whole: a call for each of its bands costs more.
WHOLE_DIM = 128
# Patches that are given bounds at once, and pairs of which distances are computed at once: their
# scratch stays in a CPU's cache.
PATCHES, PAIRS = 1024, 2**14


class Search:
    """Patches → the nearest of K Gaussians: d² = min_k (x−μ_k)ᵀ Σ_k⁻¹ (x−μ_k).

    A component whose lower bound is above a distance already found cannot be the nearest. Bounds
    of all components are cheap; where they leave many, tighter ones are computed, and then the
    distances of those that are left, component by component.

    Args:
        mean: (K,D).
        whitening: K triangles of D rows.
        white: see `LowerBounds.of`.
        once: prepare no more than a single call is worth.

    >>> mean, whitening = torch.tensor([[0.0], [5.0]]), Triangle.of(torch.ones(2, 1, 1))
    >>> Search(mean, whitening, white=torch.eye(1))(torch.tensor([[[3.0], [1.0]]]))
    (tensor([[2., 1.]]), tensor([[1, 0]]))
    """

    def __init__(self, mean: Tensor, whitening: Triangle, white: Tensor, once: bool = False):
        self.centre = mean.double().mean(dim=0).float()  # so that Wx − Wμ does not cancel
        self.mean = (mean.double() - self.centre).float()
        self.fine: LowerBounds | None
        if once:
            self.coarse, self.fine = LowerBounds.of_first(self.mean, whitening, white, COARSE), None
        else:
            self.fine = LowerBounds.of(self.mean, whitening, white, FINE)
            self.coarse = self.fine.leading(COARSE)
        factors = list(whitening)
        if whitening.dim <= WHOLE_DIM:
            factors = [(slice(whitening.dim), whitening.square(symmetric=False))]
        self.factors = [(rows, band.mT.unbind()) for rows, band in factors]

    def __call__(self, x: Tensor, at_most: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Distances, not squared, of (B,P,D), and to which component they are: both (B,P).

        Args:
            x: (B,P,D).
            at_most: (B,P) only nearer ones are looked for; elsewhere the distance may be inf.
        """
        shape, x = x.shape[:2], x.flatten(0, 1) - self.centre
        squares, owner = x.new_full(x.shape[:1], torch.inf), x.new_zeros(len(x), dtype=torch.long)
        limit = squares.clone() if at_most is None else at_most.flatten().square()

        def compute(component: Tensor, patch: Tensor) -> None:
            found = self._squares(x, component, patch)
            squares.scatter_reduce_(0, patch, found, "amin")
            better = found == squares[patch]
            owner[patch[better]] = component[better]
            torch.minimum(limit, squares, out=limit)

        def compute_first(patch: Tensor) -> None:
            first, order = bounds[:, patch].min(dim=0).indices.sort(stable=True)
            compute(first, patch[order])
            bounds[first, patch[order]] = torch.inf  # is computed

        def left() -> tuple[Tensor, Tensor]:
            component, patch = (bounds <= limit * (1 + ROUNDING)).nonzero(as_tuple=True)
            return component, patch

        bounds = _of_parts(self.coarse, x)
        if at_most is None:
            compute_first(torch.arange(len(x), device=x.device))
        component, patch = left()
        if self.fine is not None:
            many = (patch.bincount(minlength=len(x)) > MANY * len(self.mean)).nonzero()[:, 0]
            if len(many):
                bounds[:, many] = _of_parts(self.fine, x[many])
                compute_first(many)
                component, patch = left()
        compute(component, patch)
        return squares.sqrt_().view(shape), owner.view(shape)

    def _squares(self, x: Tensor, component: Tensor, patch: Tensor) -> Tensor:
        """‖W_k(x_p−μ_k)‖² of pairs (k,p), which come component by component."""
        squares = x.new_empty(len(patch))
        pairs = zip(component.split(PAIRS), patch.split(PAIRS), squares.split(PAIRS), strict=True)
        for k, p, out in pairs:
            deviation = x.index_select(0, p).sub_(self.mean.index_select(0, k))
            white = torch.empty_like(deviation)
            sizes = k.bincount(minlength=len(self.mean)).tolist()
            for rows, factors in self.factors:
                parts = (deviation[:, : rows.stop].split(sizes), white[:, rows].split(sizes))
                for part, factor, result in zip(parts[0], factors, parts[1], strict=True):
                    if len(part):
                        torch.mm(part, factor, out=result)
            torch.sum(white.square_(), dim=1, out=out)
        return squares


def _of_parts(bounds: LowerBounds, x: Tensor) -> Tensor:
    return torch.cat([bounds(part) for part in x.split(PATCHES)], dim=1)


#: What finds the nearest of K Gaussians.
Finder: TypeAlias = Search | Exhaustive
# Factors: the density, the means and how often they were changed in place, the search, and whether
# it is for a single call.
_KEPT: WeakKeyDictionary[Triangle, tuple[Any, Tensor, list[int], Finder, bool]] = (
    WeakKeyDictionary()
)


def kept(density: Any, mean: Tensor, whitening: Triangle, make: Callable[[bool], Finder]) -> Finder:
    """The search of these Gaussians, from the last time if neither they nor their factors changed.

    It is prepared in earnest when it is asked for again: a fit without one image scores that image
    alone. It is forgotten with the factors, is in no checkpoint, and a copy or another device has
    other factors.

    Args:
        density, mean, whitening: whose search.
        make: makes one, for a single call if it is given True.

    >>> mean, whitening = torch.zeros(1, 1), Triangle.of(torch.ones(1, 1, 1))
    >>> found = [kept(None, mean, whitening, lambda once: once) for _ in range(3)]
    >>> found
    [True, False, False]
    """
    tensors = (mean, *whitening.bands)
    changes = [t._version for t in tensors if not t.is_inference()]  # those may not be changed
    found = _KEPT.get(whitening)
    new = not found or found[0] is not density or found[1] is not mean or found[2] != changes
    if new or found[4]:
        found = _KEPT[whitening] = (density, mean, changes, make(new), new)
    return found[3]
