"""Your own images: train/good, test/KIND, ground_truth/KIND, or good ones alone."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from padim_lit.data.datamodule import SeenWhole, Split
from padim_lit.data.files import (
    list_images,
    looks_like_image,
    refuse_masks,
    subfolders,
    walk,
)
from padim_lit.data.items import GOOD, Item
from padim_lit.data.tree import Layout, is_good, read_tree, resolve_root
from padim_lit.errors import InputError


@dataclass(eq=False)
class Folder(SeenWhole):
    """A folder of your own images, with or without masks, with or without test images.

    Args:
        root: folder with train/good, optionally test/KIND ("good" and any others) and
            ground_truth/KIND with one mask an image, each with any folders below; or a folder of
            good images; ~ is expanded.
        image_size, crop_size: see AnomalyData; without a crop nothing of an image is out of sight.

    Raises InputError for a missing root, missing or empty folders, missing or ambiguous masks,
    and what AnomalyData raises.
    """

    test_optional: ClassVar[bool] = True

    root: str | Path

    def read(self) -> Split:
        folder = resolve_root(self.root, "train/good and test/KIND, or good images alone")
        train, test, notes = self._found(folder)
        for part in ("train", "test"):
            for name in subfolders(folder / part):
                if is_good(name) and name != GOOD:
                    notes.append(f"{part}/{name} was taken for good images, by its name.")
        unknown = sorted({item.kind for item in test if item.label and not item.count_pixel})
        if test and not any(item.count_pixel for item in test):
            notes.append("No masks in ground_truth: pixel metrics cannot be computed.")
        elif unknown:
            notes.append(f"No masks for {', '.join(unknown)}: not counted in pixel metrics.")
        about = {"split": "train and test as found in the folder", "split_seed": None}
        return Split(f"folder/{folder.resolve().name}", train, test, about, notes)

    def _found(self, folder: Path) -> tuple[list[Item], list[Item], list[str]]:
        """Train and test items, and what to say about the files."""
        if _has_training_images(folder):
            train, test, notes = read_tree(folder, Layout(complete=False))
            return train, test, notes + _unread(folder, [*train, *test])
        if any(path.is_file() and looks_like_image(path) for path in folder.iterdir()):
            paths = list_images(folder)
            if below := [path for path in paths if path.parent != folder]:
                # They may be defective: here no name says what is good.
                raise InputError(
                    f"{len(below)} image(s) lie in folders below {folder}, such as {below[0]}, "
                    "beside others; move all good ones to train/good, or these away"
                )
            refuse_masks(paths, folder)
            return [Item(path) for path in paths], [], []
        raise InputError(
            f"data.root={self.root} has no train/good; it must hold train/good and test/KIND, or "
            f"good images alone; {_advice(folder)}"
        )


def _has_training_images(folder: Path) -> bool:
    return any(map(is_good, subfolders(folder / "train")))


def _unread(folder: Path, items: list[Item]) -> list[str]:
    """What to say of images beside train and test, of which `read_tree` knows nothing."""
    known = ("train", "test", "ground_truth")
    found = filter(looks_like_image, walk(folder / "**"))
    if left := [path for path in found if path.relative_to(folder).parts[0] not in known]:
        # A link to itself is no error here: pathlib's own raises.
        read = {os.path.realpath(item.path) for item in items}
        left = [path for path in left if os.path.realpath(path) not in read]
    said = f"Images beside train and test, not read: {len(left)}, such as {min(left, default='')}."
    return [said] if left else []


def _advice(folder: Path) -> str:
    """What to do with a folder that has no train/good."""
    parent, found = folder.absolute().parent, subfolders(folder)
    if _has_training_images(parent):
        return f"set it to that folder's parent, {parent}"
    below = [folder / name for name in found if _has_training_images(folder / name)]
    if below:
        return f"set it to {below[0]}"
    good = next((name for name in found if is_good(name)), None)
    others = [name for name in found if name != good]
    first, bad = "good images to learn from go", "defective ones below test"
    if good is not None:
        first = f"move most of {good}"
        bad = f"{', '.join(others)} below test" if others else "defective ones below test"
    return (
        f"found there: {', '.join(found) or 'no folder'}; {first} to train/good, others to "
        f"test/good, and {bad} (names of folders in small letters): the fit sees good images only, "
        "and the test needs good ones that it has not seen"
    )
