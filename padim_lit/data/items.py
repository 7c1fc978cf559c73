"""One image of a dataset, how it is loaded, checked and batched."""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from padim_lit.data.images import read_image, read_mask
from padim_lit.data.planted import plant
from padim_lit.data.transform import View
from padim_lit.errors import InputError

GOOD = "good"


@dataclass(frozen=True)
class Item:
    """One image of a dataset and what is known about it.

    Attributes:
        path: image file.
        kind: "good", or the kind of defect ("crack", "planted_crack", ...).
        mask: mask file, or None where all is good, unknown or planted.
        plant_seed: seed of the defect to plant (its form follows from `kind`), or None.
        count_image: counts in image metrics (False for planted defects).
        count_pixel: counts in pixel metrics (only where the pixel truth is known).
    """

    path: Path
    kind: str = GOOD
    mask: Path | None = None
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
        mask = read_mask(self.mask)
        if mask.shape != (image.height, image.width):
            raise InputError(
                f"mask {self.mask} is {mask.shape[1]}x{mask.shape[0]} pixels but its image "
                f"{self.path} is {image.width}x{image.height}; both must have one size"
            )
        return image, mask


class MaskState(Enum):
    """What remains of an item's mask in the view."""

    USABLE = "usable"
    EMPTY = "empty"  # no defect pixel in the file
    LOST = "lost"  # every defect pixel outside the crop
    VANISHED = "vanished"  # inside the crop, but smaller than the resized pixels


def check(items: Sequence[Item], view: View) -> tuple[list[Item], Counter[tuple[MaskState, bool]]]:
    """Decode every item once, so that bad files are found before anything is fitted.

    Where the mask is empty or vanishes in the resize, the pixel truth is unknown and the item
    returned no longer counts in pixel metrics; a mask outside the crop is known to be absent.

    Returns the items and how many masks are in each (state, planted). Raises InputError for the
    first bad file in the order of `items`.
    """
    # Pillow releases the GIL while it decodes.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        states = list(threads.map(partial(_mask_state, view=view), items))
    unknown = (MaskState.EMPTY, MaskState.VANISHED)
    checked = [
        replace(item, count_pixel=False) if state in unknown else item
        for item, state in zip(items, states, strict=True)
    ]
    planted = [item.plant_seed is not None for item in items]
    return checked, Counter(
        (state, p) for state, p in zip(states, planted, strict=True) if state is not None
    )


def _mask_state(item: Item, view: View) -> MaskState | None:
    _, mask = item.load()
    if item.mask is None and item.plant_seed is None:
        return None
    if not mask.any():
        return MaskState.EMPTY
    if not view.shows(mask):
        return MaskState.LOST
    return MaskState.USABLE if view.mask(mask).any() else MaskState.VANISHED


class ItemDataset(Dataset[dict[str, Any]]):
    """Map-style dataset over items; one sample is one row of `collate`'s batch."""

    def __init__(self, items: Sequence[Item], view: View) -> None:
        self.items = items
        self.view = view

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.items[index]
        image, mask = item.load()
        seen = self.view.mask(mask)
        pixels = np.array(self.view.image(image), dtype=np.float32) / 255
        return {
            "image": torch.from_numpy(pixels).permute(2, 0, 1).contiguous(),
            "mask": torch.from_numpy(seen),
            "label": item.label,
            "count_image": item.count_image,
            "count_pixel": item.count_pixel,
            "index": index,
            "path": str(item.path),
            "kind": item.kind,
        }


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Samples of an ItemDataset as one batch.

    Returns image (B,3,h,w) float32 in [0,1], mask (B,h,w) bool, label and index (B,) int64,
    count_image and count_pixel (B,) bool, path and kind as lists of str.
    """
    column = {key: [sample[key] for sample in samples] for key in samples[0]}
    flags = ("count_image", "count_pixel")
    return (
        column
        | {key: torch.stack(column[key]) for key in ("image", "mask")}
        | {key: torch.tensor(column[key], dtype=torch.int64) for key in ("label", "index")}
        | {key: torch.tensor(column[key], dtype=torch.bool) for key in flags}
    )
