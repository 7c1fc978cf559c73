"""The nearest of a mixture's Gaussians: on a CPU few distances are computed, on a GPU all."""

from collections.abc import Callable
from copy import copy
from typing import TypeAlias

import torch
from torch import Tensor, nn

from padim_lit.model.bounds import LowerBounds, Pairs
from padim_lit.model.cpu import on_one_thread_each
from padim_lit.model.triangular import Triangle

# How far float32 may move a squared distance, relatively.
DISTANCE_ROUNDING = 1e-4
# Up to this D a component's factor is multiplied whole: a call for each of its bands costs more.
WHOLE_DIM = 128
# Where the first bounds leave a patch more than this share of the components, tighter bounds of all
# are computed, and one distance before the others.
MANY_SHARE = 3 / 8
# Patches that a thread searches at once: enough to be worth a thread, and not so many that their
# pairs take much memory.
MIN_PATCHES, MAX_PATCHES = 2**8, 2**13
# Numbers that a step writes on a GPU: 256 MB, so that its products are large.
GPU_NUMBERS = 2**26

#: Computes squared distances (m,) of centred patches (n,D) in pairs (m,), (m,), as `Pairs`.
Squares: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


class Search:
    """Finds the nearest of K Gaussians, d² = min_k (x−μ_k)ᵀ Σ_k⁻¹ (x−μ_k), exactly.

    A component whose lower bound is above a distance already found cannot be the nearest. Cheap
    bounds of all components come first; where no distance is known yet, the one to the component
    with the least bound is computed. If few components are left, these get tighter bounds. If many
    are, all get tighter bounds, and the distance to the one with the least is computed. For those
    still left, the distances are computed.

    Args:
        mean: (K,D).
        whitening: K triangles of D rows.
        white: see `LowerBounds.of`.
        once: prepare little, for a single call: looser bounds.

    >>> mean, whitening = torch.tensor([[0.0], [5.0]]), Triangle.of(torch.ones(2, 1, 1))
    >>> Search(mean, whitening, white=torch.eye(1))(torch.tensor([[[3.0], [1.0]]]))
    (tensor([[2., 1.]]), tensor([[1, 0]]))
    """

    def __init__(self, mean: Tensor, whitening: Triangle, white: Tensor, once: bool = False):
        self.centre = mean.double().mean(dim=0).float()  # so that Wx − Wμ does not cancel
        self.mean = (mean.double() - self.centre).float()
        bounds = LowerBounds.of_first if once else LowerBounds.of
        self.bounds = bounds(self.mean, whitening, white)
        self.squares: Squares = squared_distances(self.mean, whitening)
        #: Lowers bounds where patches have left their components, see `without`.
        self.loosened: Callable[[Tensor, Tensor], Tensor] = lambda bounds, component: bounds

    def __call__(self, x: Tensor, at_most: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return distances, not squared, and the nearest component's index: both (B,P).

        Args:
            x: (B,P,D).
            at_most: (B,P) distances; where no component is nearer, inf may be returned.
        """
        shape, x = x.shape[:2], x.flatten(0, 1) - self.centre
        limit = x.new_full(shape, torch.inf) if at_most is None else at_most.square()
        # With fewer than MIN_PATCHES a step takes less time than waking another thread.
        step = min(MAX_PATCHES, max(MIN_PATCHES, -(-len(x) // torch.get_num_threads())))
        parts = list(zip(x.split(step), limit.flatten().split(step), strict=True))
        found = on_one_thread_each(lambda part: self._nearest(*part), parts)
        squares, owner = map(torch.cat, zip(*found, strict=True))
        return squares.sqrt_().view(shape), owner.view(shape)

    def without(self, which: Tensor, share: Tensor, shift: Tensor, squares: Squares) -> "Search":
        """Return this search for components that some patches have left.

        Args:
            which: (m,) which components.
            share, shift: (m,) a distance d to one has become share · (d − shift) or more.
            squares: computes squared distances to the components as they are now.
        """
        shares = torch.ones(len(self.mean), dtype=torch.float32)
        shifts = torch.zeros_like(shares)
        shares[which], shifts[which] = share.to(shares), shift.to(shifts)

        def loosened(bounds: Tensor, component: Tensor) -> Tensor:
            left = bounds.clamp(min=0).sqrt_() - shifts[component]
            return (left.clamp_(min=0) * shares[component]).square_()

        other = copy(self)
        other.squares, other.loosened = squares, loosened
        return other

    def _nearest(self, x: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        """Return squared distances, inf where above `limit`, and components: (n,) of centred x."""
        squares, owner = torch.full_like(limit, torch.inf), x.new_zeros(len(x), dtype=torch.long)

        def compute(component: Tensor, patch: Tensor) -> None:
            nonlocal limit
            computed = self.squares(x, component, patch)
            squares.scatter_reduce_(0, patch, computed, "amin")
            better = computed == squares[patch]
            owner[patch[better]] = component[better]
            limit = torch.minimum(limit, squares)

        def compute_least(bounds: Tensor, patch: Tensor) -> None:
            first, order = bounds.min(dim=0).indices.sort(stable=True)
            compute(first, patch[order])
            bounds[first, order] = torch.inf  # not again

        u, every = self.bounds.along(x), torch.arange(len(self.mean)).unsqueeze(1)
        bounds = self.bounds(u)
        loose = self.loosened(bounds, every)
        if limit.isinf().all():
            compute_least(loose, torch.arange(len(x)))
        left = loose <= limit * (1 + DISTANCE_ROUNDING)  # (K,n): components not ruled out
        many = left.sum(dim=0) > MANY_SHARE * len(left)  # (n,): patches that have many of them
        if (patch := many.nonzero()[:, 0]).numel():
            tighter = self.loosened(self.bounds(u[patch], fine=True), every)
            compute_least(tighter, patch)
            left[:, patch] &= tighter <= limit[patch] * (1 + DISTANCE_ROUNDING)
        component, patch = left.nonzero(as_tuple=True)
        needed = many[patch]  # (m,) whether a pair is to be computed: these have tighter bounds
        unsure = (~needed).nonzero()[:, 0]  # pairs that have none yet
        k, p = component[unsure], patch[unsure]
        tighter = self.loosened(bounds[k, p] + self.bounds.further(u, k, p), k)
        needed[unsure] = tighter <= limit[p] * (1 + DISTANCE_ROUNDING)
        compute(component[needed], patch[needed])
        return squares, owner


def squared_distances(mean: Tensor, whitening: Triangle) -> Pairs:
    """Return what computes squared distances of pairs, to Gaussians with means (K,D) and K factors.

    >>> squares = squared_distances(torch.zeros(1, 1), Triangle.of(torch.full((1, 1, 1), 3.0)))
    >>> squares(torch.ones(1, 1), component=torch.tensor([0]), patch=torch.tensor([0]))
    tensor([9.])
    """
    whole = whitening.dim <= WHOLE_DIM
    return Pairs(mean, [whitening.to_dense(symmetric=False)] if whole else whitening.bands)


class Exhaustive(nn.Module):
    """Finds the nearest of K Gaussians, d² = min_k ‖W_k(x−μ_k)‖² (eq. 5 and 10), by computing all.

    For GPUs, which compute all distances sooner than they would find out which are needed, and for
    exported graphs, whose steps cannot depend on values.

    Args:
        mean: (K,D).
        whitening: K triangles of D rows.

    >>> mean, whitening = torch.tensor([[0.0], [5.0]]), Triangle.of(torch.ones(2, 1, 1))
    >>> Exhaustive(mean, whitening)(torch.tensor([[[3.0], [1.0]]]))
    (tensor([[2., 1.]]), tensor([[1, 0]]))
    """

    centre: Tensor

    def __init__(self, mean: Tensor, whitening: Triangle):
        super().__init__()
        self.components, self.dim = mean.shape
        centre = mean.double().mean(dim=0).float()  # so that Wx − Wμ does not cancel
        self.register_buffer("centre", centre)
        mean = (mean.double() - self.centre).float().unsqueeze(2)
        self.rows = [rows for rows, _ in whitening]
        for i, (rows, band) in enumerate(whitening):
            band = band.float()
            offset = band @ mean[:, : rows.stop]
            matrix = torch.cat([-offset, band], dim=2)  # (K,r,1+e)
            self.register_buffer(f"whitening{i}", matrix.permute(2, 0, 1).contiguous())

    def forward(
        self, x: Tensor, at_most: Tensor | None = None, at_once: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return distances, not squared, and the nearest component's index: both (B,P).

        Args:
            x: (B,P,D).
            at_most: ignored, see `Search`.
            at_once: components of a step, which takes all patches; None: a step takes all
                components, and as many patches as there is memory for.
        """
        x = torch.cat([torch.ones_like(x[..., :1]), x - self.centre], dim=2)
        if at_once is None:
            parts = x.flatten(0, 1).split(max(1, GPU_NUMBERS // (self.components * self.dim)))
            found = [self._of_all(part).min(dim=0) for part in parts]
            squares, owner = (
                torch.cat(both).view(x.shape[:2]) for both in zip(*found, strict=True)
            )
        else:
            starts = range(0, self.components, at_once)
            found = [self._of_some(x, slice(k, k + at_once)).min(dim=2) for k in starts]
            squares, step = torch.stack([one.values for one in found]).min(dim=0)
            within = torch.stack([one.indices for one in found]).gather(0, step.unsqueeze(0))[0]
            owner = within + step * at_once
        return squares.sqrt(), owner

    def _of_all(self, x: Tensor) -> Tensor:
        """Return ‖W(x−μ)‖² (K,n) of (1,x) (n,1+D); a GPU adds up rows side by side."""
        squares: Tensor | float = 0.0
        for i, rows in enumerate(self.rows):
            matrix = getattr(self, f"whitening{i}")
            z = matrix.flatten(1).T @ x[:, : rows.stop + 1].T  # (K·r,n)
            norms = torch.linalg.vector_norm(z.unflatten(0, matrix.shape[1:]), dim=1)
            squares = squares + norms.square_()
        return squares

    def _of_some(self, x: Tensor, some: slice) -> Tensor:
        """Return ‖W(x−μ)‖² of some components, (B,P,some), of (1,x) (B,P,1+D)."""
        squares: Tensor | float = 0.0
        for i, rows in enumerate(self.rows):
            matrix = getattr(self, f"whitening{i}")[:, some]
            z = x[..., : rows.stop + 1] @ matrix.flatten(1)  # (B,P,some·r)
            squares = squares + (z * z).unflatten(-1, matrix.shape[1:]).sum(dim=-1)
        return squares


#: What finds the nearest of K Gaussians.
Finder: TypeAlias = Search | Exhaustive
