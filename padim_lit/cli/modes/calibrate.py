"""mode=calibrate: a threshold for a model.ckpt from good images, new ones or those it holds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from padim_lit import digests
from padim_lit.cli.build import device_of
from padim_lit.cli.good_images import (
    GoodImagesOrData,
    finish,
    good_images,
    load_full,
)
from padim_lit.deploy.calibration import RATE, calibrate, describe
from padim_lit.deploy.left_out import Measured, measure, measure_training
from padim_lit.deploy.over_images import Loop, over_images
from padim_lit.errors import InputError
from padim_lit.model.detector import Detector


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
    all others count as they are. Where the projection has learnt from those held, it has to learn
    again without them: that takes all of them; else the others count alone. The fit stays what it
    is: model.ckpt has other thresholds alone.

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
    loop = Loop(device, settings.batch_size, settings.num_workers)
    rate = settings.false_alarm_rate or (detector.calibration or {}).get("false_alarm_rate", RATE)
    learnt = bool(detector.projection.fit_images)
    work = partial(_measure, detector, device=device, held=held, unseen_alone=learnt)
    found, left = over_images(detector, dataset, work, loop, "calibrate")
    if left and not len(found.scores):
        if left != detector.count:
            raise InputError(
                f"{what}: proj={detector.projection.name} has learnt from images that the "
                f"checkpoint holds, and these are {left} of its {detector.count}; give all of "
                "them, or good images that it does not hold"
            )
        found, left = measure_training(detector, dataset, left, loop), 0
    detector.calibration = known = calibrate(found, rate)
    facts = {
        "ckpt": settings.ckpt,
        "data": what,
        "images": len(found.scores),
        "unseen": found.unseen,
        **{key: known[key] for key in ("false_alarm_rate", "threshold", "method", "why")},
    }
    said = [("scored", f"{len(found.scores)} images of {what}"), ("result", describe(known))]
    if left:
        note = f"{left} images are in the fit, which has learnt from them: they do not count here"
        said.append(("note", note))
    finish(detector, folder, "calibrate", facts, *said)


@torch.inference_mode()
def _measure(
    detector: Detector,
    batches: Iterable[dict[str, Any]],
    device: torch.device,
    held: set[bytes],
    unseen_alone: bool,
) -> tuple[Measured, int]:
    """`measure`, and how many images were left aside because they are held."""
    left = 0

    def others() -> Iterator[dict[str, Any]]:
        nonlocal left
        for batch in batches:
            keys = digests.keys(batch["digest"])
            keep = [i for i, key in enumerate(keys) if not (unseen_alone and key in held)]
            left += len(keys) - len(keep)
            if keep:
                part = {key: batch[key][keep] for key in ("image", "digest")}
                yield part | {"path": [batch["path"][i] for i in keep]}

    return measure(detector, others(), device, held), left
