"""The curves of groups of runs: a metric against D, drawn as the report draws a sweep's."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from padim_lit.metric_names import METRICS
from padim_lit.report.figures import DRAWN, curves, files
from padim_lit.report.page import inline

#: Inches of one figure.
SIZE = {"width": 5.5, "height": 3.3}


def draw_curves(runs: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Group, label, metric and SVG of every group of runs (by its number) with two D or more."""
    drawn = []
    for metric in DRAWN:
        for group, label in enumerate(labels):
            mine = [r for r in runs if r["group"] == group and r["metrics"][metric] is not None]
            sweep = as_sweep(mine, metric)
            name = f"{group}-{metric}"
            svg = files(name, lambda s=sweep, m=metric: curves([s], m, **SIZE), ("svg",))
            if svg:
                what = f"{METRICS[f'test/{metric}']} against D: {label}"
                found = {"group": group, "label": label, "metric": metric}
                drawn.append(found | {"drawn": inline(svg[f"{name}.svg"], what)})
    return drawn


def as_sweep(runs: Iterable[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """Runs on the same data as `figures.curves` reads a sweep: mean and sd over their seeds.

    Of a seed that ran more than once the last counts.
    """
    runs, configurations = list(runs), []
    for proj, dim in sorted({(run["proj"], run["dim"]) for run in runs}):
        alike = [run for run in runs if (run["proj"], run["dim"]) == (proj, dim)]
        mine = list({run["seed"]: run["metrics"][metric] for run in alike}.values())
        sd = stdev(mine) if len(mine) > 1 else None
        both = {"mean": {metric: fmean(mine)}, "sd": {metric: sd}}
        configurations.append({"proj": proj, "dim": dim, **both})
    planted = "planted defects" if any(run["planted_pixels"] for run in runs) else ""
    constants = {"pixel_truth": planted}
    return {"label": "", "configurations": configurations, "fits": [], "constants": constants}
