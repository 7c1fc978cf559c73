"""Thresholds and p-values from what good images score that the fit does not know.

Those scores are `padim_lit.deploy.left_out`'s. A threshold is one of them, never a guess beyond the
largest: what good images score further up nobody has seen. A line that drifts away from the
training images raises the scores of good parts: no threshold from yesterday's images can know.
"""

import logging
import math
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any

import numpy as np
from scipy.special import betaincinv
from torch import Tensor
from torch.utils.data import Dataset

from padim_lit.deploy.left_out import Measured, count_of, measure_training
from padim_lit.deploy.over_images import Loop
from padim_lit.errors import InputError
from padim_lit.model.calibration import Calibration
from padim_lit.model.detector import Detector
from padim_lit.system.console import percent, score_text

log = logging.getLogger(__name__)

#: How sure intervals are.
CONFIDENCE = 0.95
# Quantiles at an interval's ends.
ENDS = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
# Good images that are named beside a threshold.
NAMED_IMAGES = 3
#: Share of good images that are called defective, unless asked for otherwise.
FALSE_ALARM_RATE = 0.01
#: The method of a threshold that somebody chose.
BY_HAND = "by hand"


def require_rate(rate: float) -> None:
    """Raise InputError unless `rate`, a share of false alarms, lies between 0 and 1.

    >>> require_rate(0.01)
    """
    if not isinstance(rate, Real) or not 0 < rate < 1:
        raise InputError(f"false_alarm_rate={rate}: must be a number between 0 and 1, as in 0.01")


def require_asked(images: Any, rate: float | None) -> None:
    """Raise InputError unless `set_threshold` takes this number of images and this rate.

    >>> require_asked(500, None)
    >>> require_asked(True, None)
    Traceback (most recent call last):
    padim_lit.errors.InputError: calibration=True: must be a whole number of at least 0, as in ...
    """
    if isinstance(images, bool) or not isinstance(images, Integral) or images < 0:
        raise InputError(
            f"calibration={images}: must be a whole number of at least 0, as in 500: how many good "
            "images the fit's end scores for a threshold, at most; 0: none"
        )
    if rate is not None:
        require_rate(rate)


def require_one_of(threshold: float | None, rate: float | None) -> None:
    """Raise InputError where both a threshold and a rate are given: one is enough.

    >>> require_one_of(threshold=20.0, rate=None)
    """
    if threshold is not None and rate is not None:
        raise InputError(
            f"threshold={threshold:g} and false_alarm_rate={rate:g} both say which scores are "
            "called defective; give one of them"
        )


@dataclass(frozen=True)
class Threshold:
    """What `choose` finds: `Calibration`'s fields of the same names."""

    threshold: float | None = None
    method: str | None = None
    interval: tuple[float, float] | None = None
    why: str | None = None


def choose(scores: np.ndarray, rate: float, unreliable: int = 0) -> Threshold:
    """The threshold at which at most `rate` of good images are called defective, or as few as can.

    It lies just above the k-th smallest of the K scores, k = ⌈(K+1)(1−rate)⌉. A further good image
    lies there with probability at most `rate` over the draw of all K + 1 (Vovk et al. 2005); for
    the K at hand that probability is Beta(K+1−k, k) distributed, which gives the interval. Where
    rate < 1/(K+1), no score is high enough: the largest is taken, k = K, which a further good image
    exceeds with probability 1/(K+1). All this holds where one fit scores all K + 1. Images that are
    left out of a fit are each scored by a slightly other one, for which no theorem is as strong
    (Barber et al. 2021): docs/thresholds.md measures what it does.

    Args:
        scores: (K,) of good images that the fit does not know.
        rate: between 0 and 1, exclusive.
        unreliable: how many scores are lower bounds alone, see `leave_one_out`.

    Raises:
        InputError: another rate.

    >>> found = choose(np.linspace(1, 3, 199), rate=0.01)
    >>> found.method, round(found.threshold, 2), [round(x, 3) for x in found.interval]
    ('empirical', 2.99, [0.001, 0.028])
    >>> found = choose(np.linspace(1, 3, 60), rate=0.01)
    >>> found.method, round(found.threshold, 2), [round(x, 3) for x in found.interval]
    ('largest', 3.0, [0.0, 0.06])
    """
    require_rate(rate)
    scores, total = np.sort(np.asarray(scores, dtype=np.float32)), len(scores)
    if not total:
        return Threshold(why="no good image was scored")
    wanted = _order(total, rate)
    k = min(wanted, total)
    if unreliable > total - k:
        lost = f"{unreliable} of {total} leave-one-out scores are lost in rounding"
        return Threshold(why=f"{lost}: eps is too small for so few images in so many dimensions")
    low, high = (float(betaincinv(total + 1 - k, k, p)) for p in ENDS)
    method = "empirical" if k == wanted else "largest"
    # An image is called defective at or above the threshold, and one that equals the order
    # statistic must not be.
    above = float(np.nextafter(scores[k - 1], np.float32(np.inf)))
    return Threshold(above, method, (low, high))


def calibrate(measured: Measured | Calibration, rate: float = FALSE_ALARM_RATE) -> Calibration:
    """Return what a detector keeps of `measure`, or has kept, with thresholds for this rate.

    So many maps of good images have a contour at its `map_threshold`.

    >>> calibrate(Measured(torch.rand(9), torch.rand(9))).method
    'largest'
    """
    scores, maxima, unreliable = measured.scores, measured.map_maxima, measured.unreliable
    image, pixel = (choose(x.numpy(), rate, unreliable) for x in (scores, maxima))
    return Calibration(
        scores=scores.sort().values,
        map_maxima=maxima.sort().values,
        unreliable=unreliable,
        unseen=measured.unseen,
        false_alarm_rate=float(rate),
        map_threshold=pixel.threshold,
        level=CONFIDENCE,
        **asdict(image),
    )


def set_threshold(
    detector: Detector,
    dataset: Dataset,
    images: int,
    rate: float | None,
    loop: Loop,
    in_order: bool = True,
) -> str:
    """Give a fitted detector its ``calibration`` from its training images, and log what it is.

    Args:
        dataset: all that it was fitted on, see `measure_training`.
        images: that are scored, at most; 0: none, and no threshold.
        rate: share of good images that the threshold calls defective; None: the default.
        in_order: see `measure_training`.

    Returns:
        Which images to look at, see `highest`; "" without a threshold or names.

    >>> set_threshold(detector, [], 0, None, Loop(torch.device("cpu"), 8))
    ''
    >>> detector.calibration is None
    True
    """
    if not images:
        return ""
    count, why = count_of(dataset), None
    if count is None:
        why = "it needs a Dataset with __len__ and __getitem__"
    elif (fitted := detector.count) != count:
        why = f"the fit took {fitted} of {count} training images, and it needs a fit of all"
    elif count < 3:
        why = f"it needs at least 3 training images, and there are {count}"
    if why is not None:
        log.warning("no threshold: %s", why)
        return ""
    found = measure_training(detector, dataset, images, loop, in_order)
    detector.calibration = calibrate(found, FALSE_ALARM_RATE if rate is None else rate)
    log.info("%s", describe(detector.calibration))
    return highest(found, detector.threshold) if found.paths else ""


def highest(measured: Measured, threshold: float | None) -> str:
    """Return one line on the good images that score highest: a defect among them hides others.

    >>> highest(Measured(torch.tensor([3.0, 9.5]), torch.ones(2), paths=["a.png", "b.png"]), 9.6)
    'the good image b.png alone sets the threshold; look at those that score highest, ... b.png ...'
    """
    count, new = len(measured.scores), measured.unseen
    todo = "mode=remove takes it out" if new < count else "take it away and set the threshold again"
    scores, which = (x.tolist() for x in measured.scores.topk(min(NAMED_IMAGES, count)))
    paths = [measured.paths[i] for i in which]
    named = ", ".join(f"{p} {score_text(s)}" for p, s in zip(paths, scores, strict=True))
    look = "look at the good images"
    if threshold is not None and threshold > scores[0] and scores[0] not in scores[1:]:
        look = f"the good image {PurePath(paths[0]).name} alone sets the threshold; look at those"
    return (
        f"{look} that score highest, as a bad one among them hides defects "
        f"({todo}; without a good one there are more false alarms): {named}"
    )


def outcome(
    batch: dict[str, Any], score: Tensor, maps: Tensor, threshold: float | None
) -> dict[str, Any]:
    """Return a batch's scores and maps, with paths and decisions as far as these are known.

    Args:
        score, maps: (B,) and (B,h,w).

    >>> outcome({"path": ["a.png"]}, torch.ones(1), torch.ones(1, 8, 8), 0.5).keys()
    dict_keys(['score', 'map', 'path', 'is_anomalous'])
    """
    found: dict[str, Any] = {"score": score, "map": maps}
    if "path" in batch:
        found["path"] = batch["path"]
    if threshold is not None:
        found["is_anomalous"] = score >= threshold
    return found


def recalibrate(calibration: Calibration, rate: float | None) -> Calibration:
    """Return the same scores with thresholds for another rate; None keeps the rate.

    >>> calibration = calibrate(Measured(torch.linspace(1, 3, 199), torch.linspace(1, 3, 199)))
    >>> round(calibration.threshold, 2), round(recalibrate(calibration, 0.1).threshold, 2)
    (2.99, 2.81)
    """
    same = rate == calibration.false_alarm_rate and calibration.method != BY_HAND
    return calibration if rate is None or same else calibrate(calibration, rate)


def maps_from(
    threshold: float, image_score: str, own: float | None, own_map: float | None
) -> float | None:
    """Return the distance from which maps are outlined, for a `threshold` of scores.

    `own_map` is that distance for the threshold `own`.

    >>> maps_from(5.0, "topk", own=20.0, own_map=24.0)
    6.0
    """
    if image_score == "max":  # then scores are values of the map
        return threshold
    if own is None or own_map is None:
        return own_map
    return own_map * threshold / own  # both are distances: what is called more shows more


def by_hand(calibration: Calibration, threshold: float, image_score: str) -> Calibration:
    """Return the same scores with a threshold that somebody chose.

    `false_alarm_rate` is its `p_value`, the share of good images that these scores give it, and
    `interval` that of a share of which so many of K were found (Clopper and Pearson 1934). Both
    hold if it was not chosen by these scores. `map_threshold` moves by the same factor.

    Args:
        image_score: the detector's.

    >>> calibration = calibrate(Measured(torch.linspace(1, 3, 199), torch.linspace(1, 3, 199)))
    >>> found = by_hand(calibration, 2.905, "topk")
    >>> found.false_alarm_rate, [round(x, 3) for x in found.interval]
    (0.055, [0.024, 0.09])
    """
    threshold = float(threshold)  # checkpoints take no int
    total, (least, most) = len(calibration.scores), _reach(threshold, calibration)
    low, high = ENDS
    low = float(betaincinv(least, total + 1 - least, low)) if least else 0.0
    high = float(betaincinv(most + 1, total - most, high)) if most < total else 1.0
    own, own_map = calibration.threshold, calibration.map_threshold
    return replace(
        calibration,
        threshold=threshold,
        map_threshold=maps_from(threshold, image_score, own, own_map),
        method=BY_HAND,
        why=None,
        false_alarm_rate=p_value(threshold, calibration),
        interval=(low, high),
    )


def p_value(score: float, calibration: Calibration) -> float:
    """Share of good images that score as high: (1 + #{s_i ≥ s}) / (K + 1).

    Scores that are lower bounds alone may be the highest.

    >>> p_value(5.0, calibrate(Measured(torch.tensor([1.0, 2.0, 6.0]), torch.ones(3))))
    0.5
    """
    _, most = _reach(score, calibration)
    return (1 + most) / (1 + len(calibration.scores))


def _reach(score: float, calibration: Calibration) -> tuple[int, int]:
    """How many good images score as high, at least and at most: of bounds alone any may."""
    scores = calibration.scores.cpu().numpy()
    least = int(len(scores) - np.searchsorted(scores, np.float32(score), side="left"))
    return least, min(len(scores), max(least, calibration.unreliable))


def needed(rate: float) -> int:
    """Return K, how many good images a rate needs: 1/(K+1) ≤ rate.

    >>> needed(0.01)
    99
    """
    return math.ceil(round(1 / rate, 9)) - 1


def expected_rate(total: int, rate: float) -> float:
    """Return the share of further good images that reach the threshold of K = `total` ones.

    At most `rate`, where there are enough of them.

    >>> expected_rate(199, rate=0.01), round(expected_rate(256, rate=0.01), 4)
    (0.01, 0.0078)
    """
    return (total + 1 - min(_order(total, rate), total)) / (total + 1)


def _order(total: int, rate: float) -> int:
    """Return k, which of K = `total` rising scores a rate asks for; K + 1: they are too few."""
    # As it is meant: 0.99 · 100 is 99.00000000000001 otherwise.
    return math.ceil(round((total + 1) * (1 - rate), 9))


def contradicts(calibration: Calibration, alarms: int, good: int, parts: int | None = None) -> bool:
    """Whether so many false alarms among fresh good images speak against the printed interval.

    They do where as many, or as few, are found in less than (1 − `CONFIDENCE`)/2 of all cases. With
    a threshold above the k-th smallest of K scores their number is beta-binomial, as `choose`'s
    rate is Beta distributed; with one by hand it is judged at the nearer end of the interval.
    Images of one part say little more than one of them: where the good ones are of fewer `parts`,
    the same share of these is judged.

    >>> scores = torch.linspace(1, 3, 199)
    >>> contradicts(calibrate(Measured(scores, scores)), alarms=24, good=260)
    True
    """
    from scipy.stats import betabinom, binom  # half a second, which who loads a model does without

    if calibration.interval is None or not good:
        return False
    parts = parts or good
    if calibration.method == BY_HAND:
        least, most = (binom(parts, end) for end in calibration.interval)
    else:
        total = len(calibration.scores)
        k = min(_order(total, calibration.false_alarm_rate), total)
        least = most = betabinom(parts, total + 1 - k, k)
    share = alarms * parts / good
    return bool(min(least.cdf(math.ceil(share)), most.sf(math.floor(share) - 1)) < ENDS[0])


def describe(calibration: Calibration) -> str:
    """Return one line on the threshold, for logs and summaries.

    >>> scores = torch.linspace(1, 3, 199)
    >>> describe(calibrate(Measured(scores, scores)))
    'threshold 2.990, which about 1.00% of good images reach (0.12% to 2.77% with 95% ...'
    """
    if calibration.threshold is None or calibration.interval is None:
        return f"no threshold: {calibration.why}"
    low, high = calibration.interval
    total, unseen = len(calibration.scores), calibration.unseen
    rate, end = calibration.false_alarm_rate, "the largest of these scores"
    if unseen == 0:
        images = f"{total} good training images, each scored as if left out of the fit"
    elif unseen == total:
        images = f"{total} good images that the model was not fitted on"
    else:
        images = f"{total} good images, of which {total - unseen} are in the fit and were left out"
    chosen = ", chosen by hand" if calibration.method == BY_HAND else ""
    if calibration.method == "largest":
        end = f"just above {end}, because {percent(rate, 2)} takes {needed(rate)} good images"
    else:
        end += f" is {score_text(float(calibration.scores[-1]))}"
    return (
        f"threshold {score_text(calibration.threshold)}{chosen}, which about "
        f"{percent(expected_rate(total, rate), 2)} of good images reach "
        f"({percent(low, 2)} to {percent(high, 2)} "
        f"with {calibration.level:.0%} confidence), from {images}; {end}"
    )
