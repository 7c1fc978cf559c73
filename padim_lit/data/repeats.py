"""The same picture twice: in the training set, in train and test, under two labels.

A picture that the fit sees twice counts twice in every mean and covariance, and a threshold from
images scored leave-one-out is ruined: the copy stays in. So the fit takes each picture once.
Everything else is said and counted, not refused: who did not make a data set cannot mend it.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path

from padim_lit.data.items import Item

_SAMPLE = 1 << 12  # bytes


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


def same_files(paths: Sequence[Path]) -> list[int]:
    """For each file the position of the first one with the same bytes.

    Sizes are compared first, then a few kilobytes, then all: files that differ are hardly read.
    """
    contents: list[Hashable] = [None] * len(paths)
    for look in (_size, _ends, _whole):
        files = Counter(contents)
        contents = [
            (known, look(path)) if files[known] > 1 else known
            for known, path in zip(contents, paths, strict=True)
        ]
    first: dict[Hashable, int] = {}
    return [first.setdefault(content, n) for n, content in enumerate(contents)]


def _size(path: Path) -> int:
    return path.stat().st_size


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(_SAMPLE)
        file.seek(-min(_SAMPLE, len(start)), os.SEEK_END)
        return start + file.read()


def _whole(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
