"""One look at every image before anything is fitted: bad files, and the same picture twice.

A picture that the fit sees twice counts twice in every mean and covariance, and a threshold from
images scored leave-one-out is ruined: the copy stays in. So the fit takes each picture once.
Everything else is said and counted, not refused: who did not make a data set cannot mend it.
"""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from padim_lit.data.cache import digest_of, stamp
from padim_lit.data.images import highest_value, read_size
from padim_lit.data.items import Item, MaskState, PreparedImage, prepare
from padim_lit.data.transform import ResizeCrop
from padim_lit.digests import digest, keys
from padim_lit.errors import InputError

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Images whose brightness is looked at: they are decoded for it.
BRIGHTNESS_IMAGES = 5
#: Bad files that are named beside the first.
NAMED_FILES = 4


def look_at(
    items: Sequence[Item], resize_crop: ResizeCrop, read: Callable[..., PreparedImage] | None
) -> tuple[list[Item], Counter[tuple[MaskState, bool]], Sequence[Hashable]]:
    """Look at every item once, so that bad files are found before anything is fitted.

    `read` is `prepare` or a cache of what it makes; None looks at the headers alone of images
    without a mask, and takes files of the same bytes for the same picture.

    Returns:
        The items, but `count_pixel` only where the pixel truth is known: not where a mask is empty
        or vanishes in the resize. A mask outside the crop is known to be absent.
        How many masks are in each (state, planted).
        A key for each item, equal where the model sees the same.

    Raises InputError for bad files, whose reason is that of the first in the order of `items`.
    """
    bad: dict[Path, InputError] = {}

    def look(item: Item) -> tuple[MaskState | None, Hashable]:
        try:
            if read is None and not item.masks and item.plant_seed is None:
                read_size(item.path)
                return None, None
            found = (read or prepare)(item, resize_crop)
        except InputError as error:  # all that are bad are named at once
            bad[item.path] = error
            return None, None
        return found.state, keys(digest(found.pixels)[None])[0]

    # Pillow releases the GIL while it decodes.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        states, pictures = zip(*threads.map(look, items), strict=True)
    if bad:
        first, *others = dict.fromkeys(item.path for item in items if item.path in bad)
        named = ", ".join(map(str, others[:NAMED_FILES]))
        if len(others) > NAMED_FILES:
            named += ", …"
        more = f"; {len(others)} more cannot be used: {named}" if others else ""
        raise InputError(f"{bad[first]}{more}") from bad[first]
    if read is None:
        pictures = same_files([item.path for item in items])
    judged, counts = [], Counter[tuple[MaskState, bool]]()
    for item, state in zip(items, states, strict=True):
        unknown = state in (MaskState.EMPTY, MaskState.VANISHED)
        judged.append(replace(item, count_pixel=False) if unknown else item)
        if state is not None:
            counts[state, item.plant_seed is not None] += 1
    return judged, counts, pictures


def judge_repeats(
    train: Sequence[Item], test: Sequence[Item], pictures: Sequence[Hashable]
) -> tuple[list[Item], dict[str, int], list[str]]:
    """Training items without repeats, the counts that are not 0, and a note for each of them.

    Args:
        train: good items.
        test: good and defective ones; planted defects are copies on purpose and do not count.
        pictures: a key for each item of `train`, then of `test`, equal where the picture is.
    """
    groups: dict[Hashable, list[tuple[bool, Item]]] = defaultdict(list)
    for number, (item, picture) in enumerate(zip([*train, *test], pictures, strict=True)):
        if item.plant_seed is None:
            groups[picture].append((number < len(train), item))
    found: dict[str, list[str]] = defaultdict(list)
    for group in groups.values():
        fitted, tested = ([i.path for fits, i in group if fits == part] for part in (True, False))
        good, bad = ([i.path for _, i in group if i.label == label] for label in (0, 1))
        for saying, first, others in (
            ("train_repeats", fitted, fitted[1:]),
            ("test_repeats", tested, tested[1:]),
            ("test_in_train", fitted, tested),
            ("good_and_defective", good, bad[:1]),
        ):
            if first and others:
                found[saying] += [f"{first[0]} and {other}" for other in others]
    kept = [item for (fits, item), *_ in groups.values() if fits]
    notes = [said.format(len(found[k]), found[k][0]) for k, said in _SAYINGS.items() if k in found]
    return kept, {key: len(found[key]) for key in _SAYINGS if key in found}, notes


_SAYINGS = {
    "train_repeats": "Training images that are the same picture as another one: {}, such as {}. "
    "The fit takes each picture once.",
    "test_repeats": "Test images that are the same picture as another one: {}, such as {}. Each "
    "counts in the metrics.",
    "test_in_train": "Test images that are training images too: {}, such as {}. The fit knows "
    "them: their scores are lower than a new image's, and the metrics say less.",
    "good_and_defective": "Pictures that are labelled good as well as defective: {}, such as {}. "
    "One of the labels is wrong.",
}


def same_files(paths: Sequence[Path]) -> list[Hashable]:
    """Return a key for each file, equal for files with the same bytes alone.

    Only files of one size are read.
    """
    sizes = [path.stat().st_size for path in paths]
    files = Counter(sizes)
    return [
        (size, digest_of(stamp(path)) if files[size] > 1 else "")
        for size, path in zip(sizes, paths, strict=True)
    ]


def nearly_black(paths: Sequence[Path]) -> list[str]:
    """Warn of images that use a sixteenth of their range, as 12 bits of 16 do; return the note.

    Raises InputError for one that cannot be read.
    """
    seen = some(paths, BRIGHTNESS_IMAGES)
    value, most = max(map(highest_value, seen), key=lambda found: found[0] / found[1])
    if 16 * value > most:
        return []
    note = (
        f"Good images are nearly black: the highest value in {len(seen)} of them is {value}, where "
        f"{most} is white, so that little is seen of them. If the camera gives 10 or 12 bits, "
        "stretch these first, in all images; or give it more light."
    )
    log.warning("%s", note)
    return [note]


def some(found: Sequence[T], most: int) -> Sequence[T]:
    """Return at most `most` of `found`, evenly spread."""
    return found[:: max(1, -(-len(found) // most))]
