"""Magnetic Tile defects (Huang et al., The Visual Computer 2018) in the authors' layout."""

import math
import re
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from padim_lit.data.datamodule import SeenWhole, Split
from padim_lit.data.files import list_images, subfolders
from padim_lit.data.images import SOFT_THRESHOLD
from padim_lit.data.items import Item
from padim_lit.data.split import hold_out
from padim_lit.data.tree import resolve_root
from padim_lit.errors import InputError

# File names end in a capture counter (exp3_num_54145). The exposures of one tile follow each other
# by less than about 100; a gap of this size always separates tiles. Tiles shot in quick succession
# share a group, which is the safe side: no group is ever split.
_SAME_TILE = 200


@dataclass(eq=False)
class MagneticTile(SeenWhole):
    """Magnetic Tile defects: MT_<Kind>/Imgs/<name>.jpg with the mask <name>.png beside it.

    The authors give no split. Here `test_good` of the 952 free images are held out, seeded, and
    all defective ones are tested. Each tile was photographed about six times, and its shots stay on
    one side of the split, because a test image whose tile was trained on is hardly new. Free images
    whose tile shows a defect in another shot are not excluded.

    Args:
        root: folder that holds MT_Free, MT_Crack, ...; ~ is expanded.
        split_seed: same seed, same split.
        test_good: number of free images to hold out.
        image_size, crop_size: see AnomalyData; without a crop the ends of long tiles stay in view.

    Raises InputError for a missing root or MT_Free, missing masks, an impossible `test_good`, and
    what AnomalyData raises.
    """

    root: str | Path
    split_seed: int = field(default=0, kw_only=True)
    test_good: int = field(default=150, kw_only=True)

    def read(self) -> Split:
        folder = resolve_root(self.root, "Magnetic Tile")
        found = [name for name in subfolders(folder) if name.startswith("MT_")]
        if "MT_Free" not in found:
            raise InputError(
                f"no MT_Free in {folder}; found: {', '.join(found) or 'no MT_ folder'}; "
                "set data.root to the folder that holds MT_Free, MT_Crack and the others"
            )
        free = _photographs(folder / "MT_Free")
        names = [path.stem for path in free]
        train, held = hold_out(
            free, names, self.test_good, self.split_seed, _tiles(names), "data.test_good"
        )
        test = [Item(path, count_pixel=True) for path in held]
        for name in found:
            if name != "MT_Free":
                kind = name.removeprefix("MT_").lower()
                test += [_defective(path, kind) for path in _photographs(folder / name)]
        tiles = _tiles([item.path.stem for item in test])
        test = [replace(item, group=str(tile)) for item, tile in zip(test, tiles, strict=True)]
        about = {
            "split": f"{self.test_good} of {len(free)} free images held out, shots of one tile "
            "kept together; ours, not the authors'",
            "split_seed": self.split_seed,
        }
        return Split("mtd", [Item(path) for path in train], test, about)


def _photographs(folder: Path) -> list[Path]:
    paths = [p for p in list_images(folder / "Imgs") if p.suffix.lower() in (".jpg", ".jpeg")]
    if not paths:
        raise InputError(f"no .jpg images in {folder / 'Imgs'}; add them or remove the folder")
    return paths


def _defective(path: Path, kind: str) -> Item:
    mask = path.with_suffix(".png")
    if not mask.is_file():
        raise InputError(f"no mask for {path}: {mask.name} must lie beside it; add it")
    # Once JPEGs: around each defect are levels that are none of it.
    return Item(path, kind, (mask,), SOFT_THRESHOLD, count_pixel=True)


def _tiles(names: list[str]) -> list[int | str]:
    """A group for each name: close capture counters share one, other names stand alone."""
    found = [re.fullmatch(r"exp\d+_num_(\d+)", name) for name in names]
    counters = {int(match[1]) for match in found if match}
    groups: dict[int, int] = {}
    for before, counter in pairwise([-math.inf, *sorted(counters)]):
        groups[counter] = groups[before] if counter - before <= _SAME_TILE else counter
    return [groups[int(m[1])] if m else name for m, name in zip(found, names, strict=True)]
