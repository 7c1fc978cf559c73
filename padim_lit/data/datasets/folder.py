"""Your own images in the layout train/good, test/KIND, ground_truth/KIND."""

from pathlib import Path

from padim_lit.data.datamodule import AnomalyData
from padim_lit.data.items import GOOD
from padim_lit.data.transform import Size
from padim_lit.data.tree import read_tree, resolve_root
from padim_lit.errors import InputError


class Folder(AnomalyData):
    """A folder of your own images, with or without masks.

    Args:
        root: folder with train/good, test/KIND ("good" and any others) and, optionally,
            ground_truth/KIND with one mask an image; ~ is expanded.
        image_size, crop_size, batch_size, num_workers: see AnomalyData.

    Raises InputError for a missing root, missing or empty folders, missing or ambiguous masks,
    and what AnomalyData raises.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: Size = 256,
        crop_size: Size | None = 224,
        batch_size: int = 32,
        num_workers: int | None = None,
    ) -> None:
        folder = resolve_root(root, "train/good and test/KIND")
        if not (folder / "train" / GOOD).is_dir():
            inside = folder.absolute().name in ("train", "test") or (folder / GOOD).is_dir()
            todo = "set it to that folder's parent" if inside else "set it to such a folder"
            raise InputError(
                f"data.root={root} has no train/good; it must hold train/good and test/KIND; {todo}"
            )
        train, test = read_tree(folder, masks_required=False)
        unknown = sorted({item.kind for item in test if item.label and not item.count_pixel})
        notes = []
        if not any(item.count_pixel for item in test):
            notes.append("No ground_truth folder: pixel metrics cannot be computed.")
        elif unknown:
            notes.append(f"No masks for {', '.join(unknown)}: not counted in pixel metrics.")
        super().__init__(
            f"folder/{folder.resolve().name}",
            train,
            test,
            image_size=image_size,
            crop_size=crop_size,
            batch_size=batch_size,
            num_workers=num_workers,
            provenance={"split": "train and test as found in the folder", "split_seed": None},
            notes=notes,
        )
