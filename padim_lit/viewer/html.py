"""Make the page from its content: the table of runs, the curves of groups of runs, and the rest."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from statistics import fmean, median, stdev
from typing import Any

from padim_lit.analysis.result_files import natural
from padim_lit.metric_names import METRICS
from padim_lit.report.figures import DRAWN, curves, files
from padim_lit.report.page import assemble, inline, to_script
from padim_lit.report.tables import Cell, Table, fact
from padim_lit.report.text import brief, share, size
from padim_lit.system.console import MISSING, count

SCRIPTS = ("elements.js", "maps.js", "threshold.js", "scored.js", "viewer.js")
FILTERS = ("data", "backbone", "proj", "dim", "seed")
SHOWN_METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_aupro")
#: Inches of one figure.
FIGURE_SIZE = {"width": 5.5, "height": 3.3}


def render(content: Mapping[str, Any]) -> str:
    """Return the page; its texts reach it as text, never as markup. `content` has no NaN."""
    runs = content["runs"]
    users = Counter(note for run in runs for note in dict.fromkeys(run["notes"]))
    drawn = draw_curves(runs, content["groups"])
    return assemble(
        "viewer",
        *SCRIPTS,
        **content,
        content=to_script(content),
        count=count,
        users=users,
        filters={key: sorted({run[key] for run in runs}, key=natural) for key in FILTERS},
        table_of_runs=run_table(content, list(users)),
        table_of_folders=folder_table(content["scored"]),
        curves=drawn,
        metrics={c["metric"]: METRICS[f"test/{c['metric']}"] for c in drawn},
    )


def run_table(content: Mapping[str, Any], notes: Sequence[str]) -> Table:
    """Make a table with a row for each run, in the order of `content`; `notes` count from 1."""
    caption = (
        "Test metrics; false alarms and missed images at the checkpoint's threshold, chosen "
        "without test images unless by hand"
    )
    if any(run["planted_pixels"] for run in content["runs"]):
        caption += "; †: planted defects"
    return Table(caption, [_row(run, notes) for run in content["runs"]])


def _row(run: Mapping[str, Any], notes: Sequence[str]) -> dict[str, Cell]:
    row = {"run": Cell(run["name"])}
    row |= {key: Cell(run[key]) for key in ("data", "backbone", "proj")}
    row |= {key: Cell(str(run[key]), run[key]) for key in ("dim", "seed")}
    for metric in SHOWN_METRICS:
        value = run["metrics"][metric]
        text = share(value, 4)
        if value is not None and run["planted_pixels"] and "pixel" in metric:
            text += " †"
        row[METRICS[f"test/{metric}"]] = Cell(text, value)
    row |= {name: _wrong(*counts) for name, counts in run["wrong"].items()}
    seconds = run["seconds"] and 1000 * run["seconds"]
    row |= {"state": fact(run["state_bytes"], size), "ms/image": fact(seconds)}
    row["notes"] = Cell(", ".join(str(i) for i, n in enumerate(notes, 1) if n in run["notes"]))
    return row


def _wrong(wrong: int | None, images: int | None) -> Cell:
    """Write how many images are on the wrong side of the checkpoint's threshold."""
    if wrong is None or not images:
        return Cell(MISSING)
    return Cell(f"{wrong} of {images}", wrong / images)


def folder_table(scored: Sequence[Mapping[str, Any]]) -> Table:
    """Make a table with a row for each folder of scored images, in the order of `scored`."""
    caption = "Each at the threshold that it was scored with; times of the image files, UTC"
    return Table(caption, [_folder(one) for one in scored])


def _folder(one: Mapping[str, Any]) -> dict[str, Cell]:
    images, mark = len(one["scores"]), next(iter(one["thresholds"]), None)
    called = None if mark is None else sum(score >= mark["value"] for score in one["scores"])
    rate = called / images if called is not None and images else None
    middle = median(known) if (known := [p for p in one["p"] if p is not None]) else None
    return {
        "folder": Cell(one["name"]),
        "first image": _time(min(one["times"], default=None)),
        "last image": _time(max(one["times"], default=None)),
        "images": fact(images, str),
        "called defective": fact(called, str),
        "share": fact(rate, lambda part: f"{100 * part:.1f} %"),
        "unreadable": fact(one["unreadable"], str),
        "median p-value": fact(middle, lambda p: "≤ " * (p <= one["least_p"]) + brief(p)),
        "model": Cell(one["model"] or MISSING),
    }


def _time(milliseconds: int | None) -> Cell:
    if milliseconds is None:
        return Cell(MISSING)
    at = datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
    return Cell(f"{at:%Y-%m-%d %H:%M}")


def draw_curves(runs: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return group, label, metric and SVG of each group of runs, by number, with two D or more."""
    drawn = []
    for metric in DRAWN:
        for group, label in enumerate(labels):
            mine = [r for r in runs if r["group"] == group and r["metrics"][metric] is not None]
            sweep = as_sweep(mine, metric)
            name = f"{group}-{metric}"
            svg = files(name, lambda s=sweep, m=metric: curves([s], m, **FIGURE_SIZE), ("svg",))
            if svg:
                what = f"{METRICS[f'test/{metric}']} against D: {label}"
                found = {"group": group, "label": label, "metric": metric}
                drawn.append(found | {"drawn": inline(svg[f"{name}.svg"], what)})
    return drawn


def as_sweep(runs: Iterable[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """Return runs of the same settings as `figures.curves` reads a sweep: their means and sds.

    Of a seed that ran more than once on a split the last counts: the same again is no spread.
    """
    runs, configurations = list(runs), []
    for proj, dim in sorted({(run["proj"], run["dim"]) for run in runs}):
        alike = [run for run in runs if (run["proj"], run["dim"]) == (proj, dim)]
        found = {(run["seed"], run["split_seed"]): run["metrics"][metric] for run in alike}
        mine = list(found.values())
        sd = stdev(mine) if len(mine) > 1 else None
        both = {"mean": {metric: fmean(mine)}, "sd": {metric: sd}}
        configurations.append({"proj": proj, "dim": dim, **both})
    planted = "planted defects" if any(run["planted_pixels"] for run in runs) else ""
    constants = {"pixel_truth": planted}
    return {"label": "", "configurations": configurations, "fits": {}, "constants": constants}
