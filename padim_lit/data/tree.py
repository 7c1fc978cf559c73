"""The folder layout that MVTec AD made common: train/good, test/KIND, ground_truth/KIND."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from padim_lit.data.files import MASK_ENDS, list_images, named_images, refuse_masks, subfolders
from padim_lit.data.images import EXTENSIONS
from padim_lit.data.items import GOOD, Item
from padim_lit.errors import InputError
from padim_lit.system.paths import typed_path

#: Names of folders of good images, in any case.
GOOD_NAMES = (GOOD, "ok", "normal")


def resolve_root(root: str | Path, what: str) -> Path:
    """`root` with ~ expanded, relative to the working directory; InputError when not a folder."""
    path = typed_path(root)
    if not path.is_dir():
        raise InputError(f"no such folder: {path} ({what}); set data.root to where the data lies")
    return path


def inside(root: Path, path: str | None, where: str) -> Path:
    """Return the file `path` below `root`, as the split file `where` has it; None if it has none.

    Raises InputError where there is no such file.
    """
    file = root / (path or "")
    if not file.is_file():
        raise InputError(f"{where}: no such file: {file}; unpack the data again")
    return file


def require_category(category: str, where: Path | str, found: Iterable[str]) -> None:
    """Raise InputError unless `category` is one of those `found` there."""
    if category not in found:
        said = f"unknown category {category!r}" if category else "data.category is not set"
        raise InputError(
            f"{said}; found in {where}: {', '.join(sorted(found)) or 'none'}; set data.category to "
            "one of them, or data.root to the folder that holds it"
        )


@dataclass(frozen=True)
class Layout:
    """Where a tree keeps what.

    Attributes:
        test: folder of the test images, a subfolder a kind.
        truth: folder of the masks, a subfolder a kind.
        mask_threshold: a mask's value above it is a defect; None: see `read_mask`.
        folders: a folder of masks an image, whose union is the truth, instead of one file.
        complete: there must be test images, and masks of every kind of defect among them.
    """

    test: str = "test"
    truth: str = "ground_truth"
    mask_threshold: int | None = None
    folders: bool = False
    complete: bool = True


def is_good(name: str) -> bool:
    """Whether a folder of this name holds good images."""
    return name.lower() in GOOD_NAMES


def good_folder_of(paths: Sequence[Path]) -> list[Path | None]:
    """Return each file's folder of good images, as far as the files lie apart."""
    shared = len(Path(os.path.commonpath([path.parent for path in paths])).parts)
    return [
        next((p for p in path.parents if is_good(p.name) and len(p.parts) > shared), None)
        for path in paths
    ]


def read_tree(
    root: Path, layout: Layout, fits: bool = True
) -> tuple[list[Item], list[Item], list[str]]:
    """Read one tree; return train items, test items, and notes on its files.

    Folders named as in GOOD_NAMES, in any case, hold good images. Where ground_truth/KIND exists,
    every image of test/KIND needs a mask in it, named <stem>, <stem>_mask or <stem>_GT with any
    image extension. Images may lie in folders below, by date say, and their masks in the same ones.
    Kinds without that folder have an unknown pixel truth; without any ground_truth nothing counts
    in the pixel metrics.

    Args:
        root: folder that holds train/, test/ and perhaps ground_truth/.
        layout: other names for these folders, and whether all must be there.
        fits: False: there may be no train/.

    Raises InputError for missing or empty folders, missing, ambiguous or orphaned masks, masks
    among photos, and images where none are read.
    """
    trains, tests, truths = root / "train", root / layout.test, root / layout.truth
    found = subfolders(trains)
    good = [name for name in found if is_good(name)]
    if fits and not good:
        raise InputError(
            f"no good images: {trains} has no folder {GOOD}; found: "
            f"{', '.join(found) or 'no folder'}; add it"
        )
    train = [Item(path) for name in good for path in images(trains / name)]
    for folder in (trains, tests):
        _refuse_stray(folder)
    if not layout.complete and not tests.exists():
        return train, [], []
    kinds = [kind for kind in subfolders(tests) if tests / kind != truths]
    if not kinds:
        raise InputError(f"no test images: {tests} has no folder {GOOD} or KIND; add one")
    return train, *read_kinds(root, kinds, layout)


def read_kinds(root: Path, kinds: Sequence[str], layout: Layout) -> tuple[list[Item], list[str]]:
    """Return the items of each folder of `kinds` in `layout.test`, and notes; see `read_tree`."""
    tests, truths = root / layout.test, root / layout.truth
    _refuse_stray(truths)
    notes, truth = [], subfolders(truths)
    orphans = sorted(name for name in set(truth) - set(kinds) if not is_good(name))
    if orphans:
        raise InputError(
            f"{truths / orphans[0]} has no {layout.test}/{orphans[0]} beside it; "
            f"kinds under test: {', '.join(kinds)}; rename or remove it"
        )
    test: list[Item] = []
    for kind in kinds:
        # With masks of their own, what has none is named.
        paths = images(tests / kind, masked=kind in truth and not is_good(kind))
        if is_good(kind):
            test += [Item(path, count_pixel=bool(truth)) for path in paths]
        elif kind in truth:
            masks, unused = _masks(paths, tests / kind, truths / kind, layout)
            test += [
                Item(path, kind, mask, layout.mask_threshold, count_pixel=True)
                for path, mask in zip(paths, masks, strict=True)
            ]
            if unused:
                notes.append(
                    f"Masks in {layout.truth}/{kind} that belong to no image in "
                    f"{layout.test}/{kind}: {len(unused)}, such as {unused[0]}."
                )
        elif layout.complete:
            raise InputError(
                f"no masks for {layout.test}/{kind}: {truths / kind} is missing; add it"
            )
        else:
            test += [Item(path, kind) for path in paths]
    return test, notes


def _refuse_stray(folder: Path) -> None:
    """InputError for images in train, test and ground_truth themselves, and in train/bad."""
    if not folder.is_dir():
        return
    stray = list(named_images(folder / "*"))
    for name in subfolders(folder) if folder.name == "train" else ():
        if not is_good(name):
            stray += named_images(folder / name / "**")
    if stray:
        raise InputError(
            f"{len(stray)} image(s) in {folder} lie where none are read, such as {min(stray)}; "
            "training images belong in train/good, all others in test/KIND, masks in "
            "ground_truth/KIND (mask/KIND beside good); move or remove them"
        )


def _masks(
    paths: list[Path], images: Path, folder: Path, layout: Layout
) -> tuple[list[tuple[Path, ...]], list[str]]:
    """Return the masks in `folder` for each of `paths`, and names of masks that fit no image."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for mask in list_images(folder):
        name = mask.relative_to(folder)
        by_name[str(name.parent if layout.folders else name.with_suffix(""))].append(mask)
    masks, owner = [], dict[Path, Path]()
    for path in paths:
        name = str(path.relative_to(images).with_suffix(""))
        found = [mask for end in ("", *MASK_ENDS) for mask in by_name[name + end]]
        if not found or (len(found) > 1 and not layout.folders):
            problem = f"{len(found)} masks" if found else "no mask"
            need = (
                f"{folder} must have exactly one file named {name}.png, {name}_mask.png or "
                f"{name}_GT.png"
            )
            if layout.folders:
                need = f"{folder / name} must hold at least one; add it"
            raise InputError(f"{problem} for {path}: {need}")
        masks.append(tuple(found))
        for mask in found:
            if (other := owner.setdefault(mask, path)) != path:
                raise InputError(
                    f"{other} and {path} would share the mask {mask}; rename one of them, and give "
                    "each a mask of its own"
                )
    unused = [mask for found in by_name.values() for mask in found if mask not in owner]
    return masks, sorted(str(mask.relative_to(folder)) for mask in unused)


def images(folder: Path, masked: bool = False) -> list[Path]:
    """The images in `folder` and below it.

    Raises InputError where there are none, and for masks beside them, unless they are `masked`.
    """
    paths = list_images(folder)
    if not paths:
        raise InputError(f"no images in {folder}; allowed are {', '.join(EXTENSIONS)}; add some")
    if not masked:
        refuse_masks(paths, folder)
    return paths
