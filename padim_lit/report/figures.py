"""The report's figures as PNG and SVG: curves, cost, spread over seeds, distortion."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from padim_lit.report.content import palette
from padim_lit.visualization.distortion import QUANTITIES, over_seeds

#: The palette of Okabe and Ito, in the order of `content.PALETTE`; dashes and markers tell the
#: projections apart without colour.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#555555"),
    *("#8A6D00", "#6A3D9A"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p")
DASHES = ("-", (0, (5, 2)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1.2)), (0, (8, 2)), (0, (3, 1)), "-.")
WIDTH, DPI, COLUMNS = 10, 160, 3  # inches; 1600 pixels
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "svg.hashsalt": "padim_lit",
    "path.simplify": False,
}
COSTS = {
    "state_bytes": "state (MB)",
    "score/ms_per_image": "scoring (ms/image)",
    "total_ms": "backbone + scoring (ms/image)",
}
REFERENCE, FITTED = "identity (all C channels)", "eq. 15 fitted to jl, with its band"


def draw(content: Mapping[str, Any]) -> dict[str, bytes]:
    """File name → content: each figure in both formats, for image and for pixel AUROC.

    A figure of which nothing was measured is left out.
    """
    drawn: dict[str, bytes] = {}
    with rc_context(STYLE):
        for metric, suffix in (("image_auroc", ""), ("pixel_auroc", "_pixel")):
            for name, figure in (
                ("curves", curves(content, metric)),
                ("pareto", pareto(content, metric)),
                ("spread", spread(content, metric)),
            ):
                drawn |= _files(f"{name}{suffix}", figure)
        drawn |= _files("distortion", distortion(content))
    return drawn


def draw_distortion(rows: Sequence[Mapping[str, Any]], label: str) -> dict[str, bytes]:
    """File name → content of the figure of one distortion, as `draw` makes it of several."""
    content = {
        "projs": palette({row["proj"] for row in rows}),
        "distortions": [{"label": label, "rows": rows}],
    }
    with rc_context(STYLE):
        return _files("distortion", distortion(content))


def curves(content: Mapping[str, Any], metric: str) -> Figure | None:
    """The metric against D: a panel a data set, mean and ± sd over seeds, jl's fit of eq. 15."""

    def panel(axes: Axes, sweep: Mapping[str, Any]) -> None:
        for proj, found in _by_proj(content, sweep, metric).items():
            style = _style(content, proj)
            mean = np.array([c["mean"][metric] for c in found], float)
            sd = np.array([c["sd"][metric] or 0 for c in found], float)
            if proj == "identity":
                axes.axhline(mean[-1], color=style["color"], linestyle=(0, (1, 2)), label=REFERENCE)
                continue
            dims = [c["dim"] for c in found]
            axes.fill_between(
                dims, mean - sd, mean + sd, color=style["color"], alpha=0.16, linewidth=0
            )
            axes.plot(dims, mean, label=proj, **style)
        for fit in sweep["fits"]:
            if fit["proj"] == "jl" and fit["metric"] == metric and "x" in fit:
                heights = axes.get_ylim()
                axes.plot(fit["x"], fit["y"], "k:", linewidth=1.1, label=FITTED)
                for edge in ("low", "high"):
                    axes.plot(fit["x"], fit[edge], "k:", linewidth=0.5)
                axes.set_ylim(heights)
        axes.set_xlim(left=0)
        axes.set_xlabel("dimensions D")

    shown = [s for s in content["sweeps"] if len(_dims(s, metric)) > 1]
    return _panels(content, shown, metric, panel, "mean and ± standard deviation over seeds")


def pareto(content: Mapping[str, Any], metric: str) -> Figure | None:
    """The metric against what it costs: state, scoring time, time with the backbone."""
    shown = [s for s in content["sweeps"] if len(_dims(s, metric)) > 1]
    costs = [c for c in COSTS if any(k["mean"][c] for s in shown for k in s["configurations"])]
    if not shown or not costs:
        return None
    figure, grid = _figure(len(shown), len(costs))
    for row, sweep in zip(grid, shown, strict=True):
        for axes, cost in zip(row, costs, strict=True):
            for proj, found in _by_proj(content, sweep, metric).items():
                known = sorted(
                    (c["mean"][cost], c["mean"][metric]) for c in found if c["mean"][cost]
                )
                if known:
                    x, y = np.array(known).T
                    axes.plot(
                        x / (1e6 if cost == "state_bytes" else 1),
                        y,
                        label=proj,
                        **_style(content, proj),
                    )
            axes.set_xscale("log")
            # A decade has few round numbers; these read as numbers, not as powers.
            axes.xaxis.set_major_locator(FixedLocator(_round_steps(*axes.get_xlim())))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.4g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.minorticks_off()
            axes.set_xlabel(COSTS[cost])
            axes.yaxis.set_major_locator(MaxNLocator(5))
        row[0].set_ylabel(_named(content, sweep, metric))
        row[0].set_title(sweep["label"], loc="left", fontsize=9, fontweight="bold")
    _legend(figure, "a point a dimension D; better is up and to the left")
    return figure


def spread(content: Mapping[str, Any], metric: str) -> Figure | None:
    """Every seed a dot, by D and projection."""

    def panel(axes: Axes, sweep: Mapping[str, Any]) -> None:
        dims = _dims(sweep, metric)
        by_proj = {p: f for p, f in _by_proj(content, sweep, metric).items() if p != "identity"}
        for at, (proj, found) in enumerate(by_proj.items()):
            style = _style(content, proj) | {"linestyle": "none", "alpha": 0.75}
            shift = 0.7 * ((at + 0.5) / len(by_proj) - 0.5)
            x = [dims.index(c["dim"]) + shift for c in found for _ in c["seeds"]]
            axes.plot(x, [v for c in found for v in c["values"][metric]], label=proj, **style)
        for border in range(1, len(dims)):
            axes.axvline(border - 0.5, color="#E3E3E3", linewidth=0.7)
        axes.grid(False, axis="x")
        axes.set_xlim(-0.5, len(dims) - 0.5)
        axes.set_xticks(range(len(dims)), [str(d) for d in dims])
        axes.set_xlabel("dimensions D")

    shown = [s for s in content["sweeps"] if _dims(s, metric) and len(s["seeds"]) > 1]
    return _panels(content, shown, metric, panel, "a dot a seed")


def distortion(content: Mapping[str, Any]) -> Figure | None:
    """What projecting does to norms and distances: quantiles and rank correlation against D."""
    found = [d for d in content.get("distortions", []) if d["rows"]]
    rows = [r for d in found for r in d["rows"]]
    if not rows:
        return None
    quantities = [q for q in QUANTITIES if any(r["quantity"] == q for r in rows)]
    known = [r["quantity"] for r in rows if r.get("spearman") is not None]
    ranked = [q for q in reversed(QUANTITIES) if q in known][:1]
    figure, grid = _figure(len(found), len(quantities) + len(ranked))
    # A projection that no sweep has is drawn as an unknown one.
    projs = sorted({r["proj"] for r in rows}, key=lambda p: content["projs"].get(p, 7))
    for line, measured in zip(grid, found, strict=True):
        for axes, quantity in zip(line, [*quantities, *ranked], strict=True):
            last = axes is line[-1] and ranked
            for proj in projs:
                style = _style(content, proj)
                dims, q = over_seeds(measured["rows"], proj, quantity)
                if last:
                    axes.plot(dims, q["spearman"], label=proj, **style)
                    continue
                for low, high, alpha in (("q05", "q95", 0.13), ("q25", "q75", 0.25)):
                    axes.fill_between(
                        dims, q[low], q[high], color=style["color"], alpha=alpha, linewidth=0
                    )
                axes.plot(dims, q["q50"], label=proj, **style)
            if not last:
                axes.axhline(1, color="black", linewidth=0.8)
            axes.set_xlim(left=0)
            axes.set_xlabel("dimensions D")
            axes.set_ylabel(f"Spearman, {quantity}" if last else QUANTITIES[quantity])
        line[0].set_title(measured["label"], loc="left", fontsize=9, fontweight="bold")
    _legend(figure, "median; bands hold 50 % and 90 %")
    return figure


def _panels(
    content: Mapping[str, Any],
    shown: Sequence[Mapping[str, Any]],
    metric: str,
    panel: Callable[[Axes, Mapping[str, Any]], None],
    note: str,
) -> Figure | None:
    if not shown:
        return None
    columns = min(len(shown), COLUMNS if len(shown) != 4 else 2)
    rows = -(-len(shown) // columns)
    figure, grid = _figure(rows, columns)
    flat = [axes for row in grid for axes in row]
    for axes, sweep in zip(flat, shown, strict=False):
        panel(axes, sweep)
        axes.set_title(sweep["label"], loc="left", fontsize=9, fontweight="bold")
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.set_ylabel(_named(content, sweep, metric))
    for axes in flat[len(shown) :]:
        axes.set_axis_off()
    _legend(figure, note)
    return figure


def _figure(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    height = {1: 4.6, 2: 3.6}.get(columns, 2.9)
    figure = Figure(figsize=(WIDTH, rows * height + 0.5), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def _legend(figure: Figure, note: str) -> None:
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, names = axes.get_legend_handles_labels()
        entries |= dict(zip(names, handles, strict=True))
    # What is drawn once, behind the projections.
    entries = dict(sorted(entries.items(), key=lambda item: item[0] in (FITTED, REFERENCE)))
    columns = len(entries) if len(entries) < 7 else -(-len(entries) // 2)
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=columns,
        frameon=False, title=note, title_fontsize=8, handlelength=3.2,
    )  # fmt: skip


def _style(content: Mapping[str, Any], proj: str) -> dict[str, Any]:
    slot = content["projs"].get(proj, 0)
    return {
        "color": COLOURS[slot % len(COLOURS)],
        "marker": MARKERS[slot % len(MARKERS)],
        "linestyle": DASHES[slot % len(DASHES)],
        "linewidth": 1.7,
        "markersize": 4.5,
    }


def _by_proj(
    content: Mapping[str, Any], sweep: Mapping[str, Any], metric: str
) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for configuration in sweep["configurations"]:
        if configuration["mean"][metric] is not None:
            found.setdefault(configuration["proj"], []).append(configuration)
    return dict(sorted(found.items(), key=lambda item: content["projs"][item[0]]))


def _dims(sweep: Mapping[str, Any], metric: str) -> list[int]:
    """The D at which something was measured, but for identity's C."""
    known = [c for c in sweep["configurations"] if c["mean"][metric] is not None]
    return sorted({c["dim"] for c in known if c["proj"] != "identity"})


def _named(content: Mapping[str, Any], sweep: Mapping[str, Any], metric: str) -> str:
    planted = "planted" in str(sweep["constants"].get("pixel_truth"))
    return content["metrics"][metric] + (", planted" if planted and "pixel" in metric else "")


def _round_steps(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every decade between `low` and `high`; fewer where they would crowd."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in (range(1, 10), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(found) <= 6:
            break
    return found


def _files(name: str, figure: Figure | None) -> dict[str, bytes]:
    if figure is None:
        return {}
    found = {}
    # A date in the file would make it differ from run to run.
    for kind, more in (("png", {}), ("svg", {"metadata": {"Date": None}})):
        out = io.BytesIO()
        figure.savefig(out, format=kind, **more)
        found[f"{name}.{kind}"] = out.getvalue()
    return found
