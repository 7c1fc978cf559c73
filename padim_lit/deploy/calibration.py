"""Thresholds and p-values from good images that the Gaussians have not seen, at no cost of images.

Held-out images would be missing from the fit. Instead each training image is scored by the
Gaussians of all the *others*, which follow in closed form from those of all. Three things to know.
A projection that learns (fisher, npca) has seen some images in its warm-up, which makes their
scores too low: mode=fit leaves these out where enough others remain. Leaving out one photo of a
part leaves its near-duplicates in. And a line that drifts away from the training images raises the
scores of good parts: no threshold from yesterday's images can know.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv, boxcox, inv_boxcox
from torch import Tensor

from padim_lit import digests
from padim_lit.errors import InputError, require_finite
from padim_lit.model.anomaly_map import image_score
from padim_lit.model.detector import Detector

#: Of intervals.
LEVEL = 0.95
#: Share of good images that are called defective, unless asked for otherwise.
RATE = 0.01
# Smallest 1 − h whose rounding is bearable, see `leave_one_out`.
SMALLEST = 1e-4
# Exceedances that a tail is fitted to: this share, and at least so many; at most half of all.
TAIL_SHARE, TAIL_COUNT = 0.1, 10
REPLICATES = 2000
# How far below the rate a tail's threshold may aim, and in how many steps.
AIM, AIMS = 100, 60


def leave_one_out(distances: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances of training images under the Gaussians of the other N − 1 images.

    With y = x − μ and d² = yᵀΣ⁻¹y, leaving x out moves the mean to x − μ' = y N/(N−1) and the
    scatter to S' = S − N/(N−1) yyᵀ, so by Sherman and Morrison (1950)

        d'² = (N/(N−1))² · (N−2)/(N−1) · d² / (1 − h),   h = N d²/(N−1)².

    This is exact for ε' = ε (N−1)/(N−2). With ε itself a distance is between 1 and
    sqrt((N−1)/(N−2)) times as large: 0.16 % at most for N = 320.

    A rounding error δ of d² becomes δ/(1 − h), large where N ≤ D and ε small: there h is nearly 1.
    1 − h is kept above 10⁻⁴, where float32 features and factors move a distance by up to 1 %
    (tests/deploy/test_calibration.py); what lies below comes out too small, and such an image is
    marked unreliable.

    Args:
        distances: (B,P) of images that are in the moments, not squared.
        count: N, at least 3.

    Returns:
        (B,P) in `distances`' dtype, and (B,) bool: all of an image's distances are reliable.

    Raises:
        InputError: fewer than 3 images.

    >>> distances, reliable = leave_one_out(torch.tensor([[2.0, 3.0]]), count=100)
    >>> [round(d, 3) for d in distances[0].tolist()], reliable.item()
    ([2.052, 3.164], True)
    """
    if count < 3:
        raise InputError(f"{count} training images: to leave one out takes at least 3")
    square = distances.double().square()
    left = 1 - square * (count / (count - 1) ** 2)
    reliable = (left >= SMALLEST).all(dim=1)
    factor = (count / (count - 1)) ** 2 * (count - 2) / (count - 1)
    return (square * factor / left.clamp(min=SMALLEST)).sqrt().to(distances.dtype), reliable


@dataclass(frozen=True)
class Measured:
    """What good images score under Gaussians that do not know them.

    Attributes:
        scores: (K,).
        maxima: of the maps (K,).
        unreliable: of how many images both are lower bounds, see `leave_one_out`.
        unseen: how many images were not in the moments.
    """

    scores: Tensor
    maxima: Tensor
    unreliable: int = 0
    unseen: int = 0


@torch.inference_mode()
def measure(
    detector: Detector,
    batches: Iterable[Mapping[str, Any]],
    device: torch.device | str = "cpu",
    held: Collection[bytes] | None = None,
) -> Measured:
    """Scores of good images, those in the moments left out of them one at a time.

    Args:
        detector: fitted, on `device`.
        batches: ``image`` (B,3,h,w); ``path``, which names them in messages.
        device: where to compute.
        held: keys of the digests in the moments, see `padim_lit.digests.keys`; then batches need
            ``digest`` too. None where all images are in the moments.

    Raises:
        InputError: fewer than 3 images in the moments, or a score that is not finite.

    >>> found = measure(detector, [{"image": torch.rand(4, 3, 64, 64), "path": list("abcd")}])
    >>> found.scores.shape, found.unseen
    (torch.Size([4]), 0)
    """
    scores, maxima, unreliable, unseen = [], [], 0, 0
    for batch in batches:
        plain = detector.distances(batch["image"].to(device))
        distances, reliable = leave_one_out(plain, detector.count)
        if held is not None:
            inside = torch.tensor([key in held for key in digests.keys(batch["digest"])])
            inside = inside.to(distances.device)
            distances = torch.where(inside.unsqueeze(1), distances, plain)
            reliable = reliable | ~inside
            unseen += int((~inside).sum())
        # Whatever the backbone was computed in, as `Detector.forward` has it.
        with torch.autocast(distances.device.type, enabled=False):
            maps = detector.anomaly_map(distances)
        counted = detector.anomaly_map.counted(distances)
        found = image_score(counted, maps, detector.image_score)
        require_finite(found, batch)
        scores.append(found.float().cpu())
        maxima.append(maps.flatten(1).amax(dim=1).float().cpu())
        unreliable += int((~reliable).sum())
    if not scores:
        return Measured(torch.empty(0), torch.empty(0))
    return Measured(torch.cat(scores), torch.cat(maxima), unreliable, unseen)


def require_rate(rate: float) -> None:
    """Raise InputError unless `rate` is one of false alarms.

    >>> require_rate(0.01)
    """
    if not 0 < rate < 1:
        raise InputError(f"false_alarm_rate={rate}: must be between 0 and 1, as in 0.01")


@dataclass(frozen=True)
class Threshold:
    """Scores from `value` on are called defective; None where none could be chosen, and `why`.

    Attributes:
        method: "empirical" (an order statistic), "tail" (extrapolated) or None.
        interval: of the true false-alarm rate, at `LEVEL`; None without a threshold.
    """

    value: float | None
    method: str | None
    interval: tuple[float, float] | None
    why: str | None = None


def choose(scores: np.ndarray, rate: float, unreliable: int = 0) -> Threshold:
    """The threshold at which at most `rate` of good images are called defective.

    "empirical": just above the k-th smallest of the K scores, k = ⌈(K+1)(1−rate)⌉. A further good
    image lies there with probability at most `rate` over the draw of all K + 1 (Vovk et al. 2005);
    for the K at hand that probability is Beta(K+1−k, k) distributed, which gives the interval.

    "tail", where k > K: a generalised Pareto distribution on the top tenth (at least 10), fitted
    by probability-weighted moments (Hosking and Wallis 1987). A parametric bootstrap of it gives
    the interval, and so low an aim that the mean true rate is `rate`; both hold as far as the tail
    is such a one.

    Args:
        scores: (K,) of good images that were left out of the fit.
        rate: between 0 and 1, exclusive.
        unreliable: how many scores are lower bounds alone, see `leave_one_out`.

    Raises:
        InputError: another rate.

    >>> found = choose(np.linspace(1, 3, 199), rate=0.01)
    >>> found.method, round(found.value, 2), [round(x, 3) for x in found.interval]
    ('empirical', 2.99, [0.001, 0.028])
    """
    require_rate(rate)
    scores, total = np.sort(np.asarray(scores, dtype=np.float32)), len(scores)
    # (K+1)(1−rate) as it is meant: 0.99 · 100 is 99.00000000000001 otherwise.
    k = math.ceil(round((total + 1) * (1 - rate), 9))
    if k > total and total < 2 * TAIL_COUNT:
        need = f"{2 * TAIL_COUNT} for a tail, {math.ceil(round(1 / rate, 9)) - 1} without"
        return Threshold(
            None, None, None, f"{total} good images are too few for a rate of {rate:g}: {need}"
        )
    if unreliable > max(0, total - k):
        return Threshold(
            None, None, None, f"{unreliable} of {total} leave-one-out scores are lost in rounding: "
            "eps is too small for so few images in so many dimensions",
        )  # fmt: skip
    if k > total:
        return _tail(scores, rate)
    low, high = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    low, high = (float(betaincinv(total + 1 - k, k, p)) for p in (low, high))
    return Threshold(_above(scores[k - 1]), "empirical", (low, high))


def _above(score: float) -> float:
    # An image is called defective at or above the threshold, and one that equals the order
    # statistic must not be.
    return float(np.nextafter(np.float32(score), np.float32(np.inf)))


def _tail(scores: np.ndarray, rate: float) -> Threshold:
    total = len(scores)
    count = min(max(TAIL_COUNT, math.ceil(TAIL_SHARE * total)), total // 2)
    start = float(scores[-count - 1])
    excess = scores[-count:].astype(np.float64) - start
    if excess[-1] == 0:
        return Threshold(
            None, None, None, f"the {count + 1} highest scores are equal: they have no tail"
        )
    shape, scale = (float(x[0]) for x in _pareto(excess[None]))
    # How the true rate at such a threshold varies if the fitted tail is the truth.
    rng = np.random.default_rng(0)
    reached = rng.beta(count + 1, total - count, REPLICATES)
    drawn = _quantile(shape, scale, rng.uniform(size=(REPLICATES, count)))
    fits = _pareto(np.sort(drawn, axis=1))
    # Its mean is above what was aimed at, because rates are bounded below alone: aim lower.
    for aim in np.geomspace(rate, rate / AIM, AIMS):
        chosen = _quantile(*fits, aim * total / count)
        rates = reached * _survival(shape, scale, chosen)
        if rates.mean() <= rate:
            break
    low, high = np.quantile(rates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = start + float(_quantile(shape, scale, aim * total / count))
    return Threshold(_above(value), "tail", (float(low), float(high)))


def _pareto(excess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shape ξ and scale σ (R,) of P(X > x) = (1 + ξx/σ)^(−1/ξ), from sorted (R,m)."""
    count = excess.shape[1]
    mean = excess.mean(axis=1)
    weights = 1 - (np.arange(1, count + 1) - 0.35) / count
    weighted = (excess * weights).mean(axis=1)
    gap = mean - 2 * weighted  # above 0 for any sorted sample that is not constant
    gap = np.where(gap > 0, gap, mean / 2)  # exponential
    return 2 - mean / gap, 2 * mean * weighted / gap


# What scipy.stats.genpareto computes, whose import takes as long as all of scipy.special.


def _quantile(shape: Any, scale: Any, survival: Any) -> np.ndarray:
    """x with P(X > x) = `survival`."""
    return -scale * boxcox(survival, -shape)


def _survival(shape: float, scale: float, x: np.ndarray) -> np.ndarray:
    end = -1 / shape if shape < 0 else np.inf
    return inv_boxcox(-np.minimum(x / scale, end), -shape)


def calibrate(measured: Measured, rate: float = RATE) -> dict[str, Any]:
    """What a checkpoint keeps of `measure`: ``calibration``.

    Keys: ``scores`` and ``map_maxima`` (K,) sorted; ``unreliable``; ``unseen``;
    ``false_alarm_rate``, the target; ``threshold`` of scores, ``method``, ``interval``, ``level``
    and ``why``, see `choose`; ``map_threshold``, at which so many maps of good images have a
    contour.

    >>> calibrate(Measured(torch.rand(9), torch.rand(9)))["why"]
    '9 good images are too few for a rate of 0.01: 20 for a tail, 99 without'
    """
    scores, maxima, unreliable = measured.scores, measured.maxima, measured.unreliable
    image, pixel = (choose(x.numpy(), rate, unreliable) for x in (scores, maxima))
    return {
        "scores": scores.sort().values,
        "map_maxima": maxima.sort().values,
        "unreliable": unreliable,
        "unseen": measured.unseen,
        "false_alarm_rate": float(rate),
        "threshold": image.value,
        "map_threshold": pixel.value,
        "method": image.method,
        "interval": None if image.interval is None else list(image.interval),
        "level": LEVEL,
        "why": image.why,
    }


def recalibrate(calibration: dict[str, Any], rate: float | None) -> dict[str, Any]:
    """The same scores with thresholds for another rate; None keeps the one there is.

    >>> known = calibrate(Measured(torch.linspace(1, 3, 199), torch.linspace(1, 3, 199)))
    >>> round(known["threshold"], 2), round(recalibrate(known, 0.1)["threshold"], 2)
    (2.99, 2.81)
    """
    if rate is None or rate == calibration["false_alarm_rate"]:
        return calibration
    keys = ("scores", "map_maxima", "unreliable", "unseen")
    return calibrate(Measured(*(calibration[key] for key in keys)), rate)


def p_value(score: float, scores: np.ndarray) -> float:
    """Share of good images that score as high: (1 + #{s_i ≥ s}) / (K + 1).

    Args:
        score: of the image in question.
        scores: (K,) float32 of good images, sorted.

    >>> p_value(5.0, np.array([1, 2, 6], dtype=np.float32))
    0.5
    """
    higher = len(scores) - np.searchsorted(scores, np.float32(score), side="left")
    return float((1 + higher) / (1 + len(scores)))


def describe(calibration: dict[str, Any]) -> str:
    """One line on the threshold, for logs and summaries.

    >>> scores = torch.linspace(1, 3, 199)
    >>> describe(calibrate(Measured(scores, scores)))
    'threshold 2.99, which about 1.00% of good images reach (0.12% to 2.77% with 95% ...'
    """
    if calibration["threshold"] is None:
        return f"no threshold: {calibration['why']}"
    low, high = calibration["interval"]
    total, unseen = len(calibration["scores"]), calibration["unseen"]
    if unseen == 0:
        images = f"{total} good training images, each scored as if left out of the fit"
    elif unseen == total:
        images = f"{total} good images that the model was not fitted on"
    else:
        images = f"{total} good images, of which {total - unseen} are in the fit and were left out"
    return (
        f"threshold {calibration['threshold']:.4g}, which about "
        f"{calibration['false_alarm_rate']:.2%} of good images reach ({low:.2%} to {high:.2%} with "
        f"{calibration['level']:.0%} confidence, {calibration['method']}), from {images}"
    )
