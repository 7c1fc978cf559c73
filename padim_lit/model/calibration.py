"""What is kept of the scores of good images, and of the threshold that was chosen by them."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Calibration:
    """What K good images score under Gaussians that do not know them, and what follows from it.

    The first five fields say it all: `padim_lit.deploy.calibration.calibrate` makes the others of
    them. These are kept because a threshold by hand does not follow, and so that a model goes on
    to decide as it did. Distances are Mahalanobis distances, not squared.

    Attributes:
        scores: (K,) float32 distances of the images, rising.
        map_maxima: (K,) float32, the largest distance in each image's map, rising too: the i-th
            need not be of the image of the i-th score.
        unreliable: how many of the K have lower bounds for both, see
            `padim_lit.deploy.left_out.leave_one_out`.
        unseen: how many of the K were not in the fit; the others were left out of it.
        false_alarm_rate: share of good images, between 0 and 1, that the thresholds were to call
            defective; it was an argument alone. Of a threshold by hand it follows: its p-value.
        map_threshold: distance from which maps have a contour; None where none could be chosen.
        level: how sure `interval` is: `padim_lit.deploy.calibration.CONFIDENCE` in all.
        threshold: distance from which scores are called defective; None where none could be chosen.
        method: "empirical" (the order statistic that the rate asks for), "largest" (of all scores,
            because they are too few for the rate), "by hand", or None without a threshold.
        interval: ends of the true false-alarm rate, shares; None without a threshold.
        why: why there is no threshold, in words; None with one.
    """

    scores: Tensor
    map_maxima: Tensor
    unreliable: int
    unseen: int
    false_alarm_rate: float
    map_threshold: float | None
    level: float
    threshold: float | None
    method: str | None
    interval: tuple[float, float] | None
    why: str | None
