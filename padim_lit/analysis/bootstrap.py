"""How sure a measured difference of AUROCs is, over test images and seeds.

A method's AUROC on one test set varies for two reasons: which images were photographed and which
matrix was drawn. Images are resampled (bootstrap, Efron 1979), good and defective ones apart, and
those of one part together; seeds are paired, because both methods see the same images and, by
position, the same seeds.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import norm, t
from torch import Tensor

from padim_lit.distance_histogram import BINS, OUTSIDE_LIMIT, distance_bins
from padim_lit.errors import require_order

# Pixel histograms: how many neighbouring bins, as a power of two, are kept as one, and bins in the
# end. Merged bins hold equal shares of good and defective pixels, so ties alone move an AUROC by
# at most 1/(2 · MERGED_BINS) on the whole test set, whatever its scale.
FINE_SHIFT = 4
MERGED_BINS = 2048
#: How sure intervals are.
CONFIDENCE = 0.95
#: Why there is no interval.
NO_RESAMPLES = (
    "no resamples of the test images were kept (experiment=ablation keeps them unless resamples=0)"
)


def resample_counts(
    labels: Tensor, resamples: int, seed: int = 0, groups: Sequence[Hashable] | None = None
) -> Tensor:
    """Draw good and defective images apart; return how often each is drawn, (R, N) int64.

    Every row sums to the number of good images over the good ones, and to that of defective ones
    over those. Equal `labels` (N,) and `seed` give equal counts, so that differences pair. Images
    that a metric leaves out are left out of `labels`: ``resample_counts(label[count_image], R)``.
    A stratum of one image cannot vary, and one of a handful says little.

    Photos of one part are not independent: six of one tile say little more than one. So images of
    one of `groups` (N,) are drawn together (the cluster bootstrap), groups with a defective image
    apart from those without one; rows then sum to as many groups, of whatever sizes.
    """
    generator = torch.Generator().manual_seed(seed)
    names = range(len(labels)) if groups is None else groups
    number = {name: n for n, name in enumerate(dict.fromkeys(names))}
    group = torch.tensor([number[name] for name in names])
    defective = torch.zeros(len(number), dtype=torch.bool)
    defective[group[(labels != 0).cpu()]] = True
    counts = torch.zeros(resamples, len(number), dtype=torch.long)
    for stratum in (~defective, defective):
        members = stratum.nonzero()[:, 0]
        if n := len(members):
            drawn = torch.randint(n, (resamples, n), generator=generator)
            counts.scatter_add_(1, members[drawn], torch.ones_like(drawn))
    return counts[:, group]


def image_auroc(scores: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Return AUROCs (R,) of `scores` (N,) against `labels` (N,).

    Each image counts `counts` (R, N) times.

    Exact in float64, P(defective > good) + P(equal)/2; NaN where a class is not drawn.
    """
    require_order(scores, "image scores")
    values, group = scores.double().cpu().unique(return_inverse=True)
    weight = counts.double().cpu()
    bad = (torch.as_tensor(labels).cpu() != 0).double()
    zeros = torch.zeros(len(weight), len(values), dtype=torch.float64)
    return _auroc(
        zeros.index_add(1, group, weight * (1 - bad)), zeros.index_add(1, group, weight * bad)
    )


class PixelHistograms:
    """Every image's histograms of good and defective pixels: pixel AUROC on resampled images.

    ``update(maps (B,h,w) ≥ 0, masks (B,h,w) bool)`` adds B images; leave out images without known
    masks (``maps[count_pixel]``). An image is drawn whole, with all of its pixels, because those
    of one image are not independent. Bins are heads of the distances' bit patterns, as in
    `metrics.PixelMetrics`, and are merged to `MERGED_BINS` of equal mass in the end; the AUROC is
    within 2e-4 of the exact one (tests/analysis/test_bootstrap.py), unless all distances lie within
    1 % of each other, where few bins tell them apart. About 0.1 MB are held for an image of any
    size.
    """

    def __init__(self) -> None:
        # For good and for defective pixels: per image, the used bins and the pixels in each.
        self._entries: tuple[list[tuple[Tensor, Tensor]], ...] = ([], [])
        self._outside = self._pixels = 0

    def __len__(self) -> int:
        return len(self._entries[0])

    @property
    def labels(self) -> Tensor:
        """Whether each image has a defective pixel, (N,) bool: the strata to resample."""
        return torch.tensor([len(bins) > 0 for bins, _ in self._entries[1]], dtype=torch.bool)

    def update(self, maps: Tensor, masks: Tensor) -> None:
        for image, mask in zip(maps, masks.bool(), strict=True):
            bins = distance_bins(image)
            self._outside += int(((bins == 0) | (bins == BINS - 1)).sum())
            self._pixels += bins.numel()
            bins = bins >> FINE_SHIFT
            lowest = bins.min()  # counting from here spares the empty octaves below
            total = torch.bincount((bins - lowest).flatten())
            bad = torch.bincount(bins[mask] - lowest, minlength=len(total))
            for entries, histogram in zip(self._entries, (total - bad, bad), strict=True):
                used = histogram.nonzero()[:, 0]
                entries.append(((used + lowest).int().cpu(), histogram[used].int().cpu()))

    def auroc(self, counts: Tensor) -> Tensor:
        """Return pixel AUROCs (R,) float64 with each image counted `counts` (R, N) times.

        NaN where no good or no defective pixel is drawn, and everywhere when over 1 % of the
        distances lie outside the bins' range.
        """
        if self._outside > OUTSIDE_LIMIT * self._pixels:
            return torch.full((len(counts),), math.nan, dtype=torch.float64)
        good, bad = self._merge()
        weight = counts.double().cpu()
        return _auroc(weight @ good, weight[:, self.labels] @ bad)

    def _merge(self) -> tuple[Tensor, Tensor]:
        """Return, by merged bin, good pixels of all images and defective ones of some.

        Those are the images that have any.
        """
        share = torch.zeros(BINS >> FINE_SHIFT, dtype=torch.float64)
        for entries in self._entries:
            mass = torch.zeros_like(share)
            for bins, pixels in entries:
                mass.index_add_(0, bins, pixels.double())
            share += mass / mass.sum().clamp(min=1) / 2
        # A fine bin goes where its middle lies among all pixels, good and defective weighing alike.
        merged = ((share.cumsum(0) - share / 2) * MERGED_BINS).long().clamp(0, MERGED_BINS - 1)
        good, bad = torch.zeros(2, len(self), MERGED_BINS, dtype=torch.float64)
        for table, entries in zip((good, bad), self._entries, strict=True):
            for row, (bins, pixels) in zip(table, entries, strict=True):
                row.index_add_(0, merged[bins.long()], pixels.double())
        return good, bad[self.labels]


@dataclass(frozen=True)
class Estimate:
    """A mean difference with its interval."""

    value: float
    low: float | None
    high: float | None
    seeds: int  # with 1, a difference's interval is of this one draw: only images were resampled
    why: str = ""  # why there is no interval

    def side(self, border: float = 0) -> int | None:
        """1 or −1 where the interval lies above or below, 0 where it holds it; None without one."""
        if self.low is None or self.high is None:
            return None
        return (self.low > border) - (self.high < border)


#: Of one sweep: differences (S,) and their resamples (S,R), what names its test images, its seeds.
Part = tuple[np.ndarray, np.ndarray | None, Hashable, Hashable]


def pooled_difference(parts: Sequence[Part]) -> Estimate:
    """Return the mean over sweeps of their mean differences, with its `CONFIDENCE` interval.

    The interval is over test images and seeds together. Replicate r is the mean on resample r of
    the test images, plus how far the mean of S seeds drawn with replacement lies from that of all;
    replicates are centred on the measured mean. The seeds' part is widened by
    t(S−1)/z · √(S/(S−1)), because a bootstrap of few draws is too narrow (Hesterberg 2015); what
    images and seeds do together counts in both parts. The interval is slightly narrow where only
    seeds vary, and errs on the wide side where images vary about as much.
    With S = 1 only the test images vary: the interval then says nothing of other seeds.

    What sweeps share varies together: those on the same test images are averaged resample by
    resample, those with the same seeds seed by seed, since a seed draws the same matrix on all data
    of a backbone. Other images and other seeds are independent. Data sets and backbones are fixed:
    the interval says nothing of others.

    Differences of gains pair too: with ``(y200 − y50) − (y550 − y200)`` two gains are compared.
    There is no interval where resamples are None, or where a point or replicate is NaN.
    """
    fewest, mean = min(len(p[0]) for p in parts), float(np.mean([p[0].mean() for p in parts]))
    images: dict[Hashable, Any] = {}
    draws: dict[Hashable, Any] = {}
    for points, resamples, names, seeds in parts:
        if resamples is None:
            return Estimate(mean, None, None, fewest, NO_RESAMPLES)
        # Another number of resamples draws other images.
        same = names, resamples.shape[1]
        images[same] = images.get(same, 0) + resamples.mean(axis=0) / len(parts)
        draws[seeds] = draws.get(seeds, 0) + points / len(parts)
    if not all(np.isfinite(x).all() for x in (*images.values(), *draws.values())):
        why = "the metric is undefined for at least one seed or resample"
        return Estimate(mean, None, None, fewest, why)
    count, tail, total = min(map(len, images.values())), (1 - CONFIDENCE) / 2, mean
    for shift, found in enumerate(images.values()):
        # Sets of as many images were resampled alike; shifted they are apart again.
        found = np.roll(found, shift)[:count]
        total = total + found - found.mean()
    generator = np.random.default_rng(0)
    for points in draws.values():
        if (seeds := len(points)) > 1:
            drawn = generator.integers(seeds, size=(count, seeds))
            widen = t.isf(tail, seeds - 1) / norm.isf(tail) * math.sqrt(seeds / (seeds - 1))
            total = total + widen * (points[drawn].mean(axis=1) - points.mean())
    low, high = np.quantile(total, [tail, 1 - tail])
    return Estimate(mean, float(low), float(high), fewest)


def _auroc(good: Tensor, bad: Tensor) -> Tensor:
    """Return AUROCs (R,) from counts (R, bins), bins by rising score; ties in a bin count half."""
    below = good.cumsum(1) - good / 2
    # 0/0 is NaN: a class that was not drawn.
    return (bad * below).sum(1) / (good.sum(1) * bad.sum(1))
