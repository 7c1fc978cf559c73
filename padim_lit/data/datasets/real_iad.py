"""Real-IAD (Wang et al., CVPR 2024): 30 objects, five views each."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padim_lit.data.datamodule import AnomalyData, Split
from padim_lit.data.files import subfolders
from padim_lit.data.items import Item
from padim_lit.data.tree import inside, require_category, resolve_root
from padim_lit.errors import InputError, refusing

# The files lie in the archive's folder, or in one of the same name inside it.
SPLITS = ("realiad_jsons", "realiad_jsons/realiad_jsons")


@dataclass(eq=False)
class RealIAD(AnomalyData):
    """One object of Real-IAD, all views, split as realiad_jsons/CATEGORY.json says.

    The file has meta.prefix and meta.normal_class, and lists train and test of anomaly_class,
    image_path and mask_path (null for good images), relative to realiad_RESOLUTION/PREFIX. The
    views of one object lie in a folder of their own, S and a number.

    Args:
        root: folder that holds realiad_jsons and realiad_1024, realiad_512 or realiad_256.
        category: "audiojack", "pcb", ...
        resolution: 1024, 512 or 256: which of the published sizes to read.

    Raises InputError for a missing root, split file or image folder (naming what was found),
    missing files, and what AnomalyData raises.
    """

    licence = "CC BY-NC-SA 4.0, not for commercial use"

    root: str | Path
    category: str = ""  # whose lack is said with what there is
    resolution: int = 1024

    def read(self) -> Split:
        folder = resolve_root(self.root, "Real-IAD")
        pictures = folder / f"realiad_{self.resolution}"
        if not pictures.is_dir():
            there = ", ".join(n for n in subfolders(folder) if n.startswith("realiad_"))
            raise InputError(
                f"no {pictures}; found: {there or 'no realiad_ folder'}; set data.resolution or "
                "data.root"
            )
        file, split = _split(folder, self.category)
        place, normal = pictures / split["meta"]["prefix"], split["meta"]["normal_class"]
        train, test = (
            [_item(place, entry, normal, file, tested) for entry in split[part]]
            for part, tested in (("train", False), ("test", True))
        )
        about = {
            "split": f"the authors' split, {file.parent.name}/{file.name}",
            "split_seed": None,
            "resolution": self.resolution,
        }
        return Split(f"real_iad/{self.category}", train, test, about)


def _split(folder: Path, category: str) -> tuple[Path, dict[str, Any]]:
    files = [file for name in reversed(SPLITS) for file in (folder / name).glob("*.json")]
    found = {file.stem: file for file in files}
    require_category(category, folder / SPLITS[0], found)
    file = found[category]
    with refusing(f"{file} cannot be read", "unpack it again", OSError, ValueError):
        return file, json.loads(file.read_text(encoding="utf-8"))


def _item(folder: Path, entry: dict[str, Any], normal: str, file: Path, tested: bool) -> Item:
    path = inside(folder, entry["image_path"], str(file))
    views = str(path.parent) if re.fullmatch(r"S\d+", path.parent.name) else None
    if entry["anomaly_class"] == normal:
        return Item(path, count_pixel=tested, group=views)
    mask = inside(folder, entry["mask_path"], str(file))
    kind = entry["anomaly_class"]
    return Item(path, kind, (mask,), mask_threshold=0, count_pixel=tested, group=views)
