"""Table 1: a projection against selection, category by category, beside what others published."""

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from padim_lit.analysis.bootstrap import Difference
from padim_lit.analysis.sweep_results import (
    RESAMPLED,
    SweepFolder,
    mean_and_sd,
    mean_of,
    read_sweeps,
)
from padim_lit.metrics import METRICS
from padim_lit.system.atomic import write_csv
from padim_lit.system.console import MISSING, print_line, print_table

BASE = "subset"
MEAN = "mean"


@dataclass(frozen=True)
class Row:
    """One line of the table: `proj` against `BASE` at D = `dim`, over the seeds that both have.

    Attributes:
        category: MVTec's name, or `MEAN` over the categories measured.
        categories: how many went in.
        seeds: those shared.
        points: by metric, "test/image_auroc" and "test/pixel_auroc", of `BASE` and `proj`, (2,S).
        differences: by metric, of `proj` over `BASE`.
        padim: the paper's AUROC by metric, where it has one for this backbone at this D.
        report: the report's (selection, JL) by metric.
    """

    category: str
    backbone: str
    proj: str
    dim: int
    categories: int
    seeds: list[int]
    points: dict[str, np.ndarray]
    differences: dict[str, Difference]
    padim: dict[str, float | None]
    report: dict[str, tuple[float, float] | None]


def compare(folders: Iterable[str | os.PathLike]) -> list[Row]:
    """Rows by backbone, projection and D: MVTec's categories in the paper's order, then their mean.

    Raises:
        InputError: a folder's files cannot be read.
    """
    folders = list(folders)
    sweeps = read_sweeps(folders) if folders else []
    groups: dict[tuple[str, str, int], dict[str, SweepFolder]] = {}
    for sweep in sweeps:
        for proj in sweep.projs:
            for dim in sweep.dims_of(proj):
                if proj != BASE and sweep.shared_seeds((BASE, dim), (proj, dim)):
                    group = groups.setdefault((sweep.backbone, proj, dim), {})
                    group[category(sweep)] = sweep
    rows = []
    for (_, proj, dim), measured in groups.items():
        names = sorted(measured, key=_order)
        rows += [_row(measured[name], [name], name, proj, dim) for name in names]
        mean = mean_of([measured[name] for name in names])
        if len(names) > 1 and mean.shared_seeds((BASE, dim), (proj, dim)):
            rows.append(_row(mean, names, MEAN, proj, dim))
    return rows


def category(sweep: SweepFolder) -> str:
    """The last part of the data's name: "screw" of "mvtec/screw"."""
    return sweep.data.rpartition("/")[2]


def published(
    backbone: str, dim: int, categories: Collection[str]
) -> tuple[dict[str, float | None], dict[str, tuple[float, float] | None]]:
    """Published numbers by metric: the paper's AUROC, and the report's (selection, JL).

    Of all 15 categories it is the published mean; of fewer, the mean of just those.
    """
    padim, report = dict.fromkeys(RESAMPLED), dict.fromkeys(RESAMPLED)
    if PADIM_DIM.get(backbone) == dim:
        if set(categories) == set(CATEGORIES):
            padim["test/image_auroc"] = PADIM_IMAGE_MEAN.get(backbone)
            padim["test/pixel_auroc"] = PADIM_PIXEL_MEAN.get(backbone)
            report["test/pixel_auroc"] = REPORT_MEAN.get(backbone)
        elif all(name in PADIM_PIXEL[backbone] for name in categories):
            known = [PADIM_PIXEL[backbone][name] for name in categories]
            padim["test/pixel_auroc"] = float(np.mean(known))
    return padim, report


def write_table1(folder: str | os.PathLike, rows: Sequence[Row]) -> Path:
    """Write ``table1.csv``: AUROCs from 0 to 1, empty where nothing is known.

    ``sign`` is + or - where the 95 % interval of the difference lies on one side of 0, 0 where it
    holds 0, and empty without an interval.
    """
    identity = ["category", "backbone", "proj", "dim", "categories", "seeds"]
    lines = [_line(row) for row in rows]
    columns = [*identity, *(f"{_short(m)}/{name}" for m in RESAMPLED for name in _COLUMNS)]
    return write_csv(Path(folder) / "table1.csv", columns, lines)


def print_table1(rows: Sequence[Row], *, console: Console | None = None) -> None:
    """Print a table for image AUROC and one for pixel AUROC, in percent."""
    console = console or Console()
    for metric in RESAMPLED:
        table = Table(
            title=f"{METRICS[metric]} in %: mean ± standard deviation over n seeds",
            title_justify="left",
        )
        for name in ("category", "backbone", "projection"):
            table.add_column(name)
        for name in ("D", "n", BASE, "proj", "difference", "95 % interval", "sign"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("PaDiM\npaper", justify="right", no_wrap=True)
        table.add_column("JL report\nsubset → jl", justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*_cells(row, metric), end_section=row.category == MEAN)
        console.print()
        if rows:
            print_table(table, console)
    if not rows:
        print_line(f"Nothing to compare: no job measured {BASE} and another projection.", console)
    for note in _notes():
        print_line(note, console)


_COLUMNS = (
    *("subset", "subset_sd", "proj", "proj_sd"),
    *("difference", "low", "high", "sign", "wins"),
    *("padim_paper", "report_subset", "report_jl"),
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
    return Row(name, backbone, proj, dim, n, seeds, points, differences, *known)


def _line(row: Row) -> dict[str, Any]:
    keys = ("category", "backbone", "proj", "dim", "categories")
    line = {key: getattr(row, key) for key in keys} | {"seeds": len(row.seeds)}
    for metric, found in row.differences.items():
        report = row.report[metric] or (None, None)
        spreads = np.stack([row.points[metric].mean(axis=1), _sd(row.points[metric])], axis=1)
        values = (
            *(None if np.isnan(x) else x for x in (*spreads.flatten().tolist(), found.mean)),
            *(found.low, found.high, _sign(found)),
            # Without a measured metric there is nothing to win.
            None if np.isnan(found.mean) else found.wins,
            *(row.padim[metric], *report),
        )
        names = [f"{_short(metric)}/{name}" for name in _COLUMNS]
        line |= dict(zip(names, values, strict=True))
    return line


def _cells(row: Row, metric: str) -> list[str]:
    points, found, report = row.points[metric], row.differences[metric], row.report[metric]
    name = row.category if row.category != MEAN else f"{MEAN} of {row.categories}"
    return [
        *(name, row.backbone, row.proj, str(row.dim), str(len(row.seeds))),
        *(mean_and_sd(100 * values, 2) for values in points),
        MISSING if np.isnan(found.mean) else f"{100 * found.mean:+.2f}",
        MISSING if found.low is None else f"{100 * found.low:+.2f} to {100 * found.high:+.2f}",
        _sign(found) or MISSING,
        MISSING if row.padim[metric] is None else f"{100 * row.padim[metric]:.1f}",
        MISSING if report is None else f"{100 * report[0]:.1f} → {100 * report[1]:.1f}",
    ]


def _sd(points: np.ndarray) -> np.ndarray:
    """Standard deviation over seeds (n − 1), (2,); NaN for one seed."""
    return points.std(axis=1, ddof=1) if points.shape[1] > 1 else np.full(2, np.nan)


def _sign(found: Difference) -> str:
    if found.low is None or found.high is None:
        return ""
    return "+" if found.low > 0 else "-" if found.high < 0 else "0"


def _short(metric: str) -> str:
    return metric.removeprefix("test/")


def _notes() -> list[str]:
    means = ", ".join(f"{b} {100 * a:.1f} → {100 * c:.1f}" for b, (a, c) in REPORT_MEAN.items())
    said = " → ".join(f"{100 * x:.1f}" for x in REPORT_TEXT)
    return [
        "sign: + or - where the 95 % interval of the difference (test images and seeds resampled) "
        "lies on one side of 0; 0 where it holds 0.",
        "PaDiM paper: Defard et al. 2020, random selection at the same D; where a number is "
        "missing, it was not to be had.",
        f"JL report: its Table 1 averages to {means}; its text and Figure 3 say {said}. Its "
        "numbers per category are not available.",
    ]


#: The 15 categories, textures first.
TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
CATEGORIES = (
    *TEXTURES,
    *("bottle", "cable", "capsule", "hazelnut", "metal_nut"),
    *("pill", "screw", "toothbrush", "transistor", "zipper"),
)
#: D that the paper uses with a backbone; its numbers hold for that alone.
PADIM_DIM = {"wide_resnet50": 550, "resnet18": 100}
#: Pixel AUROC by backbone and category.
PADIM_PIXEL: dict[str, dict[str, float]] = {
    "wide_resnet50": {
        "carpet": 0.991,
        "grid": 0.973,
        "leather": 0.992,
        "tile": 0.941,
        "wood": 0.949,
        "bottle": 0.983,
        "cable": 0.967,
        "capsule": 0.985,
        "hazelnut": 0.982,
        "metal_nut": 0.972,
        "pill": 0.957,
        "screw": 0.985,
        "toothbrush": 0.988,
        "transistor": 0.975,
        "zipper": 0.985,
    },
    "resnet18": {
        "grid": 0.949,
        "bottle": 0.981,
        "metal_nut": 0.967,
        "screw": 0.974,
        "zipper": 0.982,
    },
}
#: Pixel AUROC, mean of all categories.
PADIM_PIXEL_MEAN = {"wide_resnet50": 0.975, "resnet18": 0.967}
#: Image AUROC, mean of all categories.
PADIM_IMAGE_MEAN = {"wide_resnet50": 0.953}
#: Pixel AUROC of selection and of the JL projection: what the report's Table 1 averages to.
REPORT_MEAN = {"wide_resnet50": (0.975, 0.979), "resnet18": (0.967, 0.969)}
#: What the report's text and its Figure 3 say instead.
REPORT_TEXT = (0.967, 0.973)
