"""Your own images: train/good, test/KIND, ground_truth/KIND; good and KIND; or good alone."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from padim_lit.data.datamodule import SeenWhole, Split
from padim_lit.data.files import MASK_FOLDERS, list_images, named_images, refuse_masks, subfolders
from padim_lit.data.items import GOOD, Item
from padim_lit.data.split import hold_out
from padim_lit.data.tree import Layout, is_good, read_kinds, read_tree, resolve_root
from padim_lit.errors import InputError

# Of good images that lie beside defects, how many are fitted for each that is tested.
_FITTED = 4


@dataclass(eq=False)
class Folder(SeenWhole):
    """A folder of your own images, with or without masks, with or without test images.

    Args:
        root: folder with train/good, optionally test/KIND ("good" and any others) and
            ground_truth/KIND with one mask an image, each with any folders below; or with good,
            KIND and mask/KIND side by side; or a folder of good images; ~ is expanded.
        split_seed: same seed, same split where good and KIND lie side by side: a fifth of the
            good images is held out for the test.
        image_size, crop_size: see AnomalyData; without a crop nothing of an image is out of sight.

    Raises InputError for a missing root, missing or empty folders, missing or ambiguous masks, and
    what AnomalyData raises.
    """

    test_optional: ClassVar[bool] = True

    root: str | Path
    split_seed: int = field(default=0, kw_only=True)

    def read(self) -> Split:
        folder = resolve_root(self.root, "train/good and test/KIND, or good images alone")
        train, test, notes, drawn = self._found(folder)
        for part in ("train", "test"):
            for name in subfolders(folder / part):
                if is_good(name) and name != GOOD:
                    notes.append(f"{part}/{name} was taken for good images, by its name.")
        inside = [(item.path, item.path.parent) for item in train]
        if below := [p for p, own in inside if own != folder and not is_good(own.name)]:
            notes.append(
                f"{len(below)} of {len(train)} good images lie in folders below, such as "
                f"{below[0]}: all are fitted."
            )
        if drawn:
            notes.append(
                "Good test images were drawn photo by photo. Where several show one part, the test "
                "looks better than it is: move whole parts to train/good and to test/good."
            )
        unknown = sorted({item.kind for item in test if item.label and not item.count_pixel})
        if unknown and not any(item.count_pixel for item in test):
            notes.append("No masks: pixel metrics cannot be computed.")
        elif unknown:
            notes.append(f"No masks for {', '.join(unknown)}: not counted in pixel metrics.")
        about = {
            "split": drawn or "train and test as found in the folder",
            "split_seed": self.split_seed if drawn else None,
        }
        return Split(f"folder/{folder.resolve().name}", train, test, about, notes)

    def _found(self, folder: Path) -> tuple[list[Item], list[Item], list[str], str]:
        """Return train items, test items, notes on the files, and notes on a drawn split."""
        if _has_training_images(folder) or (not self.fits and (folder / "test").is_dir()):
            train, test, notes = read_tree(folder, Layout(complete=False), self.fits)
            return train, test, notes + _unread(folder, [*train, *test]), ""
        if here := list(named_images(folder / "*", strict=False)):  # what is left out is said below
            if _lie_side_by_side(folder):
                raise InputError(f"{min(here)} lies beside the folders of images; move it away")
            paths = list_images(folder)
            if below := [path for path in paths if path.parent != folder]:
                # They may be defective: here no name says what is good.
                raise InputError(
                    f"{len(below)} image(s) lie in folders below {folder}, such as {below[0]}, "
                    "beside others; move all good ones to train/good, or these away"
                )
            refuse_masks(paths, folder)
            return [Item(path) for path in paths], [], [], ""
        if _lie_side_by_side(folder):
            return self._side_by_side(folder)
        raise InputError(
            f"data.root={self.root} has no train/good; found there: "
            f"{', '.join(subfolders(folder)) or 'no folder'}; put good images to learn from into "
            "train/good and others into test/good and test/KIND, or all good ones into good, "
            "beside a folder for each kind of defect (names in small letters), or set data.root "
            "to a folder that is so"
        )

    def _side_by_side(self, folder: Path) -> tuple[list[Item], list[Item], list[str], str]:
        """Return what `_found` does, for folders good, KIND and perhaps mask/KIND."""
        found = subfolders(folder)
        truths = [name for name in found if name.lower() in MASK_FOLDERS] or [MASK_FOLDERS[0]]
        if len(truths) > 1:
            raise InputError(f"{folder}: masks lie in {' and '.join(truths)}; keep one")
        others = [name for name in found if name.lower() not in MASK_FOLDERS]  # and what runs write
        kinds = [name for name in others if any(named_images(folder / name / "**"))]
        layout = Layout(test=".", truth=truths[0], complete=False)
        items, notes = read_kinds(folder, kinds, layout)
        good, defects = ([i for i in items if i.label == label] for label in (0, 1))
        count = len(good) // (_FITTED + 1) if defects else 0
        names = [str(item.path.relative_to(folder)) for item in good]
        train, held = hold_out(good, names, count, self.split_seed)
        said = f"{', '.join(filter(is_good, kinds))}: {len(train)} to fit"
        if defects:
            bad = ", ".join(name for name in kinds if not is_good(name))
            said += f", {len(held)} held out for the test; {bad}: defects"
        drawn = f"{len(held)} of {len(good)} good images held out; ours" if held else ""
        return train, [*held, *defects], [f"{said}.", *notes], drawn


def _lie_side_by_side(folder: Path) -> bool:
    """Whether good images lie in a folder beside those of defects, or alone; names must tell."""
    found = subfolders(folder)
    others = [name for name in found if not is_good(name) and name.lower() not in MASK_FOLDERS]
    whole = any(name.lower() in ("train", "test") for name in others)
    whole |= any(is_good(name) for other in others for name in subfolders(folder / other))
    part = _has_training_images(folder.absolute().parent)  # train or test of a whole data set
    return any(map(is_good, found)) and not (whole or part)


def _has_training_images(folder: Path) -> bool:
    return any(map(is_good, subfolders(folder / "train")))


def _unread(folder: Path, items: list[Item]) -> list[str]:
    """Note images beside train and test, which `read_tree` does not read."""
    known = ("train", "test", "ground_truth")
    found = named_images(folder / "**")
    if left := [path for path in found if path.relative_to(folder).parts[0] not in known]:
        # A link to itself is no error here: pathlib's own raises.
        read = {os.path.realpath(item.path) for item in items}
        left = [path for path in left if os.path.realpath(path) not in read]
    said = f"Images beside train and test, not read: {len(left)}, such as {min(left, default='')}."
    return [said] if left else []
