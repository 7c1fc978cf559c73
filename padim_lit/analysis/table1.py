"""Table 1: a projection against selection, category by category, beside what others published."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from padim_lit.analysis.bootstrap import Estimate
from padim_lit.analysis.published import (
    CATEGORIES,
    MEAN,
    SOURCES,
    Known,
    averages,
    contradictions,
    published,
)
from padim_lit.analysis.sweep_results import (
    RESAMPLED,
    SweepFolder,
    mean_and_sd,
    mean_of,
    read_sweeps,
    sd,
)
from padim_lit.errors import InputError
from padim_lit.metric_names import METRICS
from padim_lit.system.atomic import write_csv
from padim_lit.system.console import MISSING, print_line, print_table

BASE = "subset"


@dataclass(frozen=True)
class Row:
    """One line of the table: `proj` against `BASE` at D = `dim`, over the seeds that both have.

    Attributes:
        category: as `category` names it; or of a mean over those measured: "textures", "objects",
            `MEAN`.
        categories: how many went in.
        seeds: those shared.
        points: by metric, "test/image_auroc" and "test/pixel_auroc", of `BASE` and `proj`, (2,S).
        differences: by metric, of `proj` over `BASE`.
        published: what others have for this backbone at this D.
    """

    category: str
    backbone: str
    proj: str
    dim: int
    categories: int
    seeds: list[int]
    points: dict[str, np.ndarray]
    differences: dict[str, Estimate]
    published: Known


def compare(folders: Iterable[str | os.PathLike]) -> list[Row]:
    """Rows by backbone, projection and D: MVTec's categories, textures first, then their means.

    Raises:
        InputError: a folder's files cannot be read, or two sweeps measured the same.
    """
    folders = list(folders)
    sweeps = read_sweeps(folders) if folders else []
    groups: dict[tuple[str, str, int], dict[str, SweepFolder]] = {}
    for sweep in sweeps:
        for proj, dim in sweep.methods:
            if proj != BASE and sweep.shared_seeds((BASE, dim), (proj, dim)):
                group = groups.setdefault((sweep.backbone, proj, dim), {})
                if (other := group.setdefault(category(sweep), sweep)) is not sweep:
                    raise InputError(
                        f"{other.path} and {sweep.path} both measured {proj} at D = {dim} on "
                        f"{sweep.data}, {sweep.backbone}, and Table 1 has one line for it; "
                        "python -m padim_lit.report shows both"
                    )
    rows = []
    for (_, proj, dim), measured in groups.items():
        names = sorted(measured, key=_order)
        rows += [_row(measured[name], [name], name, proj, dim) for name in names]
        for mean, over in averages(names).items():
            source = mean_of([measured[name] for name in over], mean)
            if source.shared_seeds((BASE, dim), (proj, dim)):
                rows.append(_row(source, over, mean, proj, dim))
    return rows


def short(metric: str) -> str:
    """Its name in files and on pages: "image_auroc" of "test/image_auroc"."""
    return metric.removeprefix("test/")


def category(sweep: SweepFolder) -> str:
    """MVTec's name, "screw" of "mvtec/screw"; of other data all, such as "folder/screw"."""
    return sweep.data.removeprefix("mvtec/")


def write_table1(folder: str | os.PathLike, rows: Sequence[Row]) -> Path:
    """Write ``table1.csv``: AUROCs from 0 to 1, empty where nothing is known.

    ``sign`` is 1 or -1 where the 95 % interval of the difference lies on one side of 0, 0 where it
    holds 0, and empty without an interval.
    """
    identity = ["category", "backbone", "proj", "dim", "categories", "seeds"]
    lines = [_line(row) for row in rows]
    columns = [*identity, *(f"{short(m)}/{name}" for m in RESAMPLED for name in _COLUMNS)]
    return write_csv(Path(folder) / "table1.csv", columns, lines)


def print_table1(rows: Sequence[Row]) -> None:
    """Print, in percent, a table for each backbone, projection, D and AUROC; 100 columns wide."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.backbone, row.proj, row.dim), []).append(row)
    for group in groups.values():
        for metric in RESAMPLED:
            print()
            print_table(_table(group, metric))
    if not rows:
        print_line(f"Nothing to compare: no job measured {BASE} and another projection.")
    for note in _notes(any(known for row in rows for known in row.published.values())):
        print_line(note)


def _table(rows: Sequence[Row], metric: str) -> Table:
    """Rows of one backbone, projection and D; sources that published nothing have no column."""
    first = rows[0]
    sources = [s for s in SOURCES if any(metric in row.published[s] for row in rows)]
    table = Table(
        title=f"{METRICS[metric]} in %, {first.backbone}, D = {first.dim}: mean ± standard "
        "deviation over n seeds",
        title_justify="left", box=box.SIMPLE, collapse_padding=True, pad_edge=False,
        show_edge=False,
    )  # fmt: skip
    table.add_column("category", no_wrap=True)
    headers = {"report": f"JL report\n{BASE}→jl"}
    names = ["n", BASE, first.proj, "diff.", "95 %\ninterval", "sign"]
    for name in names + [headers.get(s, SOURCES[s].replace(" ", "\n")) for s in sources]:
        table.add_column(name, justify="right", no_wrap=True)
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        last = row.category in CATEGORIES and after and after.category not in CATEGORIES
        table.add_row(*_cells(row, metric, sources), end_section=bool(last))
    return table


_COLUMNS = (
    *("subset", "subset_sd", "proj", "proj_sd"),
    *("difference", "low", "high", "sign"),
    *("padim_paper", "report_subset", "report_jl", "anomalib"),
)


def _order(category: str) -> tuple[int, str]:
    known = category in CATEGORIES
    return (CATEGORIES.index(category) if known else len(CATEGORIES), category)


def _row(source: SweepFolder, categories: list[str], name: str, proj: str, dim: int) -> Row:
    base, other = (BASE, dim), (proj, dim)
    seeds = source.shared_seeds(base, other)
    points = {m: np.stack([source.points(*x, m, seeds) for x in (base, other)]) for m in RESAMPLED}
    differences = {m: source.difference(other, base, m) for m in RESAMPLED}
    backbone, n = source.backbone, len(categories)
    known = published(backbone, dim, categories)
    return Row(name, backbone, proj, dim, n, seeds, points, differences, known)


def _line(row: Row) -> dict[str, Any]:
    keys = ("category", "backbone", "proj", "dim", "categories")
    line = {key: getattr(row, key) for key in keys} | {"seeds": len(row.seeds)}
    for metric, found in row.differences.items():
        padim, report, anomalib = (row.published[source].get(metric) for source in SOURCES)
        spreads = [float(x) for points in row.points[metric] for x in (points.mean(), sd(points))]
        values = (
            *(None if np.isnan(x) else x for x in (*spreads, found.value)),
            # A number: a lone + or - is what spreadsheets take for a formula.
            *(found.low, found.high, found.side()),
            *(padim, *(report or (None, None)), anomalib),
        )
        names = [f"{short(metric)}/{name}" for name in _COLUMNS]
        line |= dict(zip(names, values, strict=True))
    return line


def _cells(row: Row, metric: str, sources: Iterable[str]) -> list[str]:
    points, found = row.points[metric], row.differences[metric]
    names = {MEAN: f"mean of {row.categories}"} | dict.fromkeys(
        ("textures", "objects"), f"{row.categories} {row.category}"
    )
    return [
        *(names.get(row.category, row.category), str(len(row.seeds))),
        *(mean_and_sd(100 * values, 2) for values in points),
        MISSING if np.isnan(found.value) else f"{100 * found.value:+.2f}",
        MISSING if found.low is None else f"{100 * found.low:+.2f} to {100 * found.high:+.2f}",
        {1: "+", -1: "-", 0: "0", None: MISSING}[found.side()],
        *(_published(row.published[source].get(metric)) for source in sources),
    ]


def _published(value: float | tuple[float, float] | None) -> str:
    values = value if isinstance(value, tuple) else [] if value is None else [value]
    return "→".join(f"{100 * x:.1f}" for x in values) or MISSING


def _notes(beside: bool) -> list[str]:
    """What must be known to read the tables; on the published numbers where some stand there."""
    return [
        "sign: + or - where the 95 % interval of the difference (test images and seeds resampled) "
        "lies on one side of 0; 0 where it holds 0.",
        *[
            "PaDiM paper: Defard et al. 2020, random selection at the same D; ten of its ResNet18 "
            "numbers as the JL report repeats them.",
            "anomalib: its README at commit b7233686, random selection at the same D. On "
            "wide_resnet50 that selection averages to the pixel AUROC of the report's JL.",
            *(f"JL report: {sentence}" for sentence in contradictions()),
        ]
        * beside,
    ]
