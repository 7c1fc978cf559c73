"""Patches of which each belongs to one of G Gaussians: their sums, and moments with them."""

from functools import cached_property

import torch
from torch import Tensor

from padim_lit.model.cpu import on_one_thread_each
from padim_lit.model.moments import Moments
from padim_lit.model.triangular import Triangle

# On a GPU a step takes as many patches of every group: OVER_AVERAGE times their average, or, so
# that the largest takes no more than MAX_STEPS steps, up to MAX_PATCHES over all groups.
OVER_AVERAGE, MAX_STEPS, MAX_PATCHES = 2, 8, 2**20


class Groups:
    """Patches by the Gaussian that they belong to: G groups.

    A CPU works on one group after the other. On a GPU, starting a step for each of some hundred
    groups takes ten times as long as the arithmetic, so it works on all together: each step takes
    as many patches of every group, and zeros where a group has no more.

    Args:
        owner: (n,) the index of each patch's group, below G.
        groups: G.
        together: work on all groups together; None: on a GPU.

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
        """Indices (n,) of the patches, group by group."""
        return self.owner.argsort(stable=True)

    @cached_property
    def steps(self) -> list[Tensor]:
        """For each step, where in `order` each group's next patches are, (G,s); n: none left."""
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
        """Return the sum of each group's patches, (…,G,D) of (…,n,D), the same in every run."""
        if not self.together:
            total = x.new_zeros(*x.shape[:-2], len(self.sizes), x.shape[-1])
            return total.index_add_(-2, self.owner, x)
        if x.ndim > 2:  # one after the other, to save memory
            return torch.stack([self.sums(one) for one in x])
        return self._added(x[self.order])

    def update(self, moments: Moments, x: Tensor) -> Moments:
        """Add each group's patches to its Gaussian, as `padim_lit.model.moments.update` does.

        The scatter is changed in place; use what is returned.

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
        add = self._add_together if self.together else self._add
        add(moments.scatter, centred, last)
        return Moments(moments.counts + self.sizes, moments.mean + delta * share, moments.scatter)

    def _centred(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return patches less their group's mean (n,D), that mean (G,D), and its rounding error."""
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
    """Return x (n,D) with a row of zeros behind."""
    return torch.cat([x, x.new_zeros(1, x.shape[1])])
