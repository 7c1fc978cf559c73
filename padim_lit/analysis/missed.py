"""What is missed at a threshold: the number that decides whether a detector is of use."""

from dataclasses import dataclass

import numpy as np

from padim_lit.analysis.sweep_results import SweepFolder

#: Share of the good test images that may be called defective where a sweep sets no threshold.
RATE = 0.05


@dataclass(frozen=True)
class Missed:
    """Defective test images below a threshold and good ones above it, means over seeds.

    Attributes:
        misses, defective: how many are missed, of how many.
        alarms, good: the same of good images that are called defective.
        own: whether the threshold is the run's own, set before it saw the test images.
    """

    misses: float
    defective: int
    alarms: float
    good: int
    own: bool


def missed(sweep: SweepFolder, proj: str, dim: int) -> Missed | None:
    """At the threshold of the runs; an ablation sets none, so there `RATE` of the good ones alarm.

    None where the sweep kept no image scores, or has no good or no defective images.
    """
    if (scores := sweep.scores) is None:
        return None
    good, bad = (scores.count_image & (scores.label == label) for label in (0, 1))
    if not good.any() or not bad.any():
        return None
    counts = [sweep.points(proj, dim, f"test/{name}") for name in ("misses", "false_alarms")]
    own = bool(np.isfinite(counts).all())
    if not own:
        if (values := sweep.image_scores(proj, dim)) is None:
            return None
        # Defective is what scores above the highest good image that must not alarm.
        tops = np.sort(values[:, good])[:, -1 - int(RATE * good.sum()), None]
        counts = [(values[:, bad] <= tops).sum(axis=1), (values[:, good] > tops).sum(axis=1)]
    misses, alarms = (float(np.mean(count)) for count in counts)
    return Missed(misses, int(bad.sum()), alarms, int(good.sum()), own)
