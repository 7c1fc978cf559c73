"""Turn sweeps into one HTML file: ``python -m padim_lit.report SWEEP_DIR... [--out FILE]``."""

import os
import shlex
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from padim_lit.analysis.published import CONTRADICTIONS
from padim_lit.analysis.result_files import find, read_distortion
from padim_lit.analysis.sweep_results import planted, read_sweeps
from padim_lit.errors import InputError
from padim_lit.metric_names import METRICS
from padim_lit.report import tables
from padim_lit.report.content import ABLATION_ALARM_RATE, describe
from padim_lit.report.figures import DRAWN, FIGURES, draw, several, stem
from padim_lit.report.page import assemble, inline
from padim_lit.report.pictures import PICTURES, about, embed
from padim_lit.system.atomic import write_bytes, write_text
from padim_lit.system.command_line import Parser, run, say
from padim_lit.system.console import count
from padim_lit.system.paths import typed_path

TITLE = "PaDiM with projections: what was measured"
#: Metrics of Table 1, and the metric that is chosen where each is shown.
TABLE1_METRICS = {m: m for m in DRAWN} | {"pixel_aupro": "pixel_auroc"}


def build(paths: Sequence[str | os.PathLike], versus: str | None = None) -> dict[str, Any]:
    """The content of a report on every sweep, distortion and picture in or below `paths`.

    Raises:
        InputError: none is there, a file cannot be read, or nothing can be compared with `versus`.
    """
    pictures = [(file, shows) for name, shows in PICTURES.items() for file in find(paths, name)]
    distortions = find(paths, "distortion.json")
    other = distortions or any(file.name == "figure4.png" for file, _ in pictures)
    sweeps = read_sweeps(paths, required=not other)
    rows = sum(len(sweep.rows) for sweep in sweeps)
    found = f"{count(len(sweeps), 'sweep')}, {count(rows, 'configuration')}"
    say(f"{found}: fits, intervals, verdicts ...")
    content = describe(sweeps, versus)
    if pictures:
        say(f"{count(len(pictures), 'picture')} ...")
    content["pictures"], left = embed(pictures)
    content["warnings"] += left
    words = [*map(str, paths), *(["--versus", versus] if versus else [])]
    content["command"] = f"python -m padim_lit.report {shlex.join(words)}"
    content["distortions"] = [
        {"label": about(file.parent), "rows": read_distortion(file)} for file in distortions
    ]
    return content


def render(content: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """The page. `figures` are those of `figures.draw`; the page holds their SVGs."""
    sweeps = content["sweeps"]
    table1 = [
        (m, t) for name, m in TABLE1_METRICS.items() if (t := tables.table_one(content, name))
    ]
    return assemble(
        "report",
        **content,
        title=TITLE,
        data=list(dict.fromkeys(s["data"] for s in sweeps)),
        metrics={m: METRICS[f"test/{m}"] for m in DRAWN if m in dict(table1)},
        table1=table1,
        compared=tables.compared(content),
        bold=any(cell.best for _, t in table1 for row in t.rows for cell in row.values()),
        beside={m: t for m in DRAWN if (t := tables.beside_published(content, m))},
        contradictions=CONTRADICTIONS,
        fits={metric: tables.fits(sweeps, metric) for metric in DRAWN},
        missed=[m for s in sweeps for c in s["configurations"] if (m := c["missed"])],
        rate=ABLATION_ALARM_RATE,
        dagger=any(planted(s["constants"], "pixel_auroc") for s in sweeps),
        figures=_inline(figures),
        several=several(sweeps),
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


def main(words: Sequence[str] | None = None) -> None:
    """Write the report and its figures, and print where they are; one line for an error."""
    parser = Parser("padim_lit.report", "Turn sweeps into one HTML file.")
    parser.take_folders("SWEEP_DIR", "sweeps")
    parser.add_argument(
        "--out",
        type=typed_path,
        default=Path("report.html"),
        help="the file to write (%(default)s); its figures go to a folder beside it",
    )
    parser.add_argument(
        "--versus",
        metavar="KEY=VALUE",
        help="what the others are compared with, at the same D: a projection (jl) or a value of a "
        "key that the sweeps vary (density=mixture); by default subset, or jl, or what comes first",
    )
    given = parser.parse_args(words)
    run(lambda: _write(given.folders, given.out, given.versus))


def _write(folders: Sequence[str], out: Path, versus: str | None) -> None:
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; give the name of a file, such as report.html")
    content = build(folders, versus)
    say("figures ...")
    drawn = draw(content)
    page = render(content, drawn)
    beside = out.with_name(f"{out.stem}_figures")
    for name, picture in drawn.items():
        write_bytes(beside / name, picture)
    # Last: a report that is there has its figures.
    write_text(out, page)
    if drawn:
        print(f"figures  {beside.resolve()} ({count(len(drawn), 'file')})")
    print(f"report   {out.resolve()}")
