"""The table of runs: what each is, how good and at what cost, and which notes hold for it."""

from collections.abc import Mapping, Sequence
from typing import Any

from padim_lit.metric_names import METRICS
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
        [_row(run, notes) for run in content["runs"]],
    )


def _row(run: Mapping[str, Any], notes: Sequence[str]) -> dict[str, Cell]:
    row = {"run": Cell(run["name"])}
    row |= {key: Cell(run[key]) for key in ("data", "backbone", "proj")}
    row |= {key: Cell(str(run[key]), run[key]) for key in ("dim", "seed")}
    for metric in SHOWN:
        value = run["metrics"][metric]
        planted = " †" * (value is not None and run["planted_pixels"] and "pixel" in metric)
        row[METRICS[f"test/{metric}"]] = Cell(share(value, 4) + planted, value)
    row |= {name: _wrong(*counts) for name, counts in run["wrong"].items()}
    seconds = run["seconds"] and 1000 * run["seconds"]
    row["state"] = Cell(size(run["state_bytes"]), run["state_bytes"])
    row["ms/image"] = Cell(brief(seconds), seconds)
    row["notes"] = Cell(", ".join(str(i) for i, n in enumerate(notes, 1) if n in run["notes"]))
    return row


def _wrong(wrong: int | None, images: int | None) -> Cell:
    """How many images are on the wrong side of the checkpoint's threshold."""
    if wrong is None or not images:
        return Cell(MISSING)
    return Cell(f"{wrong} of {images}", wrong / images)
