"""The folder layout that MVTec AD made common: train/good, test/KIND, ground_truth/KIND."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from padim_lit.data.images import list_images
from padim_lit.data.items import GOOD, Item
from padim_lit.errors import InputError


def resolve_root(root: str | Path, what: str) -> Path:
    """`root` with ~ expanded, relative to the working directory; InputError when not a folder."""
    path = Path(root).expanduser()
    if not path.is_dir():
        raise InputError(f"no such folder: {path} ({what}); set data.root to where the data lies")
    return path


def inside(root: Path, path: str, where: str) -> Path:
    """The file `path` below `root`, as the split file `where` names it.

    Raises InputError where there is no such file, or where it would lie outside `root`.
    """
    file = root / path
    if not path or not file.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{where}: {path!r} must name a file below {root}")
    if not file.is_file():
        raise InputError(f"{where}: no such file: {file}; unpack the data again")
    return file


def subfolders(folder: Path) -> list[str]:
    """Names of the visible subfolders of `folder`, sorted; [] when the folder is missing."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def resolve_category(root: str | Path, category: str, what: str) -> Path:
    """The folder of `category` in `root`.

    Raises InputError for a missing root and an unknown category, naming the ones found.
    """
    folder = resolve_root(root, what)
    found = [name for name in subfolders(folder) if (folder / name / "train").is_dir()]
    if category not in found:
        where = ", ".join(found) if found else "none"
        hint = "; set data.root to its parent" if (folder / "train").is_dir() else ""
        raise InputError(f"unknown category {category!r} in {folder}; found: {where}{hint}")
    return folder / category


@dataclass(frozen=True)
class Layout:
    """Where a tree keeps what.

    Attributes:
        good: name of the folders of good images.
        test: folder of the test images, a subfolder a kind.
        truth: folder of the masks, a subfolder a kind.
        nonzero: any mask value above 0 is a defect.
        folders: a folder of masks an image, whose union is the truth, instead of one file.
    """

    good: str = GOOD
    test: str = "test"
    truth: str = "ground_truth"
    nonzero: bool = False
    folders: bool = False


def read_tree(
    root: Path, *, masks_required: bool, layout: Layout = Layout()
) -> tuple[list[Item], list[Item]]:
    """(train, test) items of one tree.

    Where ground_truth/KIND exists, every image of test/KIND needs a mask in it, named
    <stem> or <stem>_mask with any image extension. Kinds without that folder have an unknown
    pixel truth; without any ground_truth nothing counts in the pixel metrics.

    Args:
        root: folder that holds train/, test/ and perhaps ground_truth/.
        masks_required: whether every kind of defect must have its ground_truth/KIND.
        layout: other names for these folders.

    Raises InputError for missing or empty folders and missing, ambiguous or orphaned masks.
    """
    train = [Item(path) for path in images(root / "train" / layout.good)]
    tests, truths = root / layout.test, root / layout.truth
    kinds = [kind for kind in subfolders(tests) if tests / kind != truths]
    if not kinds:
        raise InputError(f"no test images: {tests} has no folder {layout.good} or KIND; add one")
    truth = subfolders(truths)
    orphans = sorted(set(truth) - set(kinds) - {layout.good})
    if orphans:
        raise InputError(
            f"{truths / orphans[0]} has no {layout.test}/{orphans[0]} beside it; "
            f"kinds under test: {', '.join(kinds)}; rename or remove it"
        )
    test: list[Item] = []
    for kind in kinds:
        paths = images(tests / kind)
        if kind == layout.good:
            test += [Item(path, count_pixel=bool(truth)) for path in paths]
        elif kind in truth:
            mask_of = _mask_folder if layout.folders else _mask_files(truths / kind)
            test += [
                Item(path, kind, mask_of(path, truths / kind), layout.nonzero, count_pixel=True)
                for path in paths
            ]
        elif masks_required:
            raise InputError(
                f"no masks for {layout.test}/{kind}: {truths / kind} is missing; add it"
            )
        else:
            test += [Item(path, kind) for path in paths]
    return train, test


def _mask_files(folder: Path) -> Callable[[Path, Path], Path]:
    by_stem: dict[str, list[Path]] = {}
    for mask in list_images(folder):
        by_stem.setdefault(mask.stem, []).append(mask)

    def mask_of(path: Path, folder: Path) -> Path:
        found = by_stem.get(path.stem, []) + by_stem.get(f"{path.stem}_mask", [])
        if len(found) != 1:
            problem = "no mask" if not found else f"{len(found)} masks"
            raise InputError(
                f"{problem} for {path}: {folder} must have exactly one file named "
                f"{path.stem}_mask.png or {path.stem}.png"
            )
        return found[0]

    return mask_of


def _mask_folder(path: Path, folder: Path) -> tuple[Path, ...]:
    found = tuple(list_images(folder / path.stem)) if (folder / path.stem).is_dir() else ()
    if not found:
        raise InputError(f"no mask for {path}: {folder / path.stem} must hold at least one; add it")
    return found


def images(folder: Path) -> list[Path]:
    """The images in `folder`; InputError where there are none."""
    paths = list_images(folder)
    if not paths:
        raise InputError(
            f"no images in {folder}; allowed are .png, .jpg, .jpeg, .tif, .tiff, .bmp; "
            "add some or remove the folder"
        )
    return paths
