"""mode=update and mode=remove: images into or out of a model.ckpt, without the others.

Images come from ``images=`` or ``data=`` (`good_images`), also for mode=calibrate.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from padim_lit import digests
from padim_lit.checkpoint.state import load_detector
from padim_lit.cli.build import data_was_given, make_data, make_trainer
from padim_lit.cli.messages import require_known_keys
from padim_lit.cli.modes.merge import NO_THRESHOLD, finish, require_repeats
from padim_lit.data.datamodule import default_workers, require_count
from padim_lit.data.files import find_images
from padim_lit.data.items import Item, ItemDataset, collate
from padim_lit.data.transform import ResizeCrop
from padim_lit.deploy.combine import REPEATS, add_images, remove_images
from padim_lit.errors import InputError
from padim_lit.model.detector import FULL_PRECISION, Detector
from padim_lit.model.fit_state import FitState
from padim_lit.system.console import progress
from padim_lit.system.resource_errors import halving

LOOK = ("image_size", "crop_size")


def run(config: DictConfig, folder: Path) -> None:
    """Add the good images of ``config.images`` or ``config.data`` to ``config.ckpt``.

    Raises:
        InputError: no such file, an image that cannot be read or is there already.
    """
    require_known_keys(config)
    require_repeats(config, REPEATS)
    detector = load_full(config)
    _require_full_precision(config, detector)
    dataset, what = good_images(config, detector)
    known = None
    if config.repeats == "skip":
        held = detector.require_state().digests
        if held is None:
            raise InputError(f"ckpt={config.ckpt}: its images are not known; give repeats=count")
        known = set(digests.keys(held))
    state, skipped = _gather(config, detector, dataset, known)
    if state.count == 0:
        raise InputError(f"{what}: all {skipped} images are in the checkpoint already")
    add_images(detector, state, "count" if known is not None else config.repeats, what)
    facts = {"ckpt": config.ckpt, "data": what, "images": state.count, "skipped": skipped}
    finish(detector, folder, "update", facts)
    print(
        f"added    {state.count} images{f', {skipped} were there already' if skipped else ''}; "
        f"now {detector.count}\ndata     {what}\nmodel    {(folder / 'model.ckpt').resolve()}"
    )
    print(NO_THRESHOLD)


def run_remove(config: DictConfig, folder: Path) -> None:
    """Take the images of ``config.images`` out of ``config.ckpt``.

    Raises:
        InputError: an image that cannot be read or is not there, or too little would be left.
    """
    require_known_keys(config)
    if config.images is None:
        raise InputError("mode=remove: give images=FILE, FOLDER or PATTERN, those to take out")
    detector = load_full(config)
    _require_full_precision(config, detector)
    dataset, what = good_images(config, detector)
    state, _ = _gather(config, detector, dataset, None)
    safety = remove_images(detector, state, what)
    facts = {"ckpt": config.ckpt, "data": what, "images": state.count, "error": safety.error}
    finish(detector, folder, "remove", facts)
    print(
        f"removed  {state.count} images; {detector.count} stay\n"
        f"rounding at most {safety.error:.1e} of a squared distance, against a fit on those alone\n"
        f"model    {(folder / 'model.ckpt').resolve()}"
    )
    print(NO_THRESHOLD)
    if detector.projection.fit_images:
        print(
            f"note     proj={detector.projection.name} keeps the directions that it learnt, maybe "
            "from these images too"
        )


def load_full(config: DictConfig) -> Detector:
    """The checkpoint ``config.ckpt`` with its moments; InputError where it has none."""
    if config.ckpt is None:
        raise InputError(f"mode={config.mode}: give ckpt=model.ckpt of an earlier run")
    detector = load_detector(config.ckpt)
    detector.require_state()
    if not all(key in detector.provenance for key in LOOK):
        raise InputError(
            f"ckpt={config.ckpt} does not say how its images were resized (a plain Trainer's); fit "
            "with run.py, or set model.provenance before trainer.save_checkpoint"
        )
    return detector


def _require_full_precision(config: DictConfig, detector: Detector) -> None:
    if detector.precision != FULL_PRECISION:
        raise InputError(
            f"ckpt={config.ckpt} was fitted with trainer.precision={detector.precision}: its "
            f"features differ from those of mode={config.mode}, which is in {FULL_PRECISION}"
        )


def good_images(config: DictConfig, detector: Detector) -> tuple[Dataset, str]:
    """``config.images``, or else the training images of ``config.data``, and what to call them.

    They look as those that the checkpoint was fitted on, whatever the config says of sizes.
    """
    look = {key: detector.provenance[key] for key in LOOK}
    if config.images is None:
        if not data_was_given():
            raise InputError(
                f"mode={config.mode}: give images=FILE, FOLDER or PATTERN, or name the data, as in "
                "data=folder data.root=DIR"
            )
        data = make_data(OmegaConf.merge(config, look))
        return data.train_dataloader().dataset, data.name
    items = [Item(path) for path in find_images(config.images)]
    return ItemDataset(items, ResizeCrop(*look.values())), f"images={config.images}"


def batches(config: DictConfig, dataset: Dataset, batch_size: int) -> DataLoader:
    """`batch_size` images at a time.

    Raises:
        InputError: ``batch_size`` below 1 or ``num_workers`` below 0.
    """
    workers = default_workers() if config.num_workers is None else config.num_workers
    require_count("batch_size", batch_size, lowest=1)
    require_count("num_workers", workers, lowest=0)
    return DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=collate)


def _gather(
    config: DictConfig, detector: Detector, dataset: Dataset, known: set[bytes] | None
) -> tuple[FitState, int]:
    """The sums over the images that are not `known`, and how many were."""
    device = make_trainer(config, None).strategy.root_device
    detector.to(device)

    def gathered(size: int) -> tuple[FitState, int]:
        return _moments(detector, batches(config, dataset, size), known)

    found, _ = halving(config.batch_size, gathered, f"mode={config.mode}")
    detector.to("cpu")
    return found


@torch.inference_mode()
def _moments(
    detector: Detector, batches: Iterable[dict[str, Any]], known: set[bytes] | None
) -> tuple[FitState, int]:
    device, state = detector.mean.device, detector.empty_state()
    known = None if known is None else set(known)
    skipped = 0
    with progress() as bar:
        for batch in bar.track(batches, description="images"):
            keep = torch.ones(len(batch["digest"]), dtype=torch.bool)
            if known is not None:
                for i, one in enumerate(digests.keys(batch["digest"])):
                    keep[i] = one not in known
                    known.add(one)
            skipped += int((~keep).sum())
            if keep.any():
                kept = {
                    "image": batch["image"][keep].to(device),
                    "digest": batch["digest"][keep],
                    "path": [path for path, one in zip(batch["path"], keep, strict=True) if one],
                }
                state = detector.update_state(state, kept)
    return state.map(Tensor.cpu), skipped
