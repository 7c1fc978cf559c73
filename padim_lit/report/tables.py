"""The report's tables: what stands in each cell, and what it sorts by."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from padim_lit.analysis.published import (
    CATEGORIES,
    DIM,
    SOURCES,
    averages,
    published,
)
from padim_lit.analysis.separation import MEASURED
from padim_lit.metrics import METRICS
from padim_lit.report.figures import DRAWN
from padim_lit.report.text import brief, interval, known, number, share, size, spread
from padim_lit.system.console import MISSING

#: Settings that tell sweeps of the same data and backbone apart.
APART = ("grid", "eps", "image_score", "crop_size", "split_seed")
#: Of evidence: titles that are no words.
TITLES = {"sweep": "data", "dim": "D", "q_over_k2": "q/k²"}


@dataclass(frozen=True)
class Cell:
    """What is shown, and what the column sorts by: a number, or None for what comes last.

    `line` is where an interval begins, its mean and where it ends, from −1 to 1.
    """

    text: str
    value: float | None = None
    best: bool = False
    line: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Table:
    """Columns with `words` are aligned to the left and sort as texts.

    `mean` are rows at the end, however the others are sorted.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: frozenset[str] = field(default=frozenset())
    mean: Sequence[Sequence[Cell]] = ()


def best(sweep: Mapping[str, Any], metric: str = "image_auroc") -> list[Mapping[str, Any]]:
    """Each projection at its best D, the best projection first."""
    found: dict[str, Mapping[str, Any]] = {}
    ordered = [c for c in sweep["configurations"] if known(c["mean"][metric])]
    for c in sorted(ordered, key=lambda c: -c["mean"][metric]):
        found.setdefault(c["proj"], c)
    return list(found.values())


def answer(sweeps: Sequence[Mapping[str, Any]], all_projections: bool) -> Table:
    """How good the best method of each data set is and what it costs; or every projection."""
    rows = []
    for sweep in sweeps:
        chosen = best(sweep)
        rows += [
            [
                Cell(sweep["label"]),
                Cell(f"{c['proj']}, D = {c['dim']:,}"),
                Cell(*_mean(c, "image_auroc"), best=all_projections and c is chosen[0]),
                Cell(*_mean(c, "pixel_auroc", planted(sweep["constants"], "pixel_auroc"))),
                _missed(c["missed"]),
                _cost(c, "state_bytes", size),
                _cost(c, "score/ms_per_image", brief),
                _cost(c, "total_ms", brief),
            ]
            for c in (chosen if all_projections else chosen[:1])
        ]
    return Table(
        "Each projection at its best D" if all_projections else "The best method of each data set",
        [
            *("data", "method", *(METRICS[f"test/{m}"] for m in DRAWN)),
            *("defects missed, with false alarms", "model's state"),
            *("scoring, ms/image", "with backbone, ms/image"),
        ],
        rows,
        frozenset({"data", "method"}),
    )


def table_one(content: Mapping[str, Any], metric: str) -> Table | None:
    """Every data set, backbone and D: means and spreads, and the difference of jl to selection."""
    sweeps, base = content["sweeps"], content["base"]
    rows = [
        r for r in content["table"] if any(known(c["mean"]) for c in r["cells"][metric].values())
    ]
    if not rows:
        return None
    projs = [p for p in content["projs"] if any(p in r["cells"][metric] for r in rows)]
    others = [p for p in projs if p != base]
    versus = ("jl" if "jl" in others else others[0]) if base in projs and others else None
    # What is compared stands beside its difference.
    projs = [p for p in (base, versus) if p in projs] + [
        p for p in projs if p not in (base, versus)
    ]
    settings = [key for key in APART if _differs(sweeps, key)]
    backbones = sorted({r["backbone"] for r in rows})
    found = [r["cells"][metric].get(versus, {}).get("difference") for r in rows]
    reach = _reach(found)
    lines: dict[bool, list[list[Cell]]] = {False: [], True: []}
    for row, difference in zip(rows, found, strict=True):
        cells, sweep = row["cells"][metric], row["sweep"]
        constants = {} if sweep is None else sweeps[sweep]["constants"]
        top = max(c["mean"] for c in cells.values() if known(c["mean"]))
        seeds = sorted({c["seeds"] for c in cells.values()})
        line = [Cell(row["data"] + (" (planted)" if planted(constants, metric) else ""))]
        line += [Cell(row["backbone"])] * (len(backbones) > 1)
        line += [Cell(str(constants.get(key, MISSING))) for key in settings]
        line += [Cell(f"{row['dim']:,}", row["dim"]), Cell("–".join(map(str, seeds)), seeds[0])]
        for proj in projs:
            c = cells.get(proj, {"mean": None, "sd": None})
            is_best = len(cells) > 1 and c["mean"] == top
            line.append(Cell(spread(c["mean"], c["sd"]), c["mean"], is_best))
            if proj == versus:
                line.append(_difference(difference, reach))
        lines[sweep is None].append(line)
    columns = ["data", *["backbone"] * (len(backbones) > 1), *settings, "D", "seeds"]
    for proj in projs:
        columns += [proj, f"{proj} − {base}"] if proj == versus else [proj]
    caption = f"Table 1: {METRICS[f'test/{metric}']}"
    if len(backbones) == 1:
        caption += f", {backbones[0]}"
    return Table(caption, columns, lines[False], frozenset({"data", "backbone"}), lines[True])


def beside_published(content: Mapping[str, Any], metric: str) -> Table | None:
    """The rows of Table 1 for which others published an AUROC, with what they published."""
    base, key = content["base"], f"test/{metric}"
    rows = [r for r in content["table"] if any(key in r[s] for s in SOURCES)]
    sources = [s for s in SOURCES if any(key in r[s] for r in rows)]
    lines: dict[bool, list[list[Cell]]] = {False: [], True: []}
    for row in rows:
        cells = {proj: row["cells"][metric].get(proj) for proj in (base, "jl")}
        line = [Cell(row["data"]), Cell(row["backbone"]), Cell(f"{row['dim']:,}", row["dim"])]
        line += [
            Cell(spread(c["mean"], c["sd"]), c["mean"]) if c else Cell(MISSING)
            for c in cells.values()
        ]
        line.append(_difference((cells["jl"] or {}).get("difference"), reach=0))
        line += [_published(row[source].get(key)) for source in sources]
        lines[row["sweep"] is None].append(line)
    columns = ["data", "backbone", "D", base, "jl", f"jl − {base}"]
    columns += [SOURCES[s] + f", {base} → jl" * (s == "report") for s in sources]
    caption = f"{METRICS[key]} beside what others published"
    words = frozenset({"data", "backbone"})
    return Table(caption, columns, lines[False], words, lines[True]) if rows else None


def report_table(backbone: str) -> Table:
    """The JL report's Table 1 of one backbone, whole, with its averages and anomalib's numbers."""

    def line(name: str, over: Sequence[str]) -> list[Cell]:
        known = published(backbone, DIM[backbone], over)
        selection, jl = known["report"]["test/pixel_auroc"]
        values = [selection, jl, *known["anomalib"].values()]
        cells = [Cell(share(value), value) for value in values]
        gain = Cell(share(jl - selection, sign=True), jl - selection)
        return [Cell(name), *cells[:2], gain, *cells[2:]]

    return Table(
        f"{backbone}, D = {DIM[backbone]}",
        [
            *("category", "JL report: PaDiM, pixel", "JL report: JL, pixel", "its gain"),
            *("anomalib: image", "anomalib: pixel"),
        ],
        [line(name, [name]) for name in CATEGORIES],
        frozenset({"category"}),
        [line(f"{name} ({len(over)})", over) for name, over in averages(CATEGORIES).items()],
    )


def fits(sweeps: Sequence[Mapping[str, Any]], metric: str, of: str = "fits") -> Table | None:
    """Eq. 15 fitted to the means over seeds of every data set and projection.

    `of` is "fits", to all D, or "predictions", of jl to the smaller ones.
    """
    rows = []
    for sweep in sweeps:
        for fit in sweep[of]:
            if fit["metric"] != metric:
                continue
            line = [Cell(sweep["label"]), Cell(fit["proj"] + _reason(fit))]
            values = [fit.get(key) for key in ("points", "p", "limit", "rmse", "r_squared")]
            line += [Cell(number(v), v) if known(v) else Cell(MISSING) for v in values]
            if known(values[2]) and not fit["identifiable"]:
                line[4] = Cell(f"not determined ({brief(values[2])})", values[2])
            rows.append(line)
    names = ["data", "projection", "points", "p", "q/k²", "RMSE", "R²"]
    caption = f"Least-squares fits of eq. 15 to the means over seeds, {METRICS[f'test/{metric}']}"
    return Table(caption, names, rows, frozenset(names[:2])) if rows else None


def separations(found: Sequence[Mapping[str, Any]]) -> Table | None:
    """p, k and ε of the report's eq. 11 to 13 as measured on image scores."""
    rows = [
        [
            *(Cell(row["sweep"]), Cell(row["proj"]), Cell(f"{row['dim']:,}", row["dim"])),
            *(Cell(share(row["before"]), row["before"]), Cell(", ".join(map(share, row["k"])))),
            *(Cell(brief(row[name]), row[name]) for name in ("scale", "epsilon", "q")),
            *(Cell(share(row[name]), row[name]) for name in list(MEASURED)[2:]),
        ]
        for row in found
    ]
    names = ["data", "projection", "D", "AUROC before", "k, quartiles", "d/D", "ε", "ε²D"]
    names += [*list(MEASURED.values())[2:-1], "AUROC after"]
    words = frozenset({"data", "projection", "k, quartiles"})
    return Table("p, k and ε, measured", names, rows, words) if rows else None


def evidence(claim: Mapping[str, Any]) -> Table:
    """A column for whatever any comparison has, intervals in the cells of their values."""
    rows = claim["evidence"]
    names = list(dict.fromkeys(k for row in rows for k in row))
    names = [k for k in names if any(_value(row.get(k)) not in (None, "") for row in rows)]
    if "metric" in names and "part" in names:
        names.remove("part")
    reach = _reach(row.get("difference") for row in rows)
    lines = [[_fact(row.get(k), reach * (k == "difference")) for k in names] for row in rows]
    titles = {k: TITLES.get(k, k.replace("_", " ")) for k in names}
    words = frozenset(titles[k] for k in names if any(isinstance(r.get(k), str) for r in rows))
    return Table(f"Evidence: {len(rows)} comparisons", list(titles.values()), lines, words)


def numbers(sweeps: Sequence[Mapping[str, Any]]) -> Table:
    """Every configuration: all metrics, and what it costs."""
    every = [(s["label"], c) for s in sweeps for c in s["configurations"]]
    metrics = [
        m for m in (k.removeprefix("test/") for k in METRICS)
        if any(known(c["mean"][m]) for _, c in every)
    ]  # fmt: skip
    rows = [
        [
            *(Cell(label), Cell(c["proj"]), Cell(f"{c['dim']:,}", c["dim"])),
            Cell(str(len(c["seeds"])), len(c["seeds"])),
            *(Cell(*_mean(c, m, digits=4)) for m in metrics),
            _cost(c, "state_bytes", size),
            *(_cost(c, k, brief) for k in ("score/ms_per_image", "backbone/ms_per_image")),
        ]
        for label, c in every
    ]
    names = ["data", "projection", "D", "seeds", *(METRICS[f"test/{m}"] for m in metrics)]
    names += ["state", "scoring, ms/image", "backbone, ms/image"]
    caption = "Every configuration: mean ± standard deviation over seeds"
    return Table(caption, names, rows, frozenset(names[:2]))


def settings(constants: Mapping[str, Any]) -> Table:
    rows = [[Cell(str(key)), Cell(str(value))] for key, value in constants.items()]
    return Table("Settings and versions", ["key", "value"], rows, frozenset({"key", "value"}))


def planted(constants: Mapping[str, Any], metric: str) -> bool:
    """Whether a metric counts defects that were painted on good images."""
    return "pixel" in metric and "planted" in str(constants.get("pixel_truth"))


def _mean(
    c: Mapping[str, Any], metric: str, daggered: bool = False, digits: int = 3
) -> tuple[str, float | None]:
    mean = c["mean"][metric]
    return spread(mean, c["sd"][metric], digits) + " †" * (daggered and known(mean)), mean


def _cost(c: Mapping[str, Any], key: str, text: Any) -> Cell:
    return Cell(text(c["mean"][key]), c["mean"][key])


def _missed(found: Mapping[str, Any] | None) -> Cell:
    if not found:
        return Cell(MISSING)
    misses, alarms = (brief(found[key]) for key in ("misses", "alarms"))
    text = f"{misses} of {found['defective']:,}, {alarms} of {found['good']:,}"
    return Cell(text + " ‡" * found["own"], found["misses"] / found["defective"])


def _difference(found: Mapping[str, Any] | None, reach: float) -> Cell:
    if not found or not known(found["value"]):
        return Cell(MISSING)
    text = interval(found["value"], found["low"], found["high"])
    return Cell(text, found["value"], line=_line(found, reach))


def _published(value: Any) -> Cell:
    if isinstance(value, list | tuple):  # selection → JL
        return Cell(" → ".join(map(share, value)), value[1])
    return Cell(share(value), value)


def _reach(found: Iterable[Mapping[str, Any] | None]) -> float:
    """Of the longest interval's ends."""
    return max((abs(d[k] or 0) for d in found if d for k in ("low", "high")), default=0)


def _line(found: Mapping[str, Any], reach: float) -> tuple[float, float, float] | None:
    ends = [found[name] for name in ("low", "value", "high")]
    if not all(map(known, ends)) or reach <= 0:
        return None
    return tuple(max(-1.0, min(1.0, v / reach)) for v in ends)


def _value(fact: Any) -> Any:
    """What an interval is around; anything else is itself."""
    return fact["value"] if isinstance(fact, Mapping) else fact


def _fact(fact: Any, reach: float) -> Cell:
    if not known(value := _value(fact)):
        text = MISSING if value is None else str(value)
        return Cell(METRICS.get(text, text))
    if value is fact or not (known(fact["low"]) and known(fact["high"])):
        return Cell(number(value), value)
    text = f"{number(value)} [{number(fact['low'])}, {number(fact['high'])}]"
    return Cell(text, value, line=_line(fact, reach))


def _differs(sweeps: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether a setting differs between sweeps of the same data and backbone."""
    found: dict[tuple[str, str], set[str]] = {}
    for s in sweeps:
        found.setdefault((s["data"], s["backbone"]), set()).add(str(s["constants"].get(key)))
    return any(len(values) > 1 for values in found.values())


def _reason(fit: Mapping[str, Any]) -> str:
    return f": {fit['why']}" if "why" in fit else ""
