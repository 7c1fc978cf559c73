"""mode=calibrate: a threshold for a model.ckpt, from good images, its scores, or by hand."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import Subset

from padim_lit.cli.good_images import GivenImages, GoodImagesOrData, finish, full_model
from padim_lit.deploy.calibration import (
    FALSE_ALARM_RATE,
    by_hand,
    calibrate,
    describe,
    highest,
    recalibrate,
    require_one_of,
)
from padim_lit.deploy.left_out import measure, measure_training
from padim_lit.errors import InputError
from padim_lit.model.calibration import Calibration
from padim_lit.model.detector import Detector
from padim_lit.model.warm_up import learners
from padim_lit.system.console import count, score_text


@dataclass
class Calibrate(GoodImagesOrData):
    """A threshold for a model.ckpt, from good images or from the scores that it holds.

    Args:
        false_alarm_rate: share of good images called defective; without images: by its scores
        threshold: score from which an image is called defective; without images
    """

    alone: ClassVar[tuple[str, ...]] = ("false_alarm_rate", "threshold")

    mode: str = "calibrate"
    false_alarm_rate: float | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of(self.threshold, self.false_alarm_rate)
        if self.threshold is not None and (self.images is not None or self.data is not None):
            raise InputError(
                f"threshold={self.threshold:g} is kept as it is: give no images and no data, or "
                "false_alarm_rate=RATE, which images can set"
            )


def run(settings: Calibrate, folder: Path) -> None:
    """Score the good images of ``settings.images`` or ``settings.data`` with ``settings.ckpt``.

    The content of an image tells whether the checkpoint holds it. Such images are left out of it
    one at a time; all others are scored as they are, each picture once. Where the checkpoint has
    learnt from those that it holds (Π, a mixture's centroids), it has to learn again without them.
    That takes all of them: where some are missing, the others count alone. The fit does not
    change: the new model.ckpt differs in its thresholds alone. Without images the scores that the
    checkpoint holds stay, too.

    Raises:
        InputError: no such file, an image that cannot be read, nobody can tell which images
            the checkpoint holds, or it has no scores.
    """
    if settings.images is None and settings.data is None:
        _set_alone(settings, folder)
        return
    given = GivenImages(settings)
    detector, held, what = given.detector, given.held, given.what
    if held is None:
        raise InputError(
            f"ckpt={settings.ckpt}: which images it holds is not known (an old checkpoint, or one "
            "of a plain Trainer), and those score too low for a threshold; fit it again"
        )
    learnt = learners(detector)
    without = held if learnt else frozenset()
    found = given.over(lambda batches: measure(detector, batches, held), without)
    left = given.left
    if left["known"] and not len(found.scores):
        if left["known"] != len(held):
            names = " and ".join(f"{key}={name}" for key, name in learnt.items())
            raise InputError(
                f"{what} holds {left['known']} of the {len(held)} images that the model holds, "
                f"from which {names} may have learnt; give all of them, as in "
                "images=[first,second], or good images that it does not hold"
            )
        # Which of them were learnt from, is not known.
        images = Subset(given.dataset, given.known_at)
        found = measure_training(detector, images, left.pop("known"), given.loop, in_order=False)
    if not len(found.scores):
        raise InputError(
            f"{what}: all {left.total()} images were taken out by mode=remove, and do not count; "
            "give other good images"
        )
    facts = {
        **given.parent,
        "data": what,
        "images": len(found.scores),
        "repeated": left["repeated"],
        "unseen": found.unseen,
    }
    scored = ("scored", f"{count(len(found.scores), 'image')} of {what}")
    rate = detector.provenance.get("false_alarm_rate", FALSE_ALARM_RATE)
    calibration = calibrate(found, settings.false_alarm_rate or rate)
    replaced = _replace(detector, calibration, facts)
    notes = [highest(found, calibration.threshold)]
    notes += [f"not counted: {one}" for one in given.left_out()] + given.sight.notes()
    lines = [scored, *replaced, *(("note", note) for note in notes)]
    finish(detector, folder, "calibrate", facts, *lines)


def _set_alone(settings: Calibrate, folder: Path) -> None:
    """Set the threshold by the scores that ``settings.ckpt`` holds, or by hand."""
    detector, sha256 = full_model(settings.ckpt)
    calibration = detector.calibration
    if calibration is None:
        raise InputError(
            f"ckpt={settings.ckpt} holds no scores of good images; give some by images=GOOD_IMAGES "
            "or data=NAME"
        )
    if settings.threshold is None:
        calibration = recalibrate(calibration, settings.false_alarm_rate)
    else:
        calibration = by_hand(calibration, settings.threshold, detector.image_score)
    facts = {"ckpt": settings.ckpt, "model_sha256": sha256, "images": len(calibration.scores)}
    finish(detector, folder, "calibrate", facts, *_replace(detector, calibration, facts))


def _replace(
    detector: Detector, calibration: Calibration, facts: dict[str, Any]
) -> list[tuple[str, str]]:
    """Replace the detector's calibration, complete `facts`, and return the lines to print."""
    earlier, before = detector.threshold, detector.provenance.pop("threshold_before", None)
    detector.calibration = calibration
    facts |= {
        "false_alarm_rate": calibration.false_alarm_rate,
        "threshold": calibration.threshold,
        "method": calibration.method,
        "why": calibration.why,
    }
    said = [("result", describe(calibration))]
    if earlier is not None:  # other light would raise it, and hide defects
        said.append(("replaces", f"threshold {score_text(earlier)}"))
    elif before is not None:
        said.append(("before", f"threshold {score_text(before)}, until images joined or left"))
    return said
