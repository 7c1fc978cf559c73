"""One image of a dataset, how it is loaded, checked and batched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from padim_lit.data.images import read_image, read_mask
from padim_lit.data.planted import plant
from padim_lit.data.transform import ResizeCrop
from padim_lit.digests import digest
from padim_lit.errors import InputError

GOOD = "good"


@dataclass(frozen=True)
class Item:
    """One image of a dataset and what is known about it.

    Attributes:
        path: image file.
        kind: "good", or the kind of defect ("crack", "planted_crack", ...).
        masks: mask files, whose union is the truth; none where all is good, unknown or planted.
        mask_threshold: a mask's value above it is a defect; None: see `read_mask`.
        plant_seed: seed of the defect to plant (its form follows from `kind`), or None.
        count_image: counts in image metrics (False for planted defects).
        count_pixel: counts in pixel metrics (only where the pixel truth is known).
        group: what is in the photo, where others of the test images show the same thing (a part
            from several sides); intervals draw them together.
    """

    path: Path
    kind: str = GOOD
    masks: tuple[Path, ...] = ()
    mask_threshold: int | None = None
    plant_seed: int | None = None
    count_image: bool = True
    count_pixel: bool = False
    group: str | None = None

    @property
    def label(self) -> int:
        """0 good, 1 defective."""
        return 0 if self.kind == GOOD else 1

    @property
    def part(self) -> str:
        """A name for what it shows: its group's, or its own."""
        return self.group or str(self.path)

    def load(self) -> tuple[Image.Image, np.ndarray]:
        """The RGB image and its (h, w) bool mask at native size, planted defect included.

        Raises InputError for files that cannot be read and a mask of another size.
        """
        image = read_image(self.path)
        if self.plant_seed is not None:
            planted, mask = plant(np.asarray(image), self.kind, self.plant_seed)
            return Image.fromarray(planted), mask
        if not self.masks:
            return image, np.zeros((image.height, image.width), dtype=bool)
        masks = [read_mask(path, self.mask_threshold) for path in self.masks]
        for path, mask in zip(self.masks, masks, strict=True):
            if mask.shape != (image.height, image.width):
                raise InputError(
                    f"mask {path} is {mask.shape[1]}x{mask.shape[0]} pixels but its image "
                    f"{self.path} is {image.width}x{image.height}; both must have one size"
                )
        return image, np.logical_or.reduce(masks)


class MaskState(Enum):
    """What remains of an item's mask after resize and crop."""

    USABLE = "usable"
    EMPTY = "empty"  # no defect pixel in the file
    LOST = "lost"  # every defect pixel outside the crop
    VANISHED = "vanished"  # inside the crop, but smaller than the resized pixels


class PreparedImage(NamedTuple):
    """What the model sees of an item.

    Attributes:
        pixels: (h, w, 3) uint8, planted defect included.
        mask: (h, w) bool, True = defect.
        state: what remains of the mask; None for an item without one.
    """

    pixels: np.ndarray
    mask: np.ndarray
    state: MaskState | None


def prepare(item: Item, resize_crop: ResizeCrop) -> PreparedImage:
    """Decode, resize and crop an item; raises InputError as `Item.load` does."""
    image, whole = item.load()
    pixels = np.asarray(resize_crop.image(image))
    if not item.masks and item.plant_seed is None:
        return PreparedImage(pixels, np.zeros(resize_crop.output_shape, dtype=bool), None)
    mask = resize_crop.mask(whole)
    if not whole.any():
        state = MaskState.EMPTY
    elif not resize_crop.shows(whole):
        state = MaskState.LOST
    else:
        state = MaskState.USABLE if mask.any() else MaskState.VANISHED
    return PreparedImage(pixels, mask, state)


@dataclass(eq=False, repr=False)
class ItemDataset(Dataset[dict[str, Any]]):
    """Map-style dataset over items.

    PyTorch's default collation makes a batch of its samples: image (B,3,h,w) float32 in [0,1], mask
    (B,h,w) bool, label and index (B,) int64, digest (B,16) uint8 of the pixels, count_image and
    count_pixel (B,) bool; path and kind as lists of str.

    `read` makes the images: `prepare`, or a cache of what it makes.
    """

    items: Sequence[Item]
    resize_crop: ResizeCrop
    read: Callable[[Item, ResizeCrop], PreparedImage] = prepare

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.items[index]
        seen = self.read(item, self.resize_crop)
        pixels = seen.pixels.astype(np.float32) / 255
        return {
            "image": torch.from_numpy(pixels).permute(2, 0, 1).contiguous(),
            "mask": torch.from_numpy(seen.mask),
            "label": item.label,
            "count_image": item.count_image,
            "count_pixel": item.count_pixel,
            "index": index,
            "digest": digest(seen.pixels),
            "path": str(item.path),
            "kind": item.kind,
        }
