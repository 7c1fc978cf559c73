"""The nearest of a mixture's Gaussians, exactly, though few distances are computed: on a CPU."""

from collections.abc import Callable
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from padim_lit.model.bounds import LowerBounds
from padim_lit.model.exhaustive import Exhaustive
from padim_lit.model.pairs import Pairs
from padim_lit.model.triangular import Triangle

# What float32 may move a squared distance by, relatively.
ROUNDING = 1e-4
# Up to this D a component's factor is multiplied whole: a call for each of its bands costs more.
WHOLE_DIM = 128
# The share of all pairs that must be left for one distance of each patch to be computed first: it
# rules out others.
MANY = 1 / 8
# Patches that are given bounds at once: their scratch stays in a CPU's cache.
PATCHES = 1024


class Search:
    """Patches → the nearest of K Gaussians: d² = min_k (x−μ_k)ᵀ Σ_k⁻¹ (x−μ_k).

    A component whose lower bound is above a distance already found cannot be the nearest. Bounds
    of all components are cheap; of those that they leave tighter ones are computed, and then the
    distances of those that are still left. Where they leave many, the distance to the component
    with the least bound comes first.

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
        bounds = LowerBounds.of_first if once else LowerBounds.of
        self.bounds = bounds(self.mean, whitening, white)
        whole = whitening.dim <= WHOLE_DIM
        bands = [whitening.square(symmetric=False)] if whole else whitening.bands
        self.squares = Pairs(self.mean, bands)

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
            found = self.squares(x, component, patch)
            squares.scatter_reduce_(0, patch, found, "amin")
            better = found == squares[patch]
            owner[patch[better]] = component[better]
            torch.minimum(limit, squares, out=limit)

        y = self.bounds.along(x)
        bounds = torch.cat([self.bounds(part) for part in y.split(PATCHES)], dim=1)
        left = bounds <= limit * (1 + ROUNDING)
        if left.count_nonzero() > MANY * left.numel():
            first, patch = bounds.min(dim=0).indices.sort(stable=True)
            compute(first, patch)
            bounds[first, patch] = torch.inf  # is computed
            left = bounds <= limit * (1 + ROUNDING)
        component, patch = left.nonzero(as_tuple=True)
        tighter = bounds[component, patch] + self.bounds.further(y, component, patch)
        near = (tighter <= limit[patch] * (1 + ROUNDING)).nonzero()[:, 0]
        compute(component[near], patch[near])
        return squares.sqrt_().view(shape), owner.view(shape)


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
