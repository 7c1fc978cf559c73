"""One image of a dataset, how it is loaded, checked and batched."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from padim_lit.data.images import read_image, read_mask, read_size
from padim_lit.data.planted import plant
from padim_lit.data.transform import View
from padim_lit.digests import digest
from padim_lit.errors import InputError

GOOD = "good"


@dataclass(frozen=True)
class Item:
    """One image of a dataset and what is known about it.

    Attributes:
        path: image file.
        kind: "good", or the kind of defect ("crack", "planted_crack", ...).
        mask: mask file, several whose union is the truth, or None where all is good, unknown or
            planted.
        nonzero: every value of the mask above 0 is a defect, see `read_mask`.
        plant_seed: seed of the defect to plant (its form follows from `kind`), or None.
        count_image: counts in image metrics (False for planted defects).
        count_pixel: counts in pixel metrics (only where the pixel truth is known).
    """

    path: Path
    kind: str = GOOD
    mask: Path | tuple[Path, ...] | None = None
    nonzero: bool = False
    plant_seed: int | None = None
    count_image: bool = True
    count_pixel: bool = False

    @property
    def label(self) -> int:
        """0 good, 1 defective."""
        return 0 if self.kind == GOOD else 1

    def load(self) -> tuple[Image.Image, np.ndarray]:
        """The RGB image and its (h, w) bool mask at native size, planted defect included.

        Raises InputError for files that cannot be read and a mask of another size.
        """
        image = read_image(self.path)
        if self.plant_seed is not None:
            planted, mask = plant(np.asarray(image), self.kind, self.plant_seed)
            return Image.fromarray(planted), mask
        if self.mask is None:
            return image, np.zeros((image.height, image.width), dtype=bool)
        mask = self.load_mask()
        if mask.shape != (image.height, image.width):
            raise InputError(
                f"mask {self.masks[0]} is {mask.shape[1]}x{mask.shape[0]} pixels but its image "
                f"{self.path} is {image.width}x{image.height}; both must have one size"
            )
        return image, mask

    @property
    def masks(self) -> tuple[Path, ...]:
        """The mask files, none or more."""
        if self.mask is None:
            return ()
        return self.mask if isinstance(self.mask, tuple) else (self.mask,)

    def load_mask(self) -> np.ndarray:
        """The (h, w) bool mask of an item that has one.

        Raises InputError as `read_mask` does, and for several masks of different sizes.
        """
        first, *others = (read_mask(path, self.nonzero) for path in self.masks)
        for path, mask in zip(self.masks[1:], others, strict=True):
            if mask.shape != first.shape:
                raise InputError(
                    f"masks {self.masks[0]} and {path} of one image differ in size; replace one"
                )
            first |= mask
        return first


class MaskState(Enum):
    """What remains of an item's mask in the view."""

    USABLE = "usable"
    EMPTY = "empty"  # no defect pixel in the file
    LOST = "lost"  # every defect pixel outside the crop
    VANISHED = "vanished"  # inside the crop, but smaller than the resized pixels


class PreparedImage(NamedTuple):
    """What the model sees of an item.

    Attributes:
        pixels: (h, w, 3) uint8, planted defect included.
        mask: (h, w) bool, True = defect.
        state: what remains of the mask in the view; None for an item without one.
    """

    pixels: np.ndarray
    mask: np.ndarray
    state: MaskState | None


def picture(item: Item, view: View) -> PreparedImage:
    """Decode, resize and crop an item; raises InputError as `Item.load` does."""
    image, mask = item.load()
    state = _mask_state(item, mask, view)
    seen = np.zeros(view.output_shape, dtype=bool) if state is None else view.mask(mask)
    return PreparedImage(np.asarray(view.image(image)), seen, state)


def state_of_pixels(item: Item, view: View) -> MaskState | None:
    """The state of an item's mask, after decoding the image too: all of a bad file is found."""
    _, mask = item.load()
    return _mask_state(item, mask, view)


def state_of_header(item: Item, view: View) -> MaskState | None:
    """The state of an item's mask, from the image's header: what is broken behind is not found."""
    if item.plant_seed is not None:
        return state_of_pixels(item, view)
    size = read_size(item.path)
    if item.mask is None:
        return None
    mask = item.load_mask()
    # Another size may be a turned image, or a mistake: decoding tells.
    return _mask_state(item, mask, view) if mask.shape == size else state_of_pixels(item, view)


def check(
    items: Sequence[Item], state_of: Callable[[Item], MaskState | None]
) -> tuple[list[Item], Counter[tuple[MaskState, bool]]]:
    """Look at every item once, so that bad files are found before anything is fitted.

    `state_of` does the looking and gives the state of an item's mask, None where it has none.
    Where the mask is empty or vanishes in the resize, the pixel truth is unknown and the item
    returned no longer counts in pixel metrics; a mask outside the crop is known to be absent.

    Returns the items and how many masks are in each (state, planted). Raises InputError for the
    first bad file in the order of `items`.
    """
    # Pillow releases the GIL while it decodes.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        states = list(threads.map(state_of, items))
    unknown = (MaskState.EMPTY, MaskState.VANISHED)
    checked = [
        replace(item, count_pixel=False) if state in unknown else item
        for item, state in zip(items, states, strict=True)
    ]
    planted = [item.plant_seed is not None for item in items]
    return checked, Counter(
        (state, p) for state, p in zip(states, planted, strict=True) if state is not None
    )


def _mask_state(item: Item, mask: np.ndarray, view: View) -> MaskState | None:
    if item.mask is None and item.plant_seed is None:
        return None
    if not mask.any():
        return MaskState.EMPTY
    if not view.shows(mask):
        return MaskState.LOST
    return MaskState.USABLE if view.mask(mask).any() else MaskState.VANISHED


class ItemDataset(Dataset[dict[str, Any]]):
    """Map-style dataset over items; one sample is one row of `collate`'s batch.

    `read` makes the pictures: `picture`, or a cache of what it makes.
    """

    def __init__(
        self,
        items: Sequence[Item],
        view: View,
        read: Callable[[Item, View], PreparedImage] = picture,
    ) -> None:
        self.items = items
        self.view = view
        self.read = read

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.items[index]
        seen = self.read(item, self.view)
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


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Samples of an ItemDataset as one batch.

    Returns image (B,3,h,w) float32 in [0,1], mask (B,h,w) bool, label and index (B,) int64, digest
    (B,16) uint8 of the pixels, count_image and count_pixel (B,) bool, path and kind as lists of
    str.
    """
    column = {key: [sample[key] for sample in samples] for key in samples[0]}
    flags = ("count_image", "count_pixel")
    return (
        column
        | {key: torch.stack(column[key]) for key in ("image", "mask", "digest")}
        | {key: torch.tensor(column[key], dtype=torch.int64) for key in ("label", "index")}
        | {key: torch.tensor(column[key], dtype=torch.bool) for key in flags}
    )
