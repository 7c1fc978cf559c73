"""mode=merge, update and remove: the images of checkpoints as sums, without the old images."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from padim_lit import digests
from padim_lit.checkpoint.state import load_detector
from padim_lit.cli.build import device_of
from padim_lit.cli.good_images import (
    IMAGES,
    NO_THRESHOLD,
    GoodImages,
    GoodImagesOrData,
    batches,
    finish,
    good_images,
    load_full,
)
from padim_lit.cli.settings import Settings
from padim_lit.deploy.combine import REPEATS, add_images, remove_images, require_alike
from padim_lit.errors import InputError
from padim_lit.model.detector import FULL_PRECISION, Detector
from padim_lit.model.fit_state import FitState
from padim_lit.system.console import progress
from padim_lit.system.resource_errors import halving


@dataclass
class Merge(Settings):
    """One model.ckpt of several, equal to one fit on all their images.

    Args:
        ckpts: model.ckpt of two or more fits, as in [a.ckpt,b.ckpt]
        repeats: images that are in more than one: refuse | count (twice)
    """

    mode: str = "merge"
    ckpts: list[str] | None = None
    repeats: str = "refuse"

    def __post_init__(self) -> None:
        if len(self.ckpts or []) < 2:
            raise InputError(f"ckpts={self.ckpts}: give two or more, as in ckpts=[a.ckpt,b.ckpt]")
        self.require_choice("repeats", ("refuse", "count"))


@dataclass
class Update(GoodImagesOrData):
    """New good images join a model.ckpt, without the old ones.

    Args:
        repeats: images that it holds already: refuse | skip | count (twice)
    """

    mode: str = "update"
    repeats: str = Merge.repeats

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_choice("repeats", REPEATS)


@dataclass
class Remove(GoodImages):
    """Images leave a model.ckpt, such as those that were found to be bad."""

    mode: str = "remove"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("images", f"{IMAGES}, those to take out")


def run_merge(settings: Merge, folder: Path) -> None:
    """Merge ``ckpts`` into ``model.ckpt`` in `folder`.

    Raises:
        InputError: checkpoints of different configs, or with images in common.
    """
    paths = settings.ckpts
    whole = load_detector(paths[0])
    whole.require_state()
    counts = [whole.count]
    for path in paths[1:]:
        other = load_detector(path)
        state = other.require_state()
        require_alike(whole, other, (paths[0], path))
        add_images(whole, state, settings.repeats, path)
        counts.append(other.count)
        _name(whole, other.provenance.get("data"))
    finish(whole, folder, "merge", {"ckpts": paths, "images": counts})
    parts = " + ".join(map(str, counts))
    print(f"merged   {parts} = {whole.count} images\nmodel    {(folder / 'model.ckpt').resolve()}")
    print(NO_THRESHOLD)


def _name(detector: Detector, data: str | None) -> None:
    names = str(detector.provenance.get("data")).split(" + ")
    if data not in names:
        detector.provenance = {**detector.provenance, "data": " + ".join([*names, str(data)])}


def run(settings: Update, folder: Path) -> None:
    """Add the good images of ``settings.images`` or ``settings.data`` to ``settings.ckpt``.

    Raises:
        InputError: no such file, an image that cannot be read or is there already.
    """
    detector = load_full(settings)
    _require_full_precision(settings, detector)
    dataset, what = good_images(settings, detector)
    known = None
    if settings.repeats == "skip":
        held = detector.require_state().digests
        if held is None:
            raise InputError(f"ckpt={settings.ckpt}: its images are not known; give repeats=count")
        known = set(digests.keys(held))
    state, skipped = _gather(settings, detector, dataset, known)
    if state.count == 0:
        raise InputError(f"{what}: all {skipped} images are in the checkpoint already")
    add_images(detector, state, "count" if known is not None else settings.repeats, what)
    facts = {"ckpt": settings.ckpt, "data": what, "images": state.count, "skipped": skipped}
    finish(detector, folder, "update", facts)
    print(
        f"added    {state.count} images{f', {skipped} were there already' if skipped else ''}; "
        f"in all {detector.count}\ndata     {what}\nmodel    {(folder / 'model.ckpt').resolve()}"
    )
    print(NO_THRESHOLD)


def run_remove(settings: Remove, folder: Path) -> None:
    """Take the images of ``settings.images`` out of ``settings.ckpt``.

    Raises:
        InputError: an image that cannot be read or is not there, or too little would be left.
    """
    detector = load_full(settings)
    _require_full_precision(settings, detector)
    dataset, what = good_images(settings, detector)
    state, _ = _gather(settings, detector, dataset, None)
    safety = remove_images(detector, state, what)
    facts = {"ckpt": settings.ckpt, "data": what, "images": state.count, "error": safety.error}
    finish(detector, folder, "remove", facts)
    print(
        f"removed  {state.count} images; {detector.count} are left\n"
        f"exact    to {safety.error:.1e} of a squared distance, against a fit on these alone\n"
        f"model    {(folder / 'model.ckpt').resolve()}"
    )
    print(NO_THRESHOLD)
    if detector.projection.fit_images:
        print(
            f"note     proj={detector.projection.name} keeps the mixtures of channels that it "
            "learnt, perhaps from these images too"
        )


def _require_full_precision(settings: GoodImages, detector: Detector) -> None:
    if detector.precision != FULL_PRECISION:
        raise InputError(
            f"ckpt={settings.ckpt} was fitted with trainer.precision={detector.precision}: its "
            f"features differ from those of mode={settings.mode}, which is in {FULL_PRECISION}"
        )


def _gather(
    settings: GoodImages, detector: Detector, dataset: Dataset, known: set[bytes] | None
) -> tuple[FitState, int]:
    """The sums over the images that are not `known`, and how many were."""
    device = device_of(settings.trainer)
    detector.to(device)

    def gathered(size: int) -> tuple[FitState, int]:
        return _moments(detector, batches(settings, dataset, size), known)

    found, _ = halving(settings.batch_size, gathered, f"mode={settings.mode}")
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
