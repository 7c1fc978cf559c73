"""The figures of sweeps as PNG and SVG: curves, cost, spread over seeds, distortion."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, StrMethodFormatter

from padim_lit.analysis.claims import BEND, FEWER, MANY
from padim_lit.analysis.sweep_results import planted
from padim_lit.metric_names import METRICS
from padim_lit.system.atomic import file_bytes
from padim_lit.visualization.distortion import QUANTITIES, over_seeds
from padim_lit.visualization.palette import line_style, order
from padim_lit.visualization.panels import drawable

#: Metrics that are drawn, as `content` names them; the others are in tables.
DRAWN = ("image_auroc", "pixel_auroc")
WIDTH, DPI, COLUMNS = 10, 160, 3  # inches; 1600 pixels
GRID = "#e3e3e3"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    # Text stays text: small, searchable, in a font of the reader's.
    "svg.fonttype": "none",
    "path.simplify": False,
}
COSTS = {
    "state_bytes": "state (MB)",
    "score/ms_per_image": "scoring (ms/image)",
    "total_ms": "backbone + scoring (ms/image)",
}
REFERENCE, FITTED = "identity (all C channels)", "eq. 15 fitted to jl, with its band"
#: Of the report's Figure 3: what its curve is claimed to do.
STEEP, WORK = "steep (the report)", "reached by jl at 150 (the report)"
EQ15, PREDICTED, ENDS = "eq. 15 fitted up to D = 200", "its prediction beyond", "where it ends"


def files(
    name: str, figure: Callable[[], Figure | None], kinds: Sequence[str] = ("png", "svg")
) -> dict[str, bytes]:
    """Return NAME.png and NAME.svg of what `figure` draws; nothing where it draws nothing."""
    # Names inside an SVG are made from the salt: figures in one page must not share them.
    with rc_context({**STYLE, "svg.hashsalt": f"padim_lit {name}"}):
        if (drawn := figure()) is None:
            return {}
        # A date in the file would make it differ from run to run.
        how = {"metadata": {"Date": None}}
        return {f"{name}.{kind}": file_bytes(drawn.savefig, format=kind, **how) for kind in kinds}


def curves(sweeps: Sequence[Mapping[str, Any]], metric: str, **size: Any) -> Figure | None:
    """Draw the report's Figure 3: metric against D, mean and ± sd over seeds, and its claims."""

    def panel(sweep: Mapping[str, Any], axes: Axes) -> None:
        for proj, found in _by_proj(sweep, metric).items():
            if proj == "identity":
                height, colour = found[-1]["mean"][metric], line_style(proj)["color"]
                axes.axhline(height, color=colour, linestyle=(0, (1, 2)), label=REFERENCE)
            else:
                _mean_and_sd(axes, found, metric)
        if fit := sweep["fits"].get(metric):
            heights = axes.get_ylim()
            axes.plot(fit["x"], fit["y"], "k:", linewidth=1.1, label=FITTED)
            for edge in ("low", "high"):
                axes.plot(fit["x"], fit[edge], "k:", linewidth=0.5)
            axes.set_ylim(heights)
        _mark_claims(axes, sweep["configurations"], metric)
        _against_dimensions(axes)
        _share_upwards(axes, sweep, metric)

    shown = [s for s in sweeps if len(dims_of(s, metric)) > 1]
    panels = [(s["label"], partial(panel, s)) for s in shown]
    return _figure(panels, _over_seeds(shown), **size)


def claimed(configurations: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """Return the keys of the report's claims that `curves` marks: those whose D were measured."""
    means = _means(configurations, metric)
    needed = {"steep-then-flat": BEND, "150-for-550": (FEWER, MANY)}
    return [key for key, methods in needed.items() if means.keys() >= {*methods}]


def _mark_claims(axes: Axes, configurations: Sequence[Mapping[str, Any]], metric: str) -> None:
    marked, means = claimed(configurations, metric), _means(configurations, metric)
    if "steep-then-flat" in marked:
        axes.axvspan(50, 200, color=GRID, alpha=0.6, linewidth=0, zorder=0, label=STEEP)
    if "150-for-550" in marked:
        few, many = means[FEWER], means[MANY]
        axes.plot([150, 550], [many, many], color="black", linewidth=0.8, linestyle=(0, (5, 3)),
                  label=WORK)  # fmt: skip
        axes.plot([150, 150], sorted([few, many]), color="black", linewidth=0.8)


def _means(
    configurations: Sequence[Mapping[str, Any]], metric: str
) -> dict[tuple[str, int], float]:
    means = {(c["proj"], c["dim"]): c["mean"][metric] for c in configurations}
    return {method: mean for method, mean in means.items() if mean is not None}


def several(sweeps: Sequence[Mapping[str, Any]]) -> bool:
    """Whether something was measured with more than one seed."""
    spreads = [sd for s in sweeps for c in s["configurations"] for sd in c["sd"].values()]
    return any(sd is not None for sd in spreads)


def _over_seeds(sweeps: Sequence[Mapping[str, Any]]) -> str:
    return "mean and ± standard deviation over seeds" if several(sweeps) else "one seed"


def prediction(sweeps: Sequence[Mapping[str, Any]], metric: str) -> Figure | None:
    """Draw the report's Figure 2: eq. 15 fitted to jl's first points, beside all measured ones."""

    def panel(sweep: Mapping[str, Any], axes: Axes) -> None:
        measured, fit = _by_proj(sweep, metric)["jl"], sweep["predictions"][metric]
        _mean_and_sd(axes, measured, metric)
        last = max(c["dim"] for c in measured[: fit["points"]])
        x, y = np.array(fit["x"]), np.array(fit["y"])
        for part, line, label in ((x <= last, "-", EQ15), (x >= last, "--", PREDICTED)):
            axes.plot(x[part], y[part], f"k{line}", linewidth=1.2, label=label)
        if fit["limit"] < measured[-1]["dim"]:
            axes.plot(x[-1:], y[-1:], "kx", label=ENDS, clip_on=False)
        _against_dimensions(axes)
        _share_upwards(axes, sweep, metric)

    shown = [s for s in sweeps if metric in s["predictions"]]
    panels = [(s["label"], partial(panel, s)) for s in shown]
    return _figure(panels, _over_seeds(shown))


def _mean_and_sd(axes: Axes, found: Sequence[Mapping[str, Any]], metric: str) -> None:
    """Draw a projection's line over its D, and the band of its standard deviation."""
    proj, dims = found[0]["proj"], [c["dim"] for c in found]
    mean = np.array([c["mean"][metric] for c in found], float)
    sd = np.array([c["sd"][metric] or 0 for c in found], float)
    style = _style(proj)
    axes.fill_between(dims, mean - sd, mean + sd, color=style["color"], alpha=0.16, linewidth=0)
    axes.plot(dims, mean, label=proj, **style)


def _against_dimensions(axes: Axes) -> None:
    axes.set_xlim(left=0)
    axes.set_xlabel("dimensions D")


def pareto(sweeps: Sequence[Mapping[str, Any]], metric: str) -> Figure | None:
    """Draw the metric against its costs: state, scoring time, and time with the backbone."""
    shown = [s for s in sweeps if len(dims_of(s, metric)) > 1]
    drawn = [c for s in shown for found in _by_proj(s, metric).values() for c in found]
    costs = [cost for cost in COSTS if any(c["mean"][cost] for c in drawn)]

    def panel(sweep: Mapping[str, Any], cost: str, axes: Axes) -> None:
        unit = 1e6 if cost == "state_bytes" else 1
        for proj, found in _by_proj(sweep, metric).items():
            points = [(c["mean"][cost] / unit, c["mean"][metric]) for c in found if c["mean"][cost]]
            if points:
                axes.plot(*zip(*sorted(points), strict=True), label=proj, **_style(proj))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(_round_steps(*axes.get_xlim())))
        # These read as numbers, not as powers.
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
        axes.minorticks_off()
        axes.set_xlabel(COSTS[cost])
        _share_upwards(axes, sweep, metric if cost == costs[0] else "", 5)

    panels = [
        (sweep["label"] if cost == costs[0] else "", partial(panel, sweep, cost))
        for sweep in shown
        for cost in costs
    ]
    return _figure(panels, "one point for each D; better is up and to the left", len(costs))


def spread(sweeps: Sequence[Mapping[str, Any]], metric: str) -> Figure | None:
    """Draw every seed's metric, by D and projection."""

    def panel(sweep: Mapping[str, Any], axes: Axes) -> None:
        dims = dims_of(sweep, metric)
        by_proj = {p: f for p, f in _by_proj(sweep, metric).items() if p != "identity"}
        for at, (proj, found) in enumerate(by_proj.items()):
            style = _style(proj) | {"linestyle": "none", "alpha": 0.75}
            shift = 0.7 * ((at + 0.5) / len(by_proj) - 0.5)
            x = [dims.index(c["dim"]) + shift for c in found for _ in c["seeds"]]
            axes.plot(x, [v for c in found for v in c["values"][metric]], label=proj, **style)
        for border in range(1, len(dims)):
            axes.axvline(border - 0.5, color=GRID, linewidth=0.7)
        axes.grid(False, axis="x")
        axes.set_xlim(-0.5, len(dims) - 0.5)
        axes.set_xticks(range(len(dims)), [str(d) for d in dims])
        axes.set_xlabel("dimensions D")
        _share_upwards(axes, sweep, metric)

    shown = [s for s in sweeps if dims_of(s, metric) and len(s["seeds"]) > 1]
    return _figure([(s["label"], partial(panel, s)) for s in shown], "one dot for each seed")


def distortion(measured: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw quantiles of projected norms and distances, and rank correlations, against D.

    `measured` are label and rows, as distortion.json holds them.
    """
    rows = [r for d in measured for r in d["rows"]]
    columns = [(q, "q50") for q in QUANTITIES if any(r["quantity"] == q for r in rows)]
    if any(r.get("spearman") is not None for r in rows):
        columns.append(("distance", "spearman"))

    def panel(found: Mapping[str, Any], quantity: str, column: str, axes: Axes) -> None:
        ranks = column == "spearman"
        bands = () if ranks else (("q05", "q95", 0.13), ("q25", "q75", 0.25))
        for proj in sorted({r["proj"] for r in found["rows"]}, key=order):
            style = _style(proj)
            dims, q = over_seeds(found["rows"], proj, quantity)
            for low, high, alpha in bands:
                look = {"color": style["color"], "alpha": alpha, "linewidth": 0}
                axes.fill_between(dims, q[low], q[high], **look)
            axes.plot(dims, q[column], label=proj, **style)
        if ranks:
            _end_at_one(axes, 6)
        else:
            axes.axhline(1, color="black", linewidth=0.8)
        _against_dimensions(axes)
        axes.set_ylabel(f"Spearman, {quantity}" if ranks else QUANTITIES[quantity])

    panels = [
        (found["label"] if column == columns[0] else "", partial(panel, found, *column))
        for found in measured
        for column in columns
    ]
    return _figure(panels, "median; bands hold 50 % and 90 %; means over seeds", len(columns))


def dims_of(sweep: Mapping[str, Any], metric: str) -> list[int]:
    """Return the D at which the metric was measured, without identity's C."""
    measured = [c for c in sweep["configurations"] if c["mean"][metric] is not None]
    return sorted({c["dim"] for c in measured if c["proj"] != "identity"})


def _figure(
    panels: Sequence[tuple[str, Callable[[Axes], None]]],
    note: str,
    columns: int = 0,
    width: float = WIDTH,
    height: float | None = None,
) -> Figure | None:
    """Draw a panel for each title, `columns` in a row; 0: as many as fit."""
    if not panels:
        return None
    columns = columns or min(len(panels), COLUMNS if len(panels) != 4 else 2)
    rows = -(-len(panels) // columns)
    height = height or {1: 4.6, 2: 3.6}.get(columns, 2.9)
    # Not pyplot: its global list of figures would grow with every run of a sweep.
    figure = Figure(figsize=(width, rows * height + 0.5), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    flat = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (title, draw_in) in zip(flat, panels, strict=False):
        draw_in(axes)
        # A name may hold "$" pairs, which matplotlib would set as mathematics.
        how = {"loc": "left", "fontsize": 9, "fontweight": "bold", "parse_math": False}
        axes.set_title(drawable(title), **how)
    for axes in flat[len(panels) :]:
        axes.set_axis_off()
    _legend(figure, note)
    return figure


def _share_upwards(axes: Axes, sweep: Mapping[str, Any], metric: str, ticks: int = 6) -> None:
    """Name the metric's axis; "" leaves the name out where the panel beside has it."""
    _end_at_one(axes, ticks)
    if metric:
        name = METRICS[f"test/{metric}"]
        axes.set_ylabel(f"{name}, planted" if planted(sweep["constants"], metric) else name)


def _end_at_one(axes: Axes, ticks: int) -> None:
    """Set about `ticks` ticks on the vertical axis, none above 1."""
    axes.yaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    axes.set_ylim(top=min(1, axes.get_ylim()[1]))


def _legend(figure: Figure, note: str) -> None:
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, names = axes.get_legend_handles_labels()
        entries |= dict(zip(names, handles, strict=True))
    names = sorted(entries, key=order)  # what is none of ours comes last
    # About 15 letters an inch, ten of them for the line in front of a name.
    fit = round(15 * figure.get_figwidth() / (10 + max(map(len, names))))
    columns = max(1, min(len(names), fit))
    legend = figure.legend(
        [entries[name] for name in names], names, loc="outside lower center", ncols=columns,
        frameon=False, title=note, title_fontsize=8, handlelength=3.2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _style(proj: str) -> dict[str, Any]:
    # Not clipped: a point at 1 is whole.
    return line_style(proj) | {"linewidth": 1.7, "markersize": 4.5, "clip_on": False}


def _by_proj(sweep: Mapping[str, Any], metric: str) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for configuration in sweep["configurations"]:
        if configuration["mean"][metric] is not None:
            found.setdefault(configuration["proj"], []).append(configuration)
    return dict(sorted(found.items(), key=lambda item: order(item[0])))


def _round_steps(low: float, high: float) -> list[float]:
    """Return two to six round numbers from `low` to `high`, as even as possible on a log axis."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in (range(1, 10), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(found) <= 6:
            break
    if len(found) < 2:
        found = [float(v) for v in MaxNLocator(4).tick_values(low, high) if low <= v <= high]
    return found


#: Drawn for each metric: how, and what each shows of it.
FIGURES = {
    "curves": (curves, "{} against D"),
    "prediction": (prediction, "{} that eq. 15 predicts, and as measured"),
    "pareto": (pareto, "{} against what it costs"),
    "spread": (spread, "{} of each seed"),
}


def draw(content: Mapping[str, Any]) -> dict[str, bytes]:
    """Return a dict of file names and contents: each figure as PNG and SVG, for both AUROCs.

    A figure of which nothing was measured is left out.
    """
    sweeps, drawn = content["sweeps"], {}
    for metric in DRAWN:
        for name, (figure, _) in FIGURES.items():
            drawn |= files(stem(name, metric), partial(figure, sweeps, metric))
    return drawn | files("distortion", partial(distortion, content["distortions"]))


def stem(name: str, metric: str) -> str:
    """Return the name of a figure's files, without the suffix."""
    return name if metric == DRAWN[0] else f"{name}_pixel"
