"""VisA (Zou et al., ECCV 2022) with its authors' one-class split."""

import csv
from dataclasses import dataclass
from pathlib import Path

from padim_lit.data.datamodule import SeenWhole, Split
from padim_lit.data.items import Item
from padim_lit.data.tree import inside, require_category, resolve_root
from padim_lit.errors import refusing

SPLIT = Path("split_csv") / "1cls.csv"


@dataclass(eq=False)
class VisA(SeenWhole):
    """One object of VisA, split as split_csv/1cls.csv says.

    A row names object, split (train, test), label (normal, anomaly), image and mask, the paths
    relative to `root`. The masks number the kinds of defects, so every value above 0 counts.

    Args:
        root: folder that holds split_csv and the objects' folders; ~ is expanded.
        category: "candle", "pcb1", ...: an object of the split file.
        image_size, crop_size: see AnomalyData; a square crop would leave out much of long photos.

    Raises InputError for a missing root or split file, an unknown category (naming the ones found),
    missing files, and what AnomalyData raises.
    """

    licence = "CC BY 4.0"

    root: str | Path
    category: str = ""  # whose lack is said with what there is

    def read(self) -> Split:
        folder = resolve_root(self.root, "VisA")
        objects: dict[str, tuple[list[Item], list[Item]]] = {}
        for line, row in _rows(folder / SPLIT):
            train, test = objects.setdefault(row["object"], ([], []))
            if row["object"] == self.category:
                item = _item(folder, row, f"{folder / SPLIT}, line {line}")
                (train if row["split"] == "train" else test).append(item)
        require_category(self.category, folder / SPLIT, objects)
        # By path, so that the order of the rows does not matter.
        train, test = (sorted(part, key=lambda item: item.path) for part in objects[self.category])
        about = {"split": "the authors' one-class split, 1cls.csv", "split_seed": None}
        return Split(f"visa/{self.category}", train, test, about)


def _rows(file: Path) -> list[tuple[int, dict[str, str]]]:
    todo = "set data.root to the folder that holds split_csv"
    with (
        refusing(f"{file} cannot be read", todo, OSError, UnicodeDecodeError, csv.Error),
        file.open(newline="", encoding="utf-8-sig") as text,
    ):
        reader = csv.DictReader(text)
        return [(reader.line_num, row) for row in reader]


def _item(folder: Path, row: dict[str, str], where: str) -> Item:
    path = inside(folder, row["image"], where)
    if row["label"] == "normal":
        return Item(path, count_pixel=row["split"] == "test")
    mask = inside(folder, row["mask"], where)
    return Item(path, "anomaly", (mask,), mask_threshold=0, count_pixel=True)
