"""mode=calibrate: a threshold for a model.ckpt from good images, new ones or those it holds."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from padim_lit import digests
from padim_lit.cli.build import device_of
from padim_lit.cli.good_images import (
    GoodImagesOrData,
    each_once,
    finish,
    good_images,
    load_full,
    over_images,
)
from padim_lit.deploy.calibration import RATE, calibrate, describe, measure
from padim_lit.errors import InputError


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
    all others count as they are, each picture once. The fit stays what it is: model.ckpt has other
    thresholds alone.

    Raises:
        InputError: no such file, an image that cannot be read, or nobody can tell which images
            the checkpoint holds.
    """
    detector = load_full(settings)
    images = detector.require_state().digests
    if images is None:
        raise InputError(
            f"ckpt={settings.ckpt}: which images it holds is not known (an old checkpoint, or one "
            "of a plain Trainer), and those score too low; fit it again"
        )
    dataset, what = good_images(settings, detector)
    held = set(digests.keys(images))
    device = device_of(settings.trainer)
    left = Counter[str]()
    found, _ = over_images(
        detector, dataset,
        lambda batches: measure(detector, each_once(batches, left), device, held),
        device, settings.batch_size, settings.num_workers, "calibrate",
    )  # fmt: skip
    rate = settings.false_alarm_rate or (detector.calibration or {}).get("false_alarm_rate", RATE)
    detector.calibration = known = calibrate(found, rate)
    facts = {
        "ckpt": settings.ckpt,
        "data": what,
        "images": len(found.scores),
        "repeated": left.total(),
        "unseen": found.unseen,
        **{key: known[key] for key in ("false_alarm_rate", "threshold", "method", "why")},
    }
    once = f"; {left.total()} more are the same picture as one of them, and do not count"
    scored = f"{len(found.scores)} images of {what}{once if left else ''}"
    said = [("scored", scored), ("result", describe(known))]
    if twice := digests.repeats(images):
        note = f"the fit holds {twice} images more than once; those score too low as one copy stays"
        said.append(("note", note))
    if detector.projection.fit_images and found.unseen < len(found.scores):
        note = (
            f"proj={detector.projection.name} has learnt its mixtures of channels from some of "
            "these images, so they score a little low; new good images tell better"
        )
        said.append(("note", note))
    finish(detector, folder, "calibrate", facts, *said)
