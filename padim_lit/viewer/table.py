"""The table of runs: what each is, how good and at what cost, and which notes hold for it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from padim_lit.metrics import METRICS
from padim_lit.report.tables import Cell, Table
from padim_lit.report.text import brief, share, size
from padim_lit.system.console import MISSING

SHOWN = ("image_auroc", "image_ap", "pixel_auroc", "pixel_aupro")


def run_table(content: Mapping[str, Any], notes: Sequence[str]) -> Table:
    """A row a run, in the order of `content`; `notes` are numbered from 1."""
    dagger = any(run["planted_pixels"] for run in content["runs"])
    return Table(
        "Test metrics; false alarms and missed images at the checkpoint's threshold, chosen "
        f"without test images{'; †: planted defects' * dagger}",
        [_row(run, content["images"], notes) for run in content["runs"]],
    )


def _row(run: Mapping[str, Any], images: Sequence[Any], notes: Sequence[str]) -> dict[str, Cell]:
    row = {"run": Cell(run["name"])}
    row |= {key: Cell(run[key]) for key in ("data", "backbone", "proj")}
    row |= {key: Cell(str(run[key]), run[key]) for key in ("dim", "seed")}
    for metric in SHOWN:
        value = run["metrics"][metric]
        planted = " †" * (value is not None and run["planted_pixels"] and "pixel" in metric)
        row[METRICS[f"test/{metric}"]] = Cell(share(value, 4) + planted, value)
    row["false alarms"], row["missed"] = (_wrong(run, images, label) for label in (0, 1))
    seconds = run["seconds"] and 1000 * run["seconds"]
    row["state"] = Cell(size(run["state_bytes"]), run["state_bytes"])
    row["ms/image"] = Cell(brief(seconds), seconds)
    row["notes"] = Cell(", ".join(str(i) for i, n in enumerate(notes, 1) if n in run["notes"]))
    return row


def _wrong(run: Mapping[str, Any], images: Sequence[Any], label: int) -> Cell:
    """How many images of a label are on the wrong side of the checkpoint's threshold."""
    free = [mark["value"] for mark in run["thresholds"] if mark["id"] == "free"]
    if not free or run["images"] is None:
        return Cell(MISSING)
    labels, planted = (np.array(images[run["images"]][key]) for key in ("label", "planted"))
    called = np.array(run["scores"])[(labels == label) & (planted == 0)] >= free[0]
    if not len(called):
        return Cell(MISSING)
    wrong = (called != label).sum()
    return Cell(f"{wrong} of {len(called)}", float(wrong / len(called)))
