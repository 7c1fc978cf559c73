"""mode=calibrate: a threshold for a model.ckpt from good images, new ones or those it holds."""

from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from padim_lit import digests
from padim_lit.cli.build import make_trainer
from padim_lit.cli.messages import require_known_keys
from padim_lit.cli.modes.merge import finish
from padim_lit.cli.modes.thresholds import measured
from padim_lit.cli.modes.update import batches, good_images, load_full
from padim_lit.deploy.calibration import RATE, calibrate, describe, require_rate
from padim_lit.errors import InputError


def run(config: DictConfig, folder: Path) -> None:
    """Score the good images of ``config.images`` or ``config.data`` with ``config.ckpt``.

    Images that the checkpoint holds, which their content tells, are left out of it one at a time;
    all others count as they are. The fit stays what it is: model.ckpt has other thresholds alone.

    Raises:
        InputError: no such file, an image that cannot be read, or nobody can tell which images
            the checkpoint holds.
    """
    require_known_keys(config)
    if config.false_alarm_rate is not None:
        require_rate(config.false_alarm_rate)
    detector = load_full(config)
    images = detector.require_state().digests
    if images is None:
        raise InputError(
            f"ckpt={config.ckpt}: which images it holds is not known (an old checkpoint, or one "
            "of a plain Trainer), and those score too low; fit it again"
        )
    dataset, what = good_images(config, detector)
    held = set(digests.keys(images))
    device = make_trainer(config, None).strategy.root_device
    loader = partial(batches, config, dataset)
    found, _ = measured(detector, loader, config.batch_size, device, "calibrate", held)
    rate = config.false_alarm_rate or (detector.calibration or {}).get("false_alarm_rate", RATE)
    detector.calibration = known = calibrate(found, rate)
    facts = {
        "ckpt": config.ckpt,
        "data": what,
        "images": len(found.scores),
        "unseen": found.unseen,
        **{key: known[key] for key in ("false_alarm_rate", "threshold", "method", "why")},
    }
    finish(detector, folder, "calibrate", facts)
    print(
        f"scored   {len(found.scores)} images of {what}\n{describe(known)}\n"
        f"model    {(folder / 'model.ckpt').resolve()}"
    )
    if detector.projection.fit_images and found.unseen < len(found.scores):
        print(
            f"note     proj={detector.projection.name} has learnt its mixtures of channels from "
            "some of these images, so they score a little low; new good images tell better"
        )
