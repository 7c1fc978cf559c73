"""mode=calibrate: a threshold for a model.ckpt from good images, new ones or those it holds."""

from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import Subset

from padim_lit.cli.good_images import GivenImages, GoodImagesOrData, finish
from padim_lit.deploy.calibration import RATE, calibrate, describe, highest
from padim_lit.deploy.left_out import measure, measure_training
from padim_lit.errors import InputError
from padim_lit.model.warm_up import learners
from padim_lit.system.console import count, score_text


@dataclass
class Calibrate(GoodImagesOrData):
    """A threshold for a model.ckpt from good images.

    Args:
        false_alarm_rate: share of good images that it calls defective; null: the checkpoint's
    """

    mode: str = "calibrate"
    false_alarm_rate: float | None = None


def run(settings: Calibrate, folder: Path) -> None:
    """Score the good images of ``settings.images`` or ``settings.data`` with ``settings.ckpt``.

    Images that the checkpoint holds, which their content tells, are left out of it one at a time;
    all others count as they are, each picture once. Where it has learnt from those held (Π, a
    mixture's centroids), it has to learn again without them: that takes all of them; else the
    others count alone. The fit stays what it is: model.ckpt has other thresholds alone.

    Raises:
        InputError: no such file, an image that cannot be read, or nobody can tell which images
            the checkpoint holds.
    """
    given = GivenImages(settings)
    detector, held, what = given.detector, given.held, given.what
    if held is None:
        raise InputError(
            f"ckpt={settings.ckpt}: which images it holds is not known (an old checkpoint, or one "
            "of a plain Trainer), and those score too low; fit it again"
        )
    rate = settings.false_alarm_rate or detector.provenance.get("false_alarm_rate", RATE)
    learnt = learners(detector)
    without = held if learnt else frozenset()
    found = given.over(lambda batches: measure(detector, batches, held), without)
    left = given.left
    if left["known"] and not len(found.scores):
        if left["known"] != len(held):
            names = " and ".join(f"{key}={name}" for key, name in learnt.items())
            raise InputError(
                f"{what} holds {left['known']} of the {len(held)} images that the model holds, "
                f"from which {names} may have learnt; give all of them, or good images that it "
                "does not hold"
            )
        # Which of them were learnt from, is not known.
        images = Subset(given.dataset, given.known_at)
        found = measure_training(detector, images, left.pop("known"), given.loop, in_order=False)
    if not len(found.scores):
        raise InputError(
            f"{what}: all {left.total()} images were taken out by mode=remove, and do not count; "
            "give other good images"
        )
    earlier = (detector.calibration or {}).get("threshold")
    detector.calibration = known = calibrate(found, rate)
    facts = {
        **given.parent,
        "data": what,
        "images": len(found.scores),
        "repeated": left["repeated"],
        "unseen": found.unseen,
        **{key: known[key] for key in ("false_alarm_rate", "threshold", "method", "why")},
    }
    scored = f"{count(len(found.scores), 'image')} of {what}"
    said = [("scored", scored), ("result", describe(known)), ("note", highest(found))]
    if earlier is not None:  # other light would raise it, and hide defects
        said.insert(2, ("replaces", f"threshold {score_text(earlier)}"))
    finish(detector, folder, "calibrate", facts, *said, *given.left_out())
