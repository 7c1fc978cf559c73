"""One look at every image before anything is fitted."""

import os
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from padim_lit.data.images import read_size
from padim_lit.data.items import Item, MaskState, PreparedImage, mask_state, prepare
from padim_lit.data.repeats import same_files
from padim_lit.data.transform import ResizeCrop
from padim_lit.digests import digest, keys


def state_of_header(item: Item, resize_crop: ResizeCrop) -> MaskState | None:
    """The state of an item's mask, from the image's header: what is broken behind is not found."""
    if item.plant_seed is not None:
        return prepare(item, resize_crop).state
    size = read_size(item.path)
    if item.mask is None:
        return None
    mask = item.load_mask()
    # Another size may be a turned image, or a mistake: decoding tells.
    return (
        mask_state(item, mask, resize_crop)
        if mask.shape == size
        else prepare(item, resize_crop).state
    )


class Looked(NamedTuple):
    """What one look at each item found.

    Attributes:
        items: as given, but `count_pixel` only where the pixel truth is known: not where a mask is
            empty or vanishes in the resize. A mask outside the crop is known to be absent.
        states: how many masks are in each (state, planted).
        pictures: a key for each item, equal where the model sees the same.
    """

    items: list[Item]
    states: Counter[tuple[MaskState, bool]]
    pictures: list[Hashable]


def look_at(
    items: Sequence[Item], resize_crop: ResizeCrop, read: Callable[..., PreparedImage] | None
) -> Looked:
    """Look at every item once, so that bad files are found before anything is fitted.

    `read` is `prepare` or a cache of what it makes; None looks at images' headers only, and takes
    files of the same bytes for the same picture.

    Raises InputError for the first bad file in the order of `items`.
    """

    def look(item: Item) -> tuple[MaskState | None, Hashable]:
        if read is None:
            return state_of_header(item, resize_crop), None
        found = read(item, resize_crop)
        return found.state, keys(digest(found.pixels)[None])[0]

    # Pillow releases the GIL while it decodes.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        found = list(threads.map(look, items))
    states = [state for state, _ in found]
    pictures = same_files([i.path for i in items]) if read is None else [key for _, key in found]
    unknown = (MaskState.EMPTY, MaskState.VANISHED)
    return Looked(
        [
            replace(item, count_pixel=False) if state in unknown else item
            for item, state in zip(items, states, strict=True)
        ],
        Counter(
            (state, item.plant_seed is not None)
            for item, state in zip(items, states, strict=True)
            if state is not None
        ),
        pictures,
    )
