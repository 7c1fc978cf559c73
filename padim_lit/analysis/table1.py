"""Table 1: a projection against selection, category by category, beside what others published."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from padim_lit.analysis.bootstrap import Difference, paired_difference
from padim_lit.analysis.sweep_results import RESAMPLED, SweepFolder, read_sweeps
from padim_lit.metrics import METRICS
from padim_lit.system.atomic import write_csv
from padim_lit.system.console import MISSING, print_line, print_table

BASE = "subset"
MEAN = "mean"


@dataclass(frozen=True)
class Pair:
    """One metric of `BASE` (row 0) and of another projection (row 1) on the same S seeds.

    Attributes:
        seeds: the S seeds.
        points: (2, S).
        resamples: (2, S, R), or None where none were kept.
    """

    seeds: tuple[int, ...]
    points: np.ndarray
    resamples: np.ndarray | None

    @property
    def mean(self) -> np.ndarray:
        return self.points.mean(axis=1)

    @property
    def sd(self) -> np.ndarray:
        """Standard deviation over seeds (n − 1), (2,); NaN for one seed."""
        if len(self.seeds) < 2:
            return np.full(2, np.nan)
        return self.points.std(axis=1, ddof=1)

    def difference(self) -> Difference:
        """Of the other projection over `BASE`."""
        base, other = (None, None) if self.resamples is None else self.resamples
        return paired_difference(self.points[1], self.points[0], other, base)


@dataclass(frozen=True)
class Row:
    """One line of the table: `proj` against `BASE` at D = `dim`.

    Attributes:
        category: MVTec's name, or `MEAN` over the categories measured.
        categories: how many went in.
        pairs: by metric, "test/image_auroc" and "test/pixel_auroc".
        padim: the paper's AUROC by metric, where it has one for this backbone at this D.
        report: the report's (selection, JL) by metric.
    """

    category: str
    backbone: str
    proj: str
    dim: int
    categories: int
    pairs: dict[str, Pair]
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
                if proj != BASE and _shared_seeds(sweep, proj, dim):
                    group = groups.setdefault((sweep.backbone, proj, dim), {})
                    group[sweep.data.rpartition("/")[2]] = sweep
    rows = []
    for (_, proj, dim), measured in groups.items():
        names = sorted(measured, key=_order)
        found = [_row(measured[name], name, proj, dim) for name in names]
        rows += found
        if len(found) > 1 and (mean := _mean_row(found)):
            rows.append(mean)
    return rows


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


def _shared_seeds(sweep: SweepFolder, proj: str, dim: int) -> list[int]:
    return sorted(set(sweep.seeds_of(BASE, dim)) & set(sweep.seeds_of(proj, dim)))


def _order(category: str) -> tuple[int, str]:
    known = category in CATEGORIES
    return (CATEGORIES.index(category) if known else len(CATEGORIES), category)


def _row(sweep: SweepFolder, category: str, proj: str, dim: int) -> Row:
    seeds = _shared_seeds(sweep, proj, dim)
    pairs = {}
    for metric in RESAMPLED:
        points = np.stack([sweep.points(p, dim, metric, seeds) for p in (BASE, proj)])
        kept = [sweep.resamples(p, dim, metric, seeds) for p in (BASE, proj)]
        resamples = None if any(k is None for k in kept) else np.stack(kept)
        pairs[metric] = Pair(tuple(seeds), points, resamples)
    padim = None
    if PADIM_DIM.get(sweep.backbone) == dim:
        padim = PADIM_PIXEL[sweep.backbone].get(category)
    published = {"test/image_auroc": None, "test/pixel_auroc": padim}
    return Row(category, sweep.backbone, proj, dim, 1, pairs, published, dict.fromkeys(RESAMPLED))


def _mean_row(rows: Sequence[Row]) -> Row | None:
    """The mean over categories of points and of resamples: seeds pair across categories too."""
    first = rows[0]
    pairs = {}
    for metric in RESAMPLED:
        parts = [row.pairs[metric] for row in rows]
        seeds = [s for s in parts[0].seeds if all(s in part.seeds for part in parts)]
        if not seeds:
            return None
        chosen = [[part.seeds.index(s) for s in seeds] for part in parts]
        points = [part.points[:, at] for part, at in zip(parts, chosen, strict=True)]
        resamples = None
        if len({None if p.resamples is None else p.resamples.shape[2] for p in parts}) == 1:
            # One after the other: fifteen categories' resamples are large.
            for part, at in zip(parts, chosen, strict=True):
                if part.resamples is not None:
                    share = part.resamples[:, at] / len(parts)
                    resamples = share if resamples is None else resamples + share
        pairs[metric] = Pair(tuple(seeds), np.mean(points, axis=0), resamples)
    padim, report = dict.fromkeys(RESAMPLED), dict.fromkeys(RESAMPLED)
    if PADIM_DIM.get(first.backbone) == first.dim:
        # Published means are of all categories; of fewer, the mean of just those is comparable.
        if {row.category for row in rows} == set(CATEGORIES):
            padim["test/image_auroc"] = PADIM_IMAGE_MEAN.get(first.backbone)
            padim["test/pixel_auroc"] = PADIM_PIXEL_MEAN.get(first.backbone)
            report["test/pixel_auroc"] = REPORT_MEAN.get(first.backbone)
        elif all(row.padim["test/pixel_auroc"] is not None for row in rows):
            padim["test/pixel_auroc"] = float(np.mean([r.padim["test/pixel_auroc"] for r in rows]))
    return Row(MEAN, first.backbone, first.proj, first.dim, len(rows), pairs, padim, report)


def _line(row: Row) -> dict[str, Any]:
    line: dict[str, Any] = {
        "category": row.category,
        "backbone": row.backbone,
        "proj": row.proj,
        "dim": row.dim,
        "categories": row.categories,
        "seeds": len(row.pairs["test/image_auroc"].seeds),
    }
    for metric, pair in row.pairs.items():
        found = pair.difference()
        report = row.report[metric] or (None, None)
        numbers = (*np.stack([pair.mean, pair.sd], axis=1).flatten().tolist(), found.mean)
        values = (
            *(None if np.isnan(x) else x for x in numbers),
            *(found.low, found.high, _sign(found)),
            # Without a measured metric there is nothing to win.
            None if np.isnan(found.mean) else found.wins,
            *(row.padim[metric], *report),
        )
        names = [f"{_short(metric)}/{name}" for name in _COLUMNS]
        line |= dict(zip(names, values, strict=True))
    return line


def _cells(row: Row, metric: str) -> list[str]:
    pair, report = row.pairs[metric], row.report[metric]
    found = pair.difference()
    name = row.category if row.category != MEAN else f"{MEAN} of {row.categories}"
    return [
        *(name, row.backbone, row.proj, str(row.dim), str(len(pair.seeds))),
        *(_spread(m, s) for m, s in zip(pair.mean, pair.sd, strict=True)),
        MISSING if np.isnan(found.mean) else f"{100 * found.mean:+.2f}",
        MISSING if found.low is None else f"{100 * found.low:+.2f} to {100 * found.high:+.2f}",
        _sign(found) or MISSING,
        MISSING if row.padim[metric] is None else f"{100 * row.padim[metric]:.1f}",
        MISSING if report is None else f"{100 * report[0]:.1f} → {100 * report[1]:.1f}",
    ]


def _spread(mean: float, sd: float) -> str:
    if np.isnan(mean):
        return MISSING
    return f"{100 * mean:.2f}" + ("" if np.isnan(sd) else f" ±{100 * sd:.2f}")


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
