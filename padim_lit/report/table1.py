"""What experiment=table1 leaves: the report's Table 1 on the terminal, and table1.csv."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from padim_lit.analysis.bootstrap import Estimate
from padim_lit.analysis.published import SOURCES
from padim_lit.analysis.sweep_results import read_sweeps
from padim_lit.analysis.table1 import BASE
from padim_lit.report.content import compared
from padim_lit.report.figures import DRAWN
from padim_lit.report.tables import beside_published, table_one
from padim_lit.system.atomic import write_csv
from padim_lit.system.console import print_line, print_table

NOTES = (
    "[...]: 95 % interval of the difference (test images and seeds resampled; two seeds make it "
    "wide, for they say little of how draws vary); open: 0 is in it.",
    "PaDiM paper: Defard et al. 2020, random selection at the same D; ten of its ResNet18 numbers "
    "as the JL report repeats them.",
    "anomalib: its README at commit b7233686, random selection at the same D. On wide_resnet50 "
    "that selection averages to the pixel AUROC of the report's JL.",
)


def table1(folder: Path, jobs: Sequence[Path]) -> Path:
    """Print Table 1 of the ablations in the folders `jobs`, and write ``table1.csv``; its path.

    In the file are AUROCs from 0 to 1, empty where nothing is known. ``sign`` is 1 or -1 where the
    95 % interval of the difference lies on one side of 0, 0 where it holds 0, and empty without an
    interval.

    Raises:
        InputError: a file cannot be read or written.
    """
    content = compared(read_sweeps(jobs) if jobs else []) | {"reproduction": True}  # by its name
    _print(content)
    lines = [
        _line(row, row["cells"][BASE], cell)
        for row in content["table"]
        for cell in row["cells"].values()
        if cell["difference"]
    ]
    return write_csv(folder / "table1.csv", list(lines[0]) if lines else [], lines)


def _line(
    row: Mapping[str, Any], base: Mapping[str, Any], cell: Mapping[str, Any]
) -> dict[str, Any]:
    line = {"title": row["title"], "data": row["data"]}
    line |= {"backbone": row["constants"].get("backbone"), "proj": cell["proj"]}
    line |= {"dim": cell["dim"], "seeds": len({*base["seeds"]} & {*cell["seeds"]})}
    for metric in DRAWN:
        found = Estimate(**cell["difference"][metric])
        padim, report, anomalib = (row[source].get(f"test/{metric}") for source in SOURCES)
        known = {"subset": base["mean"][metric], "subset_sd": base["sd"][metric]}
        known |= {"proj": cell["mean"][metric], "proj_sd": cell["sd"][metric]}
        known |= {"difference": found.value, "low": found.low, "high": found.high}
        # A number: a lone + or - is what spreadsheets take for a formula.
        known |= {"sign": found.side(), "padim_paper": padim}
        known["report_subset"], known["report_jl"] = report or (None, None)
        known["anomalib"] = anomalib
        line |= {f"{metric}/{name}": value for name, value in known.items()}
    return line


def _print(content: Mapping[str, Any]) -> None:
    """Image and pixel AUROC of every data set and D, and what others published of them."""
    shown = [table for metric in DRAWN if (table := table_one(content, metric))]
    beside = [table for metric in DRAWN if (table := beside_published(content, metric))]
    for table in [*shown, *beside]:
        # Beside what others published it would be too much for a terminal of 100 columns.
        names = [name for name in table.rows[0] if " − " not in name or table in shown]
        printed = Table(
            title=table.caption, title_justify="left", box=box.SIMPLE, collapse_padding=True,
            pad_edge=False, show_edge=False,
        )  # fmt: skip
        printed.add_column(names[0], overflow="fold")
        for name in names[1:]:
            printed.add_column(name.replace(", ", "\n"), justify="right", no_wrap=True)
        for row in table.rows:
            printed.add_row(*(row[name].text for name in names))
        print()
        print_table(printed)
    if not shown:
        print_line("Nothing to compare: no job measured an AUROC.")
    print()
    for note in NOTES if beside else NOTES[:1]:
        print_line(note)
