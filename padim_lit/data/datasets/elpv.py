"""ELPV: electroluminescence images of solar cells (Deitsch et al.), from PyPI."""

import importlib.resources
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from padim_lit.data.datamodule import AnomalyData, Split
from padim_lit.data.items import Item
from padim_lit.data.planted import KINDS
from padim_lit.data.split import derived_seed, hold_out
from padim_lit.errors import refusing, require_choice

_CELLS = ("mono", "poly", "all")
_TRAIN_SHARE = 0.6


@dataclass(eq=False, kw_only=True)
class ELPV(AnomalyData):
    """Healthy and broken solar cells, with planted defects to measure localisation.

    60 % of the cells with defect probability 0 train, seeded; the rest of them and the cells with
    probability 1 are tested; probabilities 1/3 and 2/3 are unused. ELPV has no masks, so every
    held-out healthy cell also comes as a copy with one planted defect whose mask is known.
    Real cells count in the image metrics only, planted copies in the pixel metrics only.

    Args:
        cells: "mono", "poly" or "all".
        split_seed: same seed, same split and same planted defects.

    Raises InputError for another `cells`, a missing elpv-dataset package, and what AnomalyData
    raises.
    """

    licence = "CC BY-NC-SA 4.0, not for commercial use; credit Deitsch et al"

    cells: str = "mono"
    split_seed: int = 0

    def read(self) -> Split:
        require_choice("data.cells", self.cells, _CELLS)
        chosen = [(path, p) for path, p, kind in _read_labels() if self.cells in ("all", kind)]
        healthy, broken = ([path for path, p in chosen if p == sure] for sure in (0, 1))
        count = len(healthy) - int(_TRAIN_SHARE * len(healthy))
        names = [path.name for path in healthy]
        train, held = hold_out(healthy, names, count, self.split_seed)
        test = [Item(path) for path in held]
        test += [Item(path, "defective") for path in broken]
        for path, kind in zip(held, cycle(KINDS)):
            planted = derived_seed(self.split_seed, f"planted:{path.name}")
            test.append(Item(path, kind, plant_seed=planted, count_image=False, count_pixel=True))
        note = (
            "ELPV says which cells are defective, not where. So pixel metrics are about defects "
            "that were planted on healthy cells, image metrics about real cells alone."
        )
        unused = len(chosen) - len(healthy) - len(broken)
        about = {
            "split": f"60 % of the cells with defect probability 0 train; the {unused} with "
            "probability 1/3 or 2/3 are unused; ours, not the authors'",
            "split_seed": self.split_seed,
            "pixel_truth": "planted defects",
        }
        return Split(f"elpv/{self.cells}", [Item(path) for path in train], test, about, [note])


def _read_labels() -> list[tuple[Path, float, str]]:
    """Return each cell's image, its probability of a defect, and whether it is mono or poly."""
    what, todo = "data=elpv needs the package elpv-dataset", "pip install elpv-dataset"
    with refusing(what, todo, ModuleNotFoundError, FileNotFoundError):
        folder = Path(str(importlib.resources.files("elpv_dataset"))) / "data"
        rows = [line.split() for line in (folder / "labels.csv").read_text("utf-8").splitlines()]
    return [(folder / name, float(p), kind) for name, p, kind in filter(None, rows)]
