"""ELPV: electroluminescence images of solar cells (Deitsch et al.), from PyPI."""

import importlib.resources
from pathlib import Path
from typing import NamedTuple

from padim_lit.data.datamodule import AnomalyData
from padim_lit.data.items import Item
from padim_lit.data.planted import KINDS
from padim_lit.data.split import derived_seed, hold_out
from padim_lit.data.transform import Size
from padim_lit.errors import InputError

_CELLS = ("mono", "poly", "all")
_TRAIN_SHARE = 0.6


class ELPV(AnomalyData):
    """Healthy and broken solar cells, with planted defects to measure localisation.

    60 % of the cells with defect probability 0 train, seeded; the rest of them and the cells with
    probability 1 are tested; probabilities 1/3 and 2/3 are unused. ELPV has no masks, so every
    held-out healthy cell also comes as a copy with one planted defect whose mask is known.
    Real cells count in the image metrics only, planted copies in the pixel metrics only.

    Args:
        cells: "mono", "poly" or "all".
        planted: whether to add the planted copies.
        split_seed: same seed, same split and same planted defects.
        image_size, crop_size, batch_size, num_workers: see AnomalyData.

    Raises InputError for another `cells`, a missing elpv-dataset package, and what AnomalyData
    raises.
    """

    def __init__(
        self,
        *,
        cells: str = "mono",
        planted: bool = True,
        split_seed: int = 0,
        image_size: Size = 256,
        crop_size: Size | None = 224,
        batch_size: int = 32,
        num_workers: int | None = None,
    ) -> None:
        if cells not in _CELLS:
            raise InputError(f"cells={cells!r} is unknown; allowed: {', '.join(_CELLS)}")
        chosen = [cell for cell in _read_labels() if cells in ("all", cell.type)]
        healthy = [cell for cell in chosen if cell.probability == 0]
        broken = [cell for cell in chosen if cell.probability == 1]
        count = len(healthy) - int(_TRAIN_SHARE * len(healthy))
        names = [cell.path.name for cell in healthy]
        train, held = hold_out(healthy, names, count, split_seed)
        test = [Item(cell.path) for cell in held]
        test += [Item(cell.path, "defective") for cell in broken]
        notes = [
            "ELPV has no masks: pixel metrics count planted defects only, image metrics real "
            "cells only."
            if planted
            else "ELPV has no masks and planted=false: pixel metrics cannot be computed."
        ]
        if planted:
            test += [_planted(cell.path, n, split_seed) for n, cell in enumerate(held)]
        unused = len(chosen) - len(healthy) - len(broken)
        super().__init__(
            f"elpv/{cells}",
            [Item(cell.path) for cell in train],
            test,
            image_size=image_size,
            crop_size=crop_size,
            batch_size=batch_size,
            num_workers=num_workers,
            provenance={
                "split": f"60 % of the cells with defect probability 0 train; the {unused} with "
                "probability 1/3 or 2/3 are unused; ours, not the authors'",
                "split_seed": split_seed,
                "pixel_truth": "planted defects" if planted else "none",
            },
            notes=notes,
        )


class _Cell(NamedTuple):
    path: Path
    probability: float
    type: str


def _read_labels() -> list[_Cell]:
    try:
        folder = Path(str(importlib.resources.files("elpv_dataset"))) / "data"
        rows = [line.split() for line in (folder / "labels.csv").read_text().splitlines()]
    except (ModuleNotFoundError, FileNotFoundError):
        raise InputError(
            "data=elpv needs the package elpv-dataset; install it with: pip install elpv-dataset"
        ) from None
    return [_Cell(folder / name, float(p), kind) for name, p, kind in filter(None, rows)]


def _planted(path: Path, position: int, seed: int) -> Item:
    return Item(
        path,
        KINDS[position % len(KINDS)],
        plant_seed=derived_seed(seed, f"planted:{path.name}"),
        count_image=False,
        count_pixel=True,
    )
