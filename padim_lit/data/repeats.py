"""The same picture twice: in the training set, in train and test, under two labels.

A picture that the fit sees twice counts twice in every mean and covariance, and a threshold from
images scored leave-one-out is ruined: the copy stays in. So the fit takes each picture once.
Everything else is said and counted, not refused: who did not make a data set cannot mend it.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
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
    groups: dict[Hashable, list[tuple[str, Item]]] = defaultdict(list)
    kept = []
    for number, (item, picture) in enumerate(zip([*train, *test], pictures, strict=True)):
        if item.plant_seed is None:
            part = "train" if number < len(train) else "test"
            if part == "train" and picture not in groups:
                kept.append(item)
            groups[picture].append((part, item))
    found: dict[str, list[str]] = {key: [] for key in _SAYINGS}
    for group in groups.values():
        for key, (count, a, b) in _judge(group).items():
            found[key] += [f"{a} and {b}"] * count
    counts = {key: len(names) for key, names in found.items() if names}
    return kept, counts, [_SAYINGS[k].format(n, found[k][0]) for k, n in counts.items()]


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


def _judge(group: list[tuple[str, Item]]) -> dict[str, tuple[int, Path, Path]]:
    """How often what is wrong with items of one picture, with an example."""
    if len(group) == 1:
        return {}
    train = [item.path for part, item in group if part == "train"]
    test = [item for part, item in group if part == "test"]
    good = [item.path for _, item in group if not item.label]
    defective = [item.path for _, item in group if item.label]
    said = {}
    if len(train) > 1:
        said["train_repeats"] = (len(train) - 1, train[0], train[1])
    if len(test) > 1:
        said["test_repeats"] = (len(test) - 1, test[0].path, test[1].path)
    if train and test:
        said["test_in_train"] = (len(test), train[0], test[0].path)
    if good and defective:
        said["good_and_defective"] = (1, good[0], defective[0])
    return said


def same_files(paths: Sequence[Path]) -> list[int]:
    """For each file the position of the first one with the same bytes.

    Sizes are compared first, then a few kilobytes, then all: files that differ are hardly read.
    """
    first = list(range(len(paths)))
    groups = [first.copy()]
    for look in (_size, _ends, _whole):
        groups = [part for group in groups for part in _parts(group, paths, look)]
    for group in groups:
        for position in group:
            first[position] = group[0]
    return first


def _parts(
    group: list[int], paths: Sequence[Path], look: Callable[[Path], Hashable]
) -> list[list[int]]:
    parts: dict[Hashable, list[int]] = defaultdict(list)
    for position in group:
        parts[look(paths[position])].append(position)
    return [part for part in parts.values() if len(part) > 1]


def _size(path: Path) -> int:
    return path.stat().st_size


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(_SAMPLE)
        file.seek(-min(_SAMPLE, len(start)), os.SEEK_END)
        return start + file.read()


def _whole(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
