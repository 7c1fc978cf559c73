"""The report's page from its content and its figures."""

from collections import Counter
from collections.abc import Mapping
from itertools import product
from typing import Any

from padim_lit.analysis.missed import RATE
from padim_lit.analysis.published import DIM, contradictions
from padim_lit.metric_names import METRICS
from padim_lit.report import tables
from padim_lit.report.figures import DRAWN, FIGURES, planted, stem
from padim_lit.report.page import assemble, inline
from padim_lit.system.console import count

TITLE = "PaDiM with projections: what was measured"
#: Metrics of Table 1, and the metric that is chosen where each is shown.
PRINTED = {m: m for m in DRAWN} | {"pixel_aupro": "pixel_auroc"}
TALLY = {
    "holds": ("holds", "hold"),
    "holds when": ("holds under conditions", "hold under conditions"),
    "does not hold": ("does not hold", "do not hold"),
    "open": ("is open", "are open"),
    "not measured": ("is not measured", "are not measured"),
}


def render(content: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """The page. `figures` are those of `figures.draw`; the page holds their SVGs."""
    sweeps = content["sweeps"]
    table1 = [(m, t) for name, m in PRINTED.items() if (t := tables.table_one(content, name))]
    return assemble(
        "report/report.html",
        ["report/report.css"],
        ["report/page.js"],
        **content,
        title=TITLE,
        data=list(dict.fromkeys(s["data"] for s in sweeps)),
        facts=_facts(sweeps, content["projs"]),
        tally=_tally(content["claims"]),
        metrics={m: METRICS[f"test/{m}"] for m in DRAWN if m in dict(table1)},
        table1=table1,
        beside={m: t for m in DRAWN if (t := tables.beside_published(content, m))},
        report_tables=[tables.report_table(backbone) for backbone in DIM],
        contradictions=contradictions(),
        fits={metric: tables.fits(sweeps, metric) for metric in DRAWN},
        predictions={m: tables.fits(sweeps, m, "predictions") for m in DRAWN},
        missed=[m for s in sweeps for c in s["configurations"] if (m := c["missed"])],
        rate=RATE,
        dagger=any(planted(s["constants"], "pixel_auroc") for s in sweeps),
        figures=_inline(figures),
        tables=tables,
    )


def _inline(figures: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    """Figure → metric → SVG."""
    found: dict[str, dict[str, str]] = {name: {} for name in FIGURES}
    for (name, (_, what)), metric in product(FIGURES.items(), DRAWN):
        if svg := figures.get(f"{stem(name, metric)}.svg"):
            found[name][metric] = inline(svg, what.format(METRICS[f"test/{metric}"]))
    svg = figures.get("distortion.svg")
    found["distortion"] = {"all": inline(svg, "Distortion against D")} if svg else {}
    return found


def _facts(sweeps: list[Mapping[str, Any]], projs: list[str]) -> dict[str, str]:
    def every(key: str) -> str:
        found = (s["constants"].get(key) for s in sweeps)
        return ", ".join(dict.fromkeys(str(value) for value in found if value is not None))

    if not sweeps:
        return {}
    done = sum(len(c["seeds"]) for s in sweeps for c in s["configurations"])
    versions = {name: every(f"version/{name}") for name in ("padim_lit", "torch")}
    return {
        "Data": ", ".join(dict.fromkeys(s["data"] for s in sweeps)),
        "Backbone": every("backbone"),
        "Weights": every("weights"),
        "Projections": ", ".join(projs),
        "Seeds": ", ".join(map(str, sorted({seed for s in sweeps for seed in s["seeds"]}))),
        "Configurations": f"{done:,} in {count(len(sweeps), 'sweep')}",
        "Versions": ", ".join(f"{name} {found}" for name, found in versions.items() if found),
    }


def _tally(claims: list[Mapping[str, Any]]) -> str:
    kinds = Counter(c["kind"] for c in claims)
    said = [f"{n} {words[n > 1]}" for kind, words in TALLY.items() if (n := kinds[kind])]
    return f"Of {count(len(claims), 'claim')}, {', '.join(said)}."
