"""The folder layout that MVTec AD made common: train/good, test/KIND, ground_truth/KIND."""

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


def subfolders(folder: Path) -> list[str]:
    """Names of the visible subfolders of `folder`, sorted; [] when the folder is missing."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def read_tree(root: Path, *, masks_required: bool) -> tuple[list[Item], list[Item]]:
    """(train, test) items of one tree.

    Where ground_truth/KIND exists, every image of test/KIND needs a mask in it, named
    <stem> or <stem>_mask with any image extension. Kinds without that folder have an unknown
    pixel truth; without any ground_truth nothing counts in the pixel metrics.

    Args:
        root: folder that holds train/, test/ and perhaps ground_truth/.
        masks_required: whether every kind of defect must have its ground_truth/KIND.

    Raises InputError for missing or empty folders and missing, ambiguous or orphaned masks.
    """
    train = [Item(path) for path in _images(root / "train" / GOOD)]
    kinds = subfolders(root / "test")
    if not kinds:
        raise InputError(f"no test images: {root / 'test'} has no folder good or KIND; add one")
    truth = subfolders(root / "ground_truth")
    orphans = sorted(set(truth) - set(kinds) - {GOOD})
    if orphans:
        raise InputError(
            f"{root / 'ground_truth' / orphans[0]} has no test/{orphans[0]} beside it; "
            f"kinds under test: {', '.join(kinds)}; rename or remove it"
        )
    test: list[Item] = []
    for kind in kinds:
        paths = _images(root / "test" / kind)
        if kind == GOOD:
            test += [Item(path, count_pixel=bool(truth)) for path in paths]
        elif kind in truth:
            test += _masked(paths, kind, root / "ground_truth" / kind)
        elif masks_required:
            raise InputError(
                f"no masks for test/{kind}: {root / 'ground_truth' / kind} is missing; add it"
            )
        else:
            test += [Item(path, kind) for path in paths]
    return train, test


def _masked(paths: list[Path], kind: str, folder: Path) -> list[Item]:
    by_stem: dict[str, list[Path]] = {}
    for mask in list_images(folder):
        by_stem.setdefault(mask.stem, []).append(mask)
    items = []
    for path in paths:
        found = by_stem.get(path.stem, []) + by_stem.get(f"{path.stem}_mask", [])
        if len(found) != 1:
            problem = "no mask" if not found else f"{len(found)} masks"
            raise InputError(
                f"{problem} for {path}: {folder} must have exactly one file named "
                f"{path.stem}_mask.png or {path.stem}.png"
            )
        items.append(Item(path, kind, mask=found[0], count_pixel=True))
    return items


def _images(folder: Path) -> list[Path]:
    paths = list_images(folder)
    if not paths:
        raise InputError(
            f"no images in {folder}; allowed are .png, .jpg, .jpeg, .tif, .tiff, .bmp; "
            "add some or remove the folder"
        )
    return paths
