"""The LightningDataModule that every dataset family builds on."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from padim_lit.data.cache import PictureCache, digest_of, stamp
from padim_lit.data.check import judge_repeats, look_at, nearly_black
from padim_lit.data.items import Item, ItemDataset, MaskState, prepare
from padim_lit.data.loaders import rank_batches, sizes_of
from padim_lit.data.sight import Sight
from padim_lit.data.transform import ResizeCrop, Size
from padim_lit.errors import InputError
from padim_lit.system.cores import default_workers

Primitive = str | int | float | bool | None

log = logging.getLogger(__name__)

# Proportions of photos that differ by less are no reason for a note.
ALIKE_PROPORTIONS = 1.25


@dataclass(frozen=True)
class Split:
    """What a data set holds, as `AnomalyData.read` gives it.

    Attributes:
        name: short name of the data ("mvtec/screw").
        train: healthy items.
        test: healthy and defective items; none defective is allowed, and with `test_optional`
            none at all.
        provenance: what else to record about the data and its split, flat JSON primitives.
        notes: sentences that a run must print and record.
    """

    name: str
    train: Sequence[Item]
    test: Sequence[Item]
    provenance: dict[str, Primitive] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(eq=False, kw_only=True)
class AnomalyData(LightningDataModule):
    """Healthy training images and a test set, checked at construction.

    A family of data sets is a subclass: a dataclass (eq=False) whose fields are what it must be
    told, and whose `read` says what there is.

    Every file is looked at once here, so that a bad one stops the run before anything is fitted.
    Up to `full_check` images that means decoding all of them; beyond, only the headers of those
    without a mask are read, and a file that is broken further on stops the run when its turn comes.
    The same picture twice is found, see `padim_lit.data.check`.

    No loader shuffles or drops a batch: running moments do not depend on the order, and results
    are bitwise the same for any number of workers, with a picture cache or without.

    Args:
        image_size: int or [h, w] in pixels; see `padim_lit.data.transform.ResizeCrop`.
        crop_size: int, [h, w] or None (keep all).
        batch_size: images in a batch.
        num_workers: loader processes; None chooses from the number of cores.
        picture_cache: folder of a `PictureCache`, made if missing; ~ is expanded. None: no cache.
        full_check: up to so many images, training and test, all are decoded here.
        look: False: the files are listed and nothing else, for `content` alone.
        fits: False: a test of a fitted model, which needs no training images.

    Attributes:
        name, provenance, notes: as in `Split`, completed with what was found here.
        train_items, test_items: what is loaded.
        sha256: of `content` wherever it lies; None beyond `full_check`, where not all is read.
        image_shape: (h, w) of every image in a batch.
        size: image_size and crop_size as they were given, for the provenance of a fit.
        sight: what is seen of the training photos; without any, of the test's.
        mixed_proportions: whether photos of different proportions are resized to one shape.

    Raises InputError for fewer than two different training images, no test image unless that is
    allowed, an image that cannot be read, a mask of another size, sizes or counts out of range, and
    a cache that cannot be written.
    """

    #: Whether good images to learn from are enough.
    test_optional: ClassVar[bool] = False
    #: Of the images, where it is known: a run says it, as its pages and cards show some of them.
    licence: ClassVar[str] = ""

    image_size: Size = 256
    crop_size: Size | None = 224
    batch_size: int = 32
    num_workers: int | None = None
    picture_cache: str | Path | None = None
    full_check: int = 2000
    look: bool = True
    fits: bool = True

    def read(self) -> Split:
        """The items of this data set, without a look into the files."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        super().__init__()
        if self.num_workers is None:
            self.num_workers = default_workers()
        for name, lowest in (("batch_size", 1), ("num_workers", 0), ("full_check", 0)):
            if type(value := getattr(self, name)) is not int or value < lowest:
                raise InputError(f"{name}={value} must be an integer of at least {lowest}")
        folder = self.picture_cache
        self.cache = None if folder is None else PictureCache(folder)
        self.resize_crop = ResizeCrop(self.image_size, self.crop_size)
        self.image_shape = self.resize_crop.output_shape
        self.size = self.resize_crop.size
        split = self.read()
        self.name = split.name
        if self.fits:
            _require_enough(split.name, len(split.train))
        self.test_items = list(split.test)
        if not self.test_optional:
            self.require_test()
        if not self.look:
            self.train_items = list(split.train)
            return
        read = self._read_fully(split)
        items, states, pictures = look_at([*split.train, *split.test], self.resize_crop, read)
        train, self.test_items = items[: len(split.train)], items[len(split.train) :]
        self.train_items, repeats, said = judge_repeats(train, self.test_items, pictures)
        if self.fits:
            _require_enough(split.name, len(self.train_items), " different")
        self.sha256 = None if read is None else self.content(where=False)[:12]
        counts = {"train_images": len(self.train_items), **count_tests(split.test), **repeats}
        if any(item.group for item in self.test_items):
            counts["test_groups"] = len({item.part for item in self.test_items})
        for state in _MASKS:
            counts[f"masks_{state.value}"] = states[state, False]
            if states[state, True]:
                counts[f"planted_masks_{state.value}"] = states[state, True]
        self.provenance: dict[str, Primitive] = {**counts, **split.provenance}
        measured = [item.path for item in self.train_items or self.test_items]
        self.sight = Sight(self.resize_crop)
        self.sight.look(measured)
        squeezed = self._squeezed()
        self.mixed_proportions = bool(squeezed)
        seen = filter(None, (self.sight.out_of_sight(), self.sight.further_pages()))
        self.notes = [
            *split.notes, *said, *seen, *squeezed, *nearly_black(measured), *_notes(counts),
            *([f"The images' licence: {self.licence}."] if self.licence else ()),
        ]  # fmt: skip

    @property
    def facts(self) -> dict[str, Any]:
        """Return what a fit notes of its data: name, provenance, sizes."""
        return {"data": self.name, **self.provenance, **self.size}

    def content(self, where: bool = True) -> str:
        """Return a digest of all images, masks, labels and names; other data have another.

        Args:
            where: their folders count too.
        """
        found = hashlib.sha256()
        for part in (self.train_items, self.test_items):
            found.update(f"{len(part)} images".encode())  # or one could change sides unseen
            for item in part:
                files = [digest_of(stamp(path)) for path in (item.path, *item.masks)]
                about = [item.kind, item.mask_threshold, item.plant_seed, item.count_image]
                about += [item.group] if item.group else []
                name = str(item.path) if where else item.path.name
                found.update(json.dumps([name, files, about]).encode())
        return found.hexdigest()

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train_items)

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.test_items)

    predict_dataloader = test_dataloader

    def _squeezed(self) -> list[str]:
        """A note where photos of different proportions are resized to one shape."""
        by_shape = sorted((width / height, height, width) for height, width in self.sight.photos)
        (tall, h, w), (wide, height, width) = by_shape[0], by_shape[-1]
        if isinstance(self.resize_crop.resize, int) or wide < ALIKE_PROPORTIONS * tall:
            return []
        rows, columns = self.resize_crop.resize
        return [
            f"Photos have different proportions, from {w}×{h} to {width}×{height} pixels, and each "
            f"is resized to {columns}×{rows}: the same thing looks wider in one than in another. "
            "If they show parts of one kind, cut or pad them to the same proportions first."
        ]

    def require_test(self) -> None:
        """Raise InputError where there is no test image."""
        if not self.test_items:
            raise InputError(f"{self.name} has no test images; add healthy or defective ones")

    def _read_fully(self, split: Split) -> Any:
        """Return the function that decodes images for a first look; None for too many images."""
        if len(split.train) + len(split.test) <= self.full_check:
            return self.cache or prepare
        log.info(
            "%s has more than full_check=%d images: only the headers of those without a mask are "
            "checked before the fit; one that is broken further on stops the run when it is read.",
            split.name,
            self.full_check,
        )
        return None

    def _loader(self, items: Sequence[Item]) -> DataLoader:
        batches: dict[str, Any] = {"batch_size": self.batch_size}
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
            batches = {"batch_sampler": rank_batches(len(items), rank, world, self.batch_size)}
        return DataLoader(
            ItemDataset(items, self.resize_crop, self.cache or prepare),
            **batches,
            num_workers=self.num_workers,
            # Where nothing runs on a GPU it would take memory there all the same.
            pin_memory=self.trainer is not None
            and self.trainer.strategy.root_device.type == "cuda",
        )


@dataclass(eq=False)
class SeenWhole(AnomalyData):
    """Base of data with photos that need not be square: by default nothing is cropped."""

    image_size: Size = field(default=224, kw_only=True)
    crop_size: Size | None = field(default=None, kw_only=True)


def _require_enough(name: str, train: int, kind: str = "") -> None:
    if train < 2:
        raise InputError(
            f"{name} has {train}{kind} training image(s); a covariance needs at least 2, "
            "in practice hundreds; add healthy images to the training set"
        )


def with_facts(provenance: dict[str, Any], trainer: Trainer) -> dict[str, Any]:
    """A detector's provenance, with the facts of a fit's data in place of an earlier fit's.

    Of a loader that was taken from an `AnomalyData` these are its sizes, of one's own there are
    none, even where the trainer has seen a data module.
    """
    source = getattr(trainer.fit_loop, "_data_source", None)
    data = getattr(source, "instance", trainer.datamodule)
    facts = data.facts if isinstance(data, AnomalyData) else sizes_of(trainer.train_dataloader)
    replaced = provenance.get("of_data", ())
    kept = {key: value for key, value in provenance.items() if key not in replaced}
    return kept | facts | {"of_data": list(facts), "history": [], "removed": []}


def count_tests(items: Sequence[Item]) -> dict[str, int]:
    """How many test images are good, defective, and planted.

    >>> count_tests([])
    {'test_good': 0, 'test_defective': 0, 'test_planted': 0}
    """
    return {
        "test_good": sum(i.label == 0 and i.count_image for i in items),
        "test_defective": sum(i.label == 1 and i.count_image for i in items),
        "test_planted": sum(i.plant_seed is not None for i in items),
    }


def _notes(counts: dict[str, int]) -> list[str]:
    if not any(counts[key] for key in ("test_good", "test_defective", "test_planted")):
        return [
            "No test images: what is found and missed was not measured, and there are no heat "
            "maps. The fit and the threshold need good images alone."
        ]
    so = "image AUROC cannot be computed"
    if not counts["test_planted"] and not counts["test_defective"]:
        so = "only false alarms can be counted"
    notes = [
        f"No {what} test images: {so}."
        for what, key in (("healthy", "test_good"), ("defective", "test_defective"))
        if not counts[key]
    ]
    for prefix, what in (("", "Defective test images"), ("planted_", "Planted defects")):
        for state, (problem, so) in _MASKS.items():
            if count := counts.get(f"{prefix}masks_{state.value}"):
                notes.append(f"{what} with {problem}: {count}. {so}")
    return notes


_MASKS = {
    MaskState.EMPTY: (
        "an empty mask",
        "Their pixel truth is unknown, so they do not count in the pixel metrics.",
    ),
    MaskState.LOST: ("the whole mask outside the crop", "crop_size=null keeps all of an image."),
    MaskState.VANISHED: (
        "a mask too small to survive the resize",
        "They do not count in the pixel metrics; a larger image_size keeps them.",
    ),
}
