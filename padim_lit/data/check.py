"""One look at every image before anything is fitted."""

import os
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from padim_lit.data.images import read_size
from padim_lit.data.items import Item, MaskState, PreparedImage, mask_state, prepare
from padim_lit.data.repeats import same_files
from padim_lit.data.transform import ResizeCrop
from padim_lit.digests import digest, keys


def state_of_header(item: Item, resize_crop: ResizeCrop) -> MaskState | None:
    """The state of an item's mask, from the image's header: what is broken behind is not found."""
    if item.plant_seed is None:
        size = read_size(item.path)
        if item.mask is None:
            return None
        mask = item.load_mask()
        if mask.shape == size:
            return mask_state(item, mask, resize_crop)
    # Another size may be a turned image, or a mistake: decoding tells.
    return prepare(item, resize_crop).state


def look_at(
    items: Sequence[Item], resize_crop: ResizeCrop, read: Callable[..., PreparedImage] | None
) -> tuple[list[Item], Counter[tuple[MaskState, bool]], Sequence[Hashable]]:
    """Look at every item once, so that bad files are found before anything is fitted.

    `read` is `prepare` or a cache of what it makes; None looks at images' headers only, and takes
    files of the same bytes for the same picture.

    Returns:
        The items, but `count_pixel` only where the pixel truth is known: not where a mask is empty
        or vanishes in the resize. A mask outside the crop is known to be absent.
        How many masks are in each (state, planted).
        A key for each item, equal where the model sees the same.

    Raises InputError for the first bad file in the order of `items`.
    """

    def look(item: Item) -> tuple[MaskState | None, Hashable]:
        if read is None:
            return state_of_header(item, resize_crop), None
        found = read(item, resize_crop)
        return found.state, keys(digest(found.pixels)[None])[0]

    # Pillow releases the GIL while it decodes.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        states, pictures = zip(*threads.map(look, items), strict=True)
    if read is None:
        pictures = same_files([item.path for item in items])
    judged, counts = [], Counter[tuple[MaskState, bool]]()
    for item, state in zip(items, states, strict=True):
        unknown = state in (MaskState.EMPTY, MaskState.VANISHED)
        judged.append(replace(item, count_pixel=False) if unknown else item)
        if state is not None:
            counts[state, item.plant_seed is not None] += 1
    return judged, counts, pictures
