"""The report's tables: what stands in each cell, and what it sorts by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from padim_lit.analysis.published import SOURCES
from padim_lit.analysis.separation import MEASURED
from padim_lit.analysis.sweep_results import planted
from padim_lit.analysis.table1 import BASE
from padim_lit.metric_names import METRICS
from padim_lit.report.figures import several
from padim_lit.report.text import brief, known, share, size, spread
from padim_lit.system.console import MISSING, count

#: Titles of those columns of evidence whose keys are no words.
TITLES = {"sweep": "data", "dim": "D", "q_over_k2": "q/k²"}


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and the number that its column sorts by; None comes last."""

    text: str
    value: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells by their column's name; all have the same columns.

    The last `means` rows stay last, however the others are sorted.
    """

    caption: str
    rows: Sequence[Mapping[str, Cell]]
    means: int = 0

    @property
    def words(self) -> set[str]:
        """Columns without a number: they are aligned to the left and sort as texts."""
        shown = [(name, cell) for row in self.rows for name, cell in row.items()]
        said = {name for name, cell in shown if cell.text != MISSING}
        return said - {name for name, cell in shown if cell.value is not None}


def fact(found: Any, text: Callable[[float], str] = brief) -> Cell:
    """Write a number with `text`, and its interval if it has one; show anything else as it is."""
    if not known(value := _value(found)):
        said = MISSING if value is None else str(value)
        return Cell(METRICS.get(said, said))
    if value is found or not (known(found["low"]) and known(found["high"])):
        return Cell(text(value), value)
    return Cell(f"{text(value)} [{text(found['low'])}, {text(found['high'])}]", value)


def answer(sweeps: Sequence[Mapping[str, Any]]) -> Table:
    """Make the table of each data set's best method: how good it is, and what it costs."""
    rows = []
    for sweep in sweeps:
        measured = [c for c in sweep["configurations"] if known(c["mean"]["image_auroc"])]
        if not measured:
            continue
        best = max(measured, key=lambda c: c["mean"]["image_auroc"])
        mark = " †" if planted(sweep["constants"], "pixel_auroc") else ""
        rows.append(
            {
                "data": Cell(sweep["label"]),
                "method": Cell(f"{best['proj']}, D = {best['dim']:,}"),
                "image AUROC": _mean(best, "image_auroc"),
                "pixel AUROC": _mean(best, "pixel_auroc", mark),
                "defects missed, with false alarms": _missed(best["missed"]),
                "model's state": fact(best["mean"]["state_bytes"], size),
                "scoring, ms/image": fact(best["mean"]["score/ms_per_image"]),
                "with backbone, ms/image": fact(best["mean"]["total_ms"]),
            }
        )
    return Table("The best method of each data set", rows)


def table_one(content: Mapping[str, Any], metric: str) -> Table | None:
    """Make Table 1: means and spreads by data set, backbone and D, and differences."""
    key, base = content["versus"]
    rows = [
        r for r in content["table"] if any(known(c["mean"][metric]) for c in r["cells"].values())
    ]
    if not rows:
        return None
    projs = [p for p in content["projs"] if any(p in r["cells"] for r in rows)]
    # What is compared stands beside its difference.
    projs.sort(key=lambda proj: (proj != base, proj != "jl"))
    differing = {p for r in rows for p, c in r["cells"].items() if c["difference"]}
    lines = []
    for row in rows:
        cells = row["cells"]
        means = {proj: c["mean"][metric] for proj, c in cells.items() if known(c["mean"][metric])}
        top = max(means.values()) if len(cells) > 1 else None
        seeds = sorted({len(c["seeds"]) for c in cells.values()})
        mark = " (planted)" if planted(row["constants"], metric) else ""
        line = {"data": Cell(row["title"] + mark)}
        line |= {"D": fact(row["dim"]), "seeds": Cell("–".join(map(str, seeds)), seeds[0])}
        for proj in projs:
            line[proj] = _mean(cells.get(proj), metric, best=means.get(proj, "") == top)
            if proj in differing:
                other = base if key == "proj" else f"{proj}, {key}={base}"
                line[f"{proj} − {other}"] = _difference(cells.get(proj), metric)
        lines.append(line)
    caption = METRICS[f"test/{metric}"]
    return Table(f"Table 1: {caption}" if content["reproduction"] else caption, lines, _means(rows))


def beside_published(content: Mapping[str, Any], metric: str) -> Table | None:
    """Make the table of those rows of Table 1 for which others published an AUROC, with theirs."""
    key = f"test/{metric}"
    rows = [r for r in content["table"] if any(key in r[s] for s in SOURCES)]
    sources = [s for s in SOURCES if any(key in r[s] for r in rows)]
    lines = []
    for row in rows:
        line = {"data": Cell(row["title"]), "D": fact(row["dim"])}
        for proj in (BASE, "jl"):
            line[proj] = _mean(row["cells"].get(proj), metric)
        if content["versus"] == ("proj", BASE):
            line[f"jl − {BASE}"] = _difference(row["cells"].get("jl"), metric)
        for source in sources:
            name = SOURCES[source]
            if source == "report":
                name += f", {BASE} → jl"
            line[name] = _published(row[source].get(key))
        lines.append(line)
    caption = f"{METRICS[key]} beside what others published"
    return Table(caption, lines, _means(rows)) if rows else None


def compared(content: Mapping[str, Any]) -> bool:
    """Whether a difference has an interval."""
    every = [c["difference"].values() for row in content["table"] for c in row["cells"].values()]
    return any(known(found["low"]) for one in every for found in one)


def fits(sweeps: Sequence[Mapping[str, Any]], metric: str) -> Table | None:
    """Make the table of eq. 15's fits to jl's means over seeds of every data set."""
    rows = []
    for sweep in [s for s in sweeps if metric in s["fits"]]:
        fit = sweep["fits"][metric]
        limit = Cell("not determined")
        if ends := fit["limit_interval"]:
            limit = fact({"value": fit["limit"], "low": ends[0], "high": ends[1]})
        row = {"data": Cell(sweep["label"]), "points": fact(fit["points"]), "p": fact(fit["p"])}
        rows.append(row | {"q/k²": limit, "RMSE": fact(fit["rmse"]), "R²": fact(fit["r_squared"])})
    caption = f"Least-squares fits of eq. 15 to jl's means, {METRICS[f'test/{metric}']}"
    return Table(caption, rows) if rows else None


def separations(found: Sequence[Mapping[str, Any]]) -> Table | None:
    """Make the table of p, k and ε of the report's eq. 11 to 13, measured on image scores."""
    texts = dict.fromkeys(("scale", "epsilon", "q"), brief)
    rows = [
        {
            "data": Cell(row["sweep"]),
            "projection": Cell(row["proj"]),
            "D": fact(row["dim"]),
            "AUROC before": fact(row["before"], share),
            "k, quartiles": Cell(", ".join(map(share, row["k"]))),
            **{name: fact(row[k], texts.get(k, share)) for k, name in MEASURED.items()},
        }
        for row in found
    ]
    return Table("p, k and ε, measured", rows) if rows else None


def means(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the means behind a verdict in one line."""
    signed = partial(share, sign=True)
    return "Mean: " + "; ".join(f"{r['part']} {fact(r['difference'], signed).text}" for r in rows)


def evidence(rows: Sequence[Mapping[str, Any]], caption: str) -> Table:
    """Make a table with a column for each key of any comparison; intervals stand beside values."""
    names = list(dict.fromkeys(k for row in rows for k in row))
    names = [k for k in names if any(_value(row.get(k)) not in (None, "") for row in rows)]
    if "metric" in names and "part" in names:
        names.remove("part")
    titles = {k: TITLES.get(k, k.replace("_", " ")) for k in names}
    lines = [{title: fact(row.get(k)) for k, title in titles.items()} for row in rows]
    return Table(f"{caption}: {count(len(rows), 'comparison')}", lines)


def numbers(sweeps: Sequence[Mapping[str, Any]]) -> Table:
    """Make the table of every configuration: all metrics, and what it costs."""
    every = [(s["label"], c) for s in sweeps for c in s["configurations"]]
    names = {key.removeprefix("test/"): name for key, name in METRICS.items()}
    names = {m: name for m, name in names.items() if any(known(c["mean"][m]) for _, c in every)}
    rows = [
        {
            "data": Cell(label),
            "projection": Cell(c["proj"]),
            "D": fact(c["dim"]),
            "seeds": fact(len(c["seeds"])),
            **{name: _mean(c, m, digits=4) for m, name in names.items()},
            "state": fact(c["mean"]["state_bytes"], size),
            "scoring, ms/image": fact(c["mean"]["score/ms_per_image"]),
            "backbone, ms/image": fact(c["mean"]["backbone/ms_per_image"]),
        }
        for label, c in every
    ]
    over = "mean ± standard deviation over seeds" if several(sweeps) else "one seed"
    return Table(f"Every configuration: {over}", rows)


def settings(constants: Mapping[str, Any]) -> Table:
    rows = [{"key": Cell(str(k)), "value": Cell(str(v))} for k, v in constants.items()]
    return Table("Settings and versions", rows)


def _means(rows: Sequence[Mapping[str, Any]]) -> int:
    """Count the rows of Table 1 that are means over others; they are the last ones."""
    return sum(row["mean"] for row in rows)


def _mean(
    c: Mapping[str, Any] | None, metric: str, mark: str = "", digits: int = 3, best: bool = False
) -> Cell:
    """Write a configuration's mean and spread; MISSING where it was not measured."""
    if c is None:
        return Cell(MISSING)
    mean = c["mean"][metric]
    text = spread(mean, c["sd"][metric], digits)
    return Cell(text + mark if known(mean) else text, mean, best)


def _missed(found: Mapping[str, Any] | None) -> Cell:
    if not found:
        return Cell(MISSING)
    misses, defective, alarms, good = (
        brief(found[key]) for key in ("misses", "defective", "alarms", "good")
    )
    text = f"{misses} of {defective}, {alarms} of {good}"
    if found["own"]:
        text += " ‡"
    return Cell(text, found["misses"] / found["defective"])


def _difference(c: Mapping[str, Any] | None, metric: str) -> Cell:
    found = c and c["difference"].get(metric)
    cell = fact(found, partial(share, sign=True))
    open_ = found and known(found["low"]) and found["low"] <= 0 <= found["high"]
    return Cell(f"{cell.text} open", cell.value) if open_ else cell


def _published(value: Any) -> Cell:
    if isinstance(value, list | tuple):  # selection → JL
        return Cell(" → ".join(map(share, value)), value[1])
    return fact(value, share)


def _value(fact: Any) -> Any:
    """Return the number that an interval is around; anything else as it is."""
    return fact["value"] if isinstance(fact, Mapping) else fact
