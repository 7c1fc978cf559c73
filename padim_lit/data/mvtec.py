"""MVTec AD (Bergmann et al., CVPR 2019), one category at a time."""

from pathlib import Path

from padim_lit.data.datamodule import AnomalyData
from padim_lit.data.transform import Size
from padim_lit.data.tree import read_tree, resolve_root, subfolders
from padim_lit.errors import InputError


class MVTec(AnomalyData):
    """One category of MVTec AD with its official split and its masks.

    Args:
        root: folder that holds the category folders; ~ is expanded.
        category: "screw", "bottle", ...: the name of a folder in `root`.
        image_size, crop_size, batch_size, num_workers: see AnomalyData.

    Raises InputError for a missing root, an unknown category (naming the ones found), missing or
    empty folders, missing masks, and what AnomalyData raises.
    """

    def __init__(
        self,
        root: str | Path,
        category: str,
        *,
        image_size: Size = 256,
        crop_size: Size | None = 224,
        batch_size: int = 32,
        num_workers: int | None = None,
    ) -> None:
        folder = resolve_root(root, "MVTec AD")
        found = [name for name in subfolders(folder) if (folder / name / "train").is_dir()]
        if category not in found:
            where = ", ".join(found) if found else "none"
            hint = "; set data.root to its parent" if (folder / "train").is_dir() else ""
            raise InputError(f"unknown category {category!r} in {folder}; found: {where}{hint}")
        train, test = read_tree(folder / category, masks_required=True)
        super().__init__(
            f"mvtec/{category}",
            train,
            test,
            image_size=image_size,
            crop_size=crop_size,
            batch_size=batch_size,
            num_workers=num_workers,
            record={"split": "official MVTec AD split", "split_seed": None},
        )
