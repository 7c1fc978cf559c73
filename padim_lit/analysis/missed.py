"""What is missed at a threshold: the number that decides whether a detector is of use."""

from typing import Any

import numpy as np

from padim_lit.analysis.sweep_results import SweepFolder

#: Share of the good test images that may be called defective where a sweep sets no threshold.
RATE = 0.05


def missed(sweep: SweepFolder, proj: str, dim: int) -> dict[str, Any] | None:
    """Defective test images below a threshold and good ones above it, means over seeds.

    The threshold is that of the runs; an ablation sets none, so there `RATE` of the good ones
    alarm.

    Returns:
        misses, defective: how many are missed, of how many; alarms, good: the same of good images
        that are called defective; own: whether the threshold is the runs' own, set before they saw
        the test images. None where neither is known, or there are no good or defective images.
    """
    columns = ("test/misses", "test/false_alarms", "test_defective", "test_good")
    counts = [sweep.points(proj, dim, name) for name in columns]
    own = bool(np.isfinite(counts).all())
    if not own:
        if (values := sweep.image_scores(proj, dim)) is None:
            return None
        images = sweep.scores
        good, bad = (images.count_image & (images.label == label) for label in (0, 1))
        if not good.any() or not bad.any():
            return None
        # Defective is what scores above the highest good image that must not alarm.
        tops = np.sort(values[:, good])[:, -1 - int(RATE * good.sum()), None]
        counts = [(values[:, bad] <= tops).sum(axis=1), (values[:, good] > tops).sum(axis=1)]
        counts += [bad.sum(), good.sum()]
    names = ("misses", "alarms", "defective", "good")
    found = {name: float(np.mean(count)) for name, count in zip(names, counts, strict=True)}
    return found | {"own": own} if found["defective"] and found["good"] else None
