"""Patches that belong to one of G Gaussians each: their sums, and the moments with them."""

from functools import cached_property

import torch
from torch import Tensor

from padim_lit.model.cpu import on_one_thread_each
from padim_lit.model.moments import Moments
from padim_lit.model.triangular import Triangle

# Patches of a group in a common step: OVER_AVERAGE times what groups have on the average, or more,
# if the largest would take over MAX_STEPS steps; that more is at most MAX_PATCHES over all groups.
OVER_AVERAGE, MAX_STEPS, MAX_PATCHES = 2, 8, 2**20


class Groups:
    """Which patches are whose. On a CPU one group comes after the other, on a GPU all together.

    A step on each of some hundred groups costs a CPU as much as the arithmetic, a GPU ten times
    that: there all groups take as many patches in a step, and where one has no more, zeros.

    Args:
        owner: (n,) whose each patch is, below G.
        groups: G.
        together: None: on a GPU.

    >>> groups = Groups(torch.tensor([0, 2, 0]), 3)
    >>> groups.sizes.tolist(), groups.sums(torch.tensor([[1.0], [2.0], [4.0]])).tolist()
    ([2, 0, 1], [[5.0], [0.0], [2.0]])
    """

    def __init__(self, owner: Tensor, groups: int, together: bool | None = None):
        self.owner, self.count = owner, len(owner)
        self.sizes = owner.bincount(minlength=groups)
        self.together = owner.device.type != "cpu" if together is None else together

    @cached_property
    def order(self) -> Tensor:
        """Numbers of the patches, the first group's first."""
        return self.owner.argsort(stable=True)

    @cached_property
    def steps(self) -> list[Tensor]:
        """(G,L) rows, in `order`, of each group's next L patches; n, a row of zeros, if no more."""
        stops = self.sizes.cumsum(0).unsqueeze(1)
        most, average = int(self.sizes.max()), self.count // len(self.sizes)
        step = max(
            1, OVER_AVERAGE * average, min(-(-most // MAX_STEPS), MAX_PATCHES // len(self.sizes))
        )
        steps = []
        for start in range(0, most, step):
            taken = torch.arange(start, start + step, device=stops.device)
            rows = stops - self.sizes.unsqueeze(1) + taken
            steps.append(torch.where(rows < stops, rows, self.count))
        return steps

    def sums(self, x: Tensor) -> Tensor:
        """Σ of each group's patches, the same from run to run: (…,n,D) → (…,G,D)."""
        if not self.together:
            total = x.new_zeros(*x.shape[:-2], len(self.sizes), x.shape[-1])
            return total.index_add_(-2, self.owner, x)
        if x.ndim > 2:  # one after the other, which bounds the memory
            return torch.stack([self.sums(one) for one in x])
        return self._added(x[self.order])

    def update(self, moments: Moments, x: Tensor) -> Moments:
        """Moments of G Gaussians with their patches too. The scatter is changed in place.

        As `padim_lit.model.moments.update`.

        Args:
            moments: of G Gaussians.
            x: (n,D), finite.

        >>> from padim_lit.model.moments import init
        >>> Groups(torch.tensor([0, 1, 0]), 2).update(init(2, 3), torch.rand(3, 3)).counts.tolist()
        [2.0, 1.0]
        """
        x = x[self.order].to(moments.scatter.dtype)
        centred, rounded, left = self._centred_together(x) if self.together else self._centred(x)
        delta = rounded.double() + left - moments.mean
        delta = torch.where(self.sizes.unsqueeze(1) > 0, delta, 0.0)
        share = (self.sizes / (moments.counts + self.sizes).clamp(min=1)).unsqueeze(1)
        last = (delta * (moments.counts.unsqueeze(1) * share).sqrt()).to(x.dtype)
        (self._add_together if self.together else self._add)(moments.scatter, centred, last)
        return Moments(moments.counts + self.sizes, moments.mean + delta * share, moments.scatter)

    def _centred(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Patches around their group's mean (n,D), that mean (G,D), and what it was rounded by."""
        centred = torch.empty_like(x)
        rounded, left = x.new_zeros(2, len(self.sizes), x.shape[1])
        parts = (one.split(self.sizes.tolist()) for one in (x, centred))
        for part, out, mean, rest in zip(*parts, rounded, left, strict=True):
            if len(part):
                torch.mean(part, dim=0, out=mean)
                torch.sub(part, mean, out=out)
                torch.mean(out, dim=0, out=rest)
        return centred, rounded, left

    def _add(self, scatter: Triangle, centred: Tensor, last: Tensor) -> None:
        parts = centred.split(self.sizes.tolist())

        def add(groups: range) -> None:
            for g in groups:
                if len(parts[g]):
                    rows = torch.cat([parts[g], last[g, None]])
                    scatter.at(slice(g, g + 1)).add_products(rows[None])

        threads = torch.get_num_threads()
        on_one_thread_each(add, [range(i, len(parts), threads) for i in range(threads)])

    def _centred_together(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sizes = self.sizes.clamp(min=1).unsqueeze(1)
        rounded = self._added(x) / sizes
        centred = x - rounded[self.owner[self.order]]
        return centred, rounded, self._added(centred) / sizes

    def _add_together(self, scatter: Triangle, centred: Tensor, last: Tensor) -> None:
        scatter.add_products(last.unsqueeze(1))
        padded = _with_none(centred)
        for rows in self.steps:
            scatter.add_products(padded[rows])

    def _added(self, x: Tensor) -> Tensor:
        padded, total = _with_none(x), x.new_zeros(len(self.sizes), x.shape[1])
        for rows in self.steps:
            total += padded[rows].sum(dim=1)
        return total


def _with_none(x: Tensor) -> Tensor:
    """x (n,D) with a patch of zeros behind."""
    return torch.cat([x, x.new_zeros(1, x.shape[1])])
