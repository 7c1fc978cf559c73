"""What experiment=distortion measured, over seeds: means for its figure, and the printed table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from padim_lit.system.console import print_table

COLUMNS = ("q05", "q25", "q50", "q75", "q95", "spearman")
QUANTITIES = {
    "norm": "‖Πx‖² / ‖x‖²",
    "pair": "‖Π(x−y)‖² / ‖x−y‖²",
    "distance": "projected / full distance",
}


def over_seeds(
    rows: Sequence[Mapping[str, Any]], proj: str, quantity: str
) -> tuple[list[int], dict[str, list[float]]]:
    """Return the rising D and each column's mean over seeds; NaN where no seed has it."""
    mine = [r for r in rows if r["proj"] == proj and r["quantity"] == quantity]
    dims = sorted({r["dim"] for r in mine})
    columns = {}
    for name in COLUMNS:
        known = [[r[name] for r in mine if r["dim"] == d and r.get(name) is not None] for d in dims]
        columns[name] = [float(np.mean(v)) if v else np.nan for v in known]
    return dims, columns


def print_distortion(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print for each projection and D how far lengths and distances are kept."""
    table = Table(
        title="1 is no distortion: median of the patches (5 % to 95 %), means over seeds",
        title_justify="left",
    )
    for name in ("proj", "D", *QUANTITIES.values(), "rank correlation\nof distances"):
        table.add_column(name, justify="left" if name == "proj" else "right")
    for proj in dict.fromkeys(row["proj"] for row in rows):
        found = [over_seeds(rows, proj, quantity) for quantity in QUANTITIES]
        for at, dim in enumerate(found[0][0]):
            cells = [
                "{:.3f} ({:.3f} to {:.3f})".format(*(q[name][at] for name in ("q50", "q05", "q95")))
                for _, q in found
            ]
            table.add_row(proj, str(dim), *cells, f"{found[-1][1]['spearman'][at]:.3f}")
    print_table(table)
