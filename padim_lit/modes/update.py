"""mode=update and mode=remove: images into or out of a model.ckpt, without the others."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader

from padim_lit import digests
from padim_lit.ablation import progress
from padim_lit.build import make_data, make_trainer
from padim_lit.combine import REPEATS, add, take
from padim_lit.config import require_known_keys
from padim_lit.data.files import find_images
from padim_lit.data.items import Item, ItemDataset, collate
from padim_lit.data.transform import view
from padim_lit.detector import Detector
from padim_lit.errors import InputError
from padim_lit.finite import require_finite
from padim_lit.modes.merge import finish, require_repeats
from padim_lit.moments import Moments, init

LOOK = ("image_size", "crop_size")


def run(config: DictConfig, folder: Path) -> None:
    """Add the good images of ``config.images`` or ``config.data`` to ``config.ckpt``.

    Raises:
        InputError: no such file, an image that cannot be read or is there already.
    """
    require_known_keys(config)
    require_repeats(config, REPEATS)
    detector = _load(config)
    if config.images is None:
        # What the checkpoint was fitted with, not what the config says of sizes.
        look = {key: detector.record[key] for key in LOOK}
        data = make_data(OmegaConf.merge(config, look))
        loader, what = data.train_dataloader(), data.name
    else:
        loader, what = _loader(config, detector), f"images={config.images}"
    known = None
    if config.repeats == "skip":
        if detector.images is None:
            raise InputError(f"ckpt={config.ckpt}: its images are not known; give repeats=count")
        known = set(map(_key, detector.images))
    moments, images, skipped = _gather(config, detector, loader, known)
    if moments.count == 0:
        raise InputError(f"{what}: all {skipped} images are in the checkpoint already")
    add(detector, moments, images, "count" if known is not None else config.repeats, what)
    facts = {"ckpt": config.ckpt, "data": what, "images": moments.count, "skipped": skipped}
    finish(detector, folder, "update", facts)
    print(
        f"added    {moments.count} images{f', {skipped} were there already' if skipped else ''}; "
        f"now {detector.count}\nmodel    {(folder / 'model.ckpt').resolve()}"
    )


def run_remove(config: DictConfig, folder: Path) -> None:
    """Take the images of ``config.images`` out of ``config.ckpt``.

    Raises:
        InputError: an image that cannot be read or is not there, or too little would be left.
    """
    require_known_keys(config)
    if config.images is None:
        raise InputError("mode=remove: give images=FILE, FOLDER or PATTERN, those to take out")
    detector = _load(config)
    what = f"images={config.images}"
    moments, images, _ = _gather(config, detector, _loader(config, detector), None)
    safety = take(detector, moments, images, what)
    facts = {"ckpt": config.ckpt, "data": what, "images": moments.count, "error": safety.error}
    finish(detector, folder, "remove", facts)
    print(
        f"removed  {moments.count} images; {detector.count} stay\n"
        f"rounding at most {safety.error:.1e} of a squared distance, against a fit on those alone\n"
        f"model    {(folder / 'model.ckpt').resolve()}"
    )
    if detector.projection.warmup:
        print(
            f"note     proj={detector.projection.name} keeps the directions that it learnt, maybe "
            "from these images too"
        )


def _load(config: DictConfig) -> Detector:
    if config.ckpt is None:
        raise InputError(f"mode={config.mode}: give ckpt=model.ckpt of an earlier run")
    detector = Detector.load_from_checkpoint(config.ckpt)
    detector.require_moments()
    if not all(key in detector.record for key in LOOK):
        raise InputError(
            f"ckpt={config.ckpt} does not say how its images were resized (a plain Trainer's); fit "
            "with run.py, or set model.record before trainer.save_checkpoint"
        )
    return detector


def _key(digest: Tensor) -> bytes:
    return digest.numpy().tobytes()


def _loader(config: DictConfig, detector: Detector) -> DataLoader:
    items = [Item(path) for path in find_images(config.images)]
    seen = view(*(detector.record[key] for key in LOOK))
    return DataLoader(
        ItemDataset(items, seen),
        batch_size=config.batch_size,
        num_workers=config.num_workers or 0,
        collate_fn=collate,
    )


@torch.inference_mode()
def _gather(
    config: DictConfig,
    detector: Detector,
    batches: Iterable[dict[str, Any]],
    known: set[bytes] | None,
) -> tuple[Moments, Tensor, int]:
    """Moments and digests of the images that are not `known`, and how many were."""
    device = make_trainer(config, None).strategy.root_device
    detector.to(device)
    state = init(detector.positions, detector.projection.dim, device)
    images: list[Tensor] = []
    skipped = 0
    with progress() as bar:
        for batch in bar.track(batches, description="images"):
            keep = torch.ones(len(batch["digest"]), dtype=torch.bool)
            if known is not None:
                for i, one in enumerate(map(_key, batch["digest"])):
                    keep[i] = one not in known
                    known.add(one)
            skipped += int((~keep).sum())
            if keep.any():
                kept = [path for path, one in zip(batch["path"], keep, strict=True) if one]
                check = partial(require_finite, batch={"path": kept})
                state = detector.gather(state, batch["image"][keep].to(device), check)
                images.append(batch["digest"][keep])
    detector.to("cpu")
    layers = None if state.layers is None else state.layers.cpu()
    cpu = Moments(state.count, state.mean.cpu(), state.scatter.map(Tensor.cpu), layers)
    return cpu, torch.cat(images) if images else torch.empty(0, digests.BYTES), skipped
