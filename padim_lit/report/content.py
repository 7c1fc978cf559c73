"""What a report shows, as one plain dict: points, fits of eq. 15, differences, verdicts."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import date
from typing import Any

import numpy as np

from padim_lit.analysis.bootstrap import CONFIDENCE
from padim_lit.analysis.claims import judge
from padim_lit.analysis.curve import fit_performance
from padim_lit.analysis.published import SOURCES, published
from padim_lit.analysis.result_files import finite
from padim_lit.analysis.separation import mean_separations
from padim_lit.analysis.sweep_results import SweepFolder, labels, planted, sd
from padim_lit.analysis.table1 import BASE, base_of, short, with_base, with_means
from padim_lit.errors import InputError
from padim_lit.metric_names import METRICS
from padim_lit.report.figures import DRAWN, claimed
from padim_lit.version import __version__
from padim_lit.visualization.palette import order

COSTS = ("state_bytes", "score/ms_per_image", "backbone/ms_per_image")
#: Where one sweep's backbone times differ by a larger factor, the machine's load has changed.
MAX_TIME_RATIO = 1.1
#: Share of the good test images that may be called defective where a sweep sets no threshold.
ABLATION_ALARM_RATE = 0.05
#: Points that draw the curve of eq. 15.
CURVE_POINTS = 48
#: Largest D whose points eq. 15 is fitted to where it is to predict the others (claim "eq15").
PREDICTED_FROM = 200


def describe(sweeps: Sequence[SweepFolder], versus: str | None = None) -> dict[str, Any]:
    """Return all that the page and the figures show, without pictures and distortions.

    `versus` names what others are compared with, as in `base_of`. Numbers that are not finite are
    None.
    """
    names, base = labels(sweeps), base_of(sweeps, versus)
    named = list(zip(sweeps, names, strict=True))
    shown = [_sweep(sweep, name, _configurations(sweep, sweeps, base)) for sweep, name in named]
    separations = []
    for sweep, name in named:
        with suppress(InputError):  # no scores were kept, or none is right
            separations += [row | {"sweep": name} for row in mean_separations(sweep)]
    content = {
        "level": CONFIDENCE,
        "written": date.today().isoformat(),
        "version": __version__,
        "sweeps": shown,
        "grouped": any(s.constants.get("test_groups") for s in sweeps),
        "separations": separations,
        "warnings": warnings(sweeps, names),
    }
    table = compared(sweeps, [one["configurations"] for one in shown], base)
    if versus and not any(c["difference"] for row in table["table"] for c in row["cells"].values()):
        raise InputError(
            f"--versus {versus}: nothing differs in {base[0]} alone, with the same test images, D "
            "and seeds, or several sweeps have it"
        )
    # Only a reproduction of the JL report has its D, or data of its Table 1.
    beside = any(row[source] for row in table["table"] for source in SOURCES)
    reproduction = beside or any(one["claimed"] or one["predictions"] for one in shown)
    return finite(content) | table | {"claims": judge(sweeps), "reproduction": reproduction}


def warnings(sweeps: Sequence[SweepFolder], names: Sequence[str]) -> list[str]:
    """Return sentences on what a reader must know before believing a number."""
    checks = {
        "Random backbone weights in {}: memory and time are real, detection says nothing.":
            [str(s.constants.get("weights")).startswith("random") for s in sweeps],
        "Planted (synthetic) defects in {}: pixel metrics count defects that were painted on good "
        "images, image metrics real ones.": [planted(s.constants, "pixel") for s in sweeps],
        "Timed apart: the runs of {} saw different backbone times, so their latencies compare "
        "loosely.": [_timed_apart(s) for s in sweeps],
    }  # fmt: skip
    found = []
    for sentence, chosen in checks.items():
        if any(chosen):
            which = "; ".join(n for n, yes in zip(names, chosen, strict=True) if yes)
            found.append(sentence.format("all sweeps" if all(chosen) else which))
    if any(r.measured.get("test/image_f1max") is not None for s in sweeps for r in s.rows):
        found.append(
            "The threshold of F1-max is the best one on the test set itself, hence optimistic. "
            "AUROC, AP and AUPRO have no threshold."
        )
    return found


def _sweep(sweep: SweepFolder, name: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    configurations = finite(found)
    for one in configurations:
        one["missed"] = missed(sweep, one["proj"], one["dim"])
    marked = [key for m in DRAWN for key in claimed(configurations, m)]
    dims = sweep.dims_of("jl")
    beyond = PREDICTED_FROM in dims and dims[-1] > PREDICTED_FROM
    fits = {m: _fit(sweep, m) for m in DRAWN if marked}
    predictions = {m: _fit(sweep, m, PREDICTED_FROM) for m in DRAWN if beyond}
    return {
        "label": name,
        "data": sweep.data,
        "backbone": sweep.backbone,
        "path": str(sweep.path),
        "command": sweep.command,
        "constants": _constants(sweep),
        "seeds": sweep.seeds,
        "configurations": configurations,
        "claimed": marked,
        "fits": {m: fit for m, fit in fits.items() if fit},
        "predictions": {m: fit for m, fit in predictions.items() if fit},
    }


def _configurations(
    sweep: SweepFolder, sweeps: Sequence[SweepFolder], versus: tuple[str, str]
) -> list[dict[str, Any]]:
    """Return for each projection and D the seeds' values, means, spreads and differences.

    They are to the projection `versus`, or to the same one in that sweep which has its value.
    """
    both, name = with_base(sweep, sweeps, *versus)
    found = []
    for proj, dim in sweep.methods:
        values = {short(m): sweep.points(proj, dim, m) for m in (*METRICS, *COSTS)}
        values["total_ms"] = values["score/ms_per_image"] + values["backbone/ms_per_image"]
        pair = (proj, dim), (versus[1] if versus[0] == "proj" else name + proj, dim)
        paired = METRICS if pair[0] != pair[1] and both.shared_seeds(*pair) else ()
        found.append(
            {
                "proj": proj,
                "dim": dim,
                "seeds": sweep.seeds_of(proj, dim),
                "values": {k: v.tolist() for k, v in values.items()},
                "mean": {k: float(v.mean()) for k, v in values.items()},
                "sd": {k: sd(v) for k, v in values.items()},
                "difference": {short(m): asdict(both.difference(*pair, m)) for m in paired},
            }
        )
    return found


def missed(sweep: SweepFolder, proj: str, dim: int) -> dict[str, Any] | None:
    """Count defective test images below a threshold and good ones above it, as means over seeds.

    The threshold is that of the runs; an ablation sets none, so there `ABLATION_ALARM_RATE` of the
    good ones alarm.

    Returns:
        misses, defective: how many are missed, of how many; alarms, good: the same of good images
        that are called defective; own: whether the threshold is the runs' own, set before they saw
        the test images. None where neither is known, or there are no good or defective images.
    """
    columns = ("test/misses", "test/false_alarms", "test_defective", "test_good")
    counts = [sweep.points(proj, dim, name) for name in columns]
    own = bool(np.isfinite(counts).all())
    if not own:
        if (values := sweep.image_scores(proj, dim)) is None:
            return None
        images = sweep.scores
        good, bad = (images.count_image & (images.label == label) for label in (0, 1))
        if not good.any() or not bad.any():
            return None
        # Defective is what scores above the highest good image that must not alarm.
        tops = np.sort(values[:, good])[:, -1 - int(ABLATION_ALARM_RATE * good.sum()), None]
        counts = [(values[:, bad] <= tops).sum(axis=1), (values[:, good] > tops).sum(axis=1)]
        counts += [bad.sum(), good.sum()]
    names = ("misses", "alarms", "defective", "good")
    found = {name: float(np.mean(count)) for name, count in zip(names, counts, strict=True)}
    return found | {"own": own} if found["defective"] and found["good"] else None


def _fit(sweep: SweepFolder, metric: str, most: float = math.inf) -> dict[str, Any] | None:
    """Fit eq. 15 to jl's means over seeds at every D ≤ `most`; None where too few are known.

    The curve goes on to the largest D that was measured, as far as eq. 15 claims anything.
    """
    dims, key = sweep.dims_of("jl"), f"test/{metric}"
    measured = [(d, float(sweep.points("jl", d, key).mean())) for d in dims if d <= most]
    x, y = np.array([m for m in measured if math.isfinite(m[1])], float).reshape(-1, 2).T
    try:
        fit = fit_performance(x, y)
    except InputError:
        return None
    end = x.max() if most == math.inf else dims[-1]
    # Beyond its limit eq. 15 claims nothing.
    places = np.linspace(x.min(), max(x.min(), min(end, fit.limit)), CURVE_POINTS)
    lower, upper = fit.band(places)
    drawn = {"x": places, "y": fit(places), "low": lower, "high": upper}
    found = {name: np.round(values, 6).tolist() for name, values in drawn.items()}
    numbers = ("p", "limit", "limit_interval", "rmse", "r_squared", "points")
    return found | {name: getattr(fit, name) for name in numbers}


def compared(
    sweeps: Sequence[SweepFolder],
    configurations: Sequence[list[dict[str, Any]]] = (),
    versus: tuple[str, str] = ("proj", BASE),
) -> dict[str, Any]:
    """Make Table 1: a row for each D of every sweep, rows of means, and what others published.

    `configurations` are those of the sweeps, where they are known.
    """
    sources = with_means(sweeps)
    every = [source for source, _ in sources]
    found = list(configurations)
    found += [_configurations(one, every, versus) for one in every[len(found) :]]
    titles = labels(every)
    rows = []
    for i, (source, categories) in enumerate(sources):
        for dim in source.dims:
            row = {"title": titles[i], "data": source.data, "dim": dim, "mean": i >= len(sweeps)}
            row["constants"] = _constants(source)
            row["cells"] = {c["proj"]: c for c in found[i] if c["dim"] == dim}
            rows.append(row | published(source.backbone, dim, categories))
    projs = sorted({p for s in sweeps for p in s.projs}, key=order)
    return finite({"projs": projs, "table": rows}) | {"versus": versus}


def _constants(sweep: SweepFolder) -> dict[str, Any]:
    return {key: value for key, value in sweep.constants.items() if value is not None}


def _timed_apart(sweep: SweepFolder) -> bool:
    # The backbone is the same for every projection: its time tells how alike the machine was.
    times = [t for row in sweep.rows if (t := row.measured.get("backbone/ms_per_image"))]
    return bool(times) and max(times) > MAX_TIME_RATIO * min(times)
