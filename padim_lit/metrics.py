"""AUROC, average precision, F1-max and AUPRO of raw distances, as metrics of torchmetrics.

Image metrics keep every score (there are few). Pixel metrics keep histograms: their memory does
not grow with the images, and those of several ranks add up.
"""

from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision
from torchmetrics.utilities import dim_zero_cat

from padim_lit import distance_histogram as histogram
from padim_lit.errors import require_masked, require_scored

#: AUPRO integrates up to this false-positive rate (Bergmann et al. 2021, §5.1).
FPR_LIMIT = 0.3

CHUNK_PIXELS = 2**20
HISTOGRAMS = {"good": torch.int64, "bad": torch.int64, "bad_by_region": torch.float64}


class ImageMetrics(Metric):
    """Exact ``image_auroc``, ``image_ap`` and ``image_f1max`` of scores, which may be any numbers.

    ``update`` takes score (B,) and label (B,), 1 for a defective image. ``compute`` returns a float
    or None for each, the F1-max's threshold, and ``why`` for those that are None.

    >>> metric = ImageMetrics()
    >>> metric.update(torch.tensor([3.0, 9.0, 5.0]), torch.tensor([0, 1, 1]))
    >>> metric.compute()['image_auroc']
    1.0
    """

    full_state_update = False
    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.set_dtype(torch.float64)  # in which a rank without images sends its empty lists
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, score: Tensor, label: Tensor) -> None:
        require_scored(score, label)
        self.scores.append(score.double())
        self.labels.append(label.double())

    def compute(self) -> dict[str, Any]:
        names = ("image_auroc", "image_ap", "image_f1max")
        # On the CPU: few numbers, and a GPU has no cumulative sum that is the same every time.
        if not len(self.scores) or not len(scores := dim_zero_cat(self.scores).cpu()):
            return _undefined(names, "no test image counts for the image metrics")
        labels = dim_zero_cat(self.labels).cpu().long()
        if labels.all() or not labels.any():
            missing = "good" if labels.any() else "defective"
            return _undefined(names, f"no {missing} image in the test set")
        f1, threshold = _f1max(scores, labels)
        return {
            "image_auroc": _exact(BinaryAUROC, scores, labels),
            "image_ap": _exact(BinaryAveragePrecision, scores, labels),
            "image_f1max": f1,
            "image_f1max_threshold": threshold,
            "why": {},
        }


class PixelMetrics(Metric):
    """``pixel_auroc``, ``pixel_ap``, ``pixel_aupro``, ``pixel_f1max`` from three histograms.

    ``update`` takes map (B,h,w) ≥ 0, mask (B,h,w), not 0 where defective, and roi (h,w) bool, the
    pixels that count. Distances of one bin are tied, which moves AUROC by less than 1e-6 and AP by
    5e-5 (more on some hundred pixels; ten times that where all distances lie within 1 % of each
    other, 100 times within 0.1 %). AUPRO is the share found of a defect region (8-connected part
    of a mask), averaged over the regions (each pixel weighs one over its region's size) and over
    the false-positive rate, up to `FPR_LIMIT`.

    >>> metric, found = PixelMetrics(), torch.tensor([[[1.0, 2.0], [9.0, 3.0]]])
    >>> metric.update(found, found > 5)
    >>> metric.compute()['pixel_auroc']
    1.0
    """

    full_state_update = False
    good: Tensor  # (BINS,) how many good pixels have a distance in each bin
    bad: Tensor  # (BINS,) how many defective ones
    bad_by_region: Tensor  # (BINS,) the defective ones, each as one over its region's size
    regions: Tensor  # number of defect regions

    def __init__(self) -> None:
        super().__init__()
        # One number each, because torchmetrics copies defaults; `reset` makes the histograms.
        for name, dtype in HISTOGRAMS.items():
            self.add_state(name, torch.zeros(1, dtype=dtype), dist_reduce_fx="sum")
        self.add_state("regions", torch.tensor(0), dist_reduce_fx="sum")
        self.reset()

    def update(self, anomaly_map: Tensor, mask: Tensor, roi: Tensor | None = None) -> None:
        require_masked(anomaly_map, mask)
        mask = mask.bool() if roi is None else mask.bool() & roi
        # In chunks, because the bins of large maps would take more memory than the histograms.
        chunk = max(1, CHUNK_PIXELS // anomaly_map.shape[1:].numel())
        for maps, masks in zip(anomaly_map.split(chunk), mask.split(chunk), strict=True):
            bins = histogram.distance_bins(maps)
            histogram.add_to_histogram(self.good, (bins if roi is None else bins[:, roi]).flatten())
            if masks.any():
                bad = bins[masks]
                histogram.add_to_histogram(self.bad, bad)
                # Subtracting what was counted with the rest spares selecting the good pixels.
                histogram.add_to_histogram(self.good, bad, -1)
            for image_bins, image_mask in zip(bins, masks, strict=True):
                if image_mask.any():
                    self._add_regions(image_bins[image_mask], image_mask)

    def reset(self) -> None:
        super().reset()
        for name, dtype in HISTOGRAMS.items():
            setattr(self, name, histogram.empty_histogram(dtype, self.regions.device))

    def _add_regions(self, bins: Tensor, mask: Tensor) -> None:
        regions, count = ndimage.label(mask.cpu().numpy(), structure=[[1] * 3] * 3)
        region = torch.from_numpy(regions).to(bins.device)[mask].long()
        weight = 1 / torch.bincount(region, minlength=count + 1).double()
        if bins.device.type == "cpu":
            self.bad_by_region.index_add_(0, bins, weight[region])
        else:  # where index_add_ adds in any order, and two runs would differ in the last digits
            self.bad_by_region.index_put_((bins.long(),), weight[region], accumulate=True)
        self.regions += count

    def compute(self) -> dict[str, Any]:
        names = ("pixel_auroc", "pixel_ap", "pixel_aupro")
        # Only bins that hold a pixel, from the largest distance down.
        filled = (self.good + self.bad).cpu().nonzero().squeeze(1).flip(0)
        good, bad = (state.cpu()[filled].double() for state in (self.good, self.bad))
        all_good, all_bad = good.sum(), bad.sum()
        if all_good + all_bad == 0:
            return _undefined(names, "no test image has a known mask")
        if all_bad == 0 or all_good == 0:
            missing = "good" if all_bad else "defective"
            return _undefined(names, f"no {missing} pixel that counts in the test set")
        open_ended = (filled == 0) | (filled == histogram.BINS - 1)
        outside = (good[open_ended] + bad[open_ended]).sum() / (all_good + all_bad)
        if outside > histogram.OUTSIDE_LIMIT:
            low, high = (histogram.LOWEST_EXPONENT + n for n in (0, histogram.OCTAVES))
            what = f"{outside:.0%} of the distances are below 2^{low} or above 2^{high}"
            return _undefined(names, f"{what}, where pixels are not told apart; change eps")
        found, alarms = bad.cumsum(0), good.cumsum(0)  # true, false positives down to each bin
        called = found + alarms
        f1 = 2 * found / (called + all_bad)
        best = int(f1.argmax())
        average_precision = found.div(called).mul_(bad).sum() / all_bad
        # The trapezoid rule, because a bin's pixels are tied.
        auroc = (good * (found - bad / 2)).sum() / (all_good * all_bad)
        del good, bad, called, found  # each is as long as the bins in use
        overlap = (self.bad_by_region.cpu()[filled] / self.regions.cpu()).cumsum_(0)
        x, y = (torch.cat([v.new_zeros(1), v]) for v in (alarms.div_(all_good), overlap))
        return {
            "pixel_auroc": float(auroc),
            "pixel_ap": float(average_precision),
            "pixel_aupro": _area_up_to(x, y, FPR_LIMIT),
            "pixel_f1max": float(f1[best]),
            "pixel_f1max_threshold": float(histogram.bin_edge(filled[best])),
            "why": {},
        }


def _exact(metric: type[Metric], scores: Tensor, labels: Tensor) -> float:
    # The default's sigmoid would saturate; the states were gathered over the ranks before.
    instance = metric(normalization=None, sync_on_compute=False)
    instance.update(scores, labels)
    return float(instance.compute())


def _f1max(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    order = scores.argsort(descending=True)
    scores, hits = scores[order], labels[order].double().cumsum(0)
    f1 = 2 * hits / (torch.arange(1, len(hits) + 1, device=hits.device) + hits[-1])
    # A threshold between equal scores does not exist: only the last of a tie counts.
    last = torch.cat([scores[1:] != scores[:-1], scores.new_ones(1, dtype=torch.bool)])
    best = int(f1.where(last, -1).argmax())
    return float(f1[best]), float(scores[best])


def _area_up_to(x: Tensor, y: Tensor, limit: float) -> float:
    """Return the area under y(x) for x ≤ limit (linear between points), divided by limit."""
    # Up to the first point at or beyond the limit: more points at the limit would add no area.
    x, y = (v[: int((x < limit).sum()) + 1].clone() for v in (x, y))
    x[-1], y[-1] = limit, np.interp(limit, x.numpy(), y.numpy())
    return float(torch.trapezoid(y, x) / limit)


def _undefined(names: tuple[str, ...], why: str) -> dict[str, float | dict[str, str] | None]:
    return {**dict.fromkeys(names), "why": dict.fromkeys(names, why)}
