"""Turn sweeps into one HTML file: ``python -m padim_lit.report SWEEP_DIR... [--out FILE]``."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from padim_lit.analysis.result_files import find, read_distortion
from padim_lit.analysis.sweep_results import NoSweepError, read_sweeps
from padim_lit.errors import InputError
from padim_lit.report import figures
from padim_lit.report.content import describe
from padim_lit.report.html import render
from padim_lit.report.pictures import PICTURES, about, embed
from padim_lit.system.atomic import write_bytes, write_text
from padim_lit.system.command_line import Parser, run, say
from padim_lit.system.console import count
from padim_lit.system.paths import typed_path


def build(paths: Sequence[str | os.PathLike]) -> dict[str, Any]:
    """The content of a report on every sweep, distortion and picture in or below `paths`.

    Raises:
        InputError: none is there, or a file cannot be read.
    """
    pictures = [(file, shows) for name, shows in PICTURES.items() for file in find(paths, name)]
    distortions = find(paths, "distortion.json")
    try:
        sweeps = read_sweeps(paths)
    except NoSweepError:
        if not distortions and not any(file.name == "figure4.png" for file, _ in pictures):
            if not (runs := find(paths, "metrics.json")):
                raise
            raise InputError(
                f"{', '.join(map(str, paths))}: {count(len(runs), 'single run')} and no sweep; "
                "give the folder of an experiment=ablation or of a sweep (-m); "
                "python -m padim_lit.viewer shows single runs"
            ) from None
        sweeps = []
    rows = sum(len(sweep.rows) for sweep in sweeps)
    found = f"{count(len(sweeps), 'sweep')}, {count(rows, 'configuration')}"
    say(f"{found}: fits, intervals, verdicts ...")
    content = describe(sweeps)
    if pictures:
        say(f"{count(len(pictures), 'picture')} ...")
    content["pictures"], left = embed(pictures)
    content["warnings"] += left
    content["command"] = f"python -m padim_lit.report {shlex.join(map(str, paths))}"
    names = {s.path.resolve(): f"{s.data}, {s.backbone}" for s in sweeps}
    content["distortions"] = [
        {"label": names.get(f.parent.resolve()) or about(f.parent), "rows": read_distortion(f)}
        for f in distortions
    ]
    return content


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
    given = parser.parse_args(words)
    run(lambda: _write(given.folders, given.out))


def _write(folders: Sequence[str], out: Path) -> None:
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; give the name of a file, such as report.html")
    content = build(folders)
    say("figures ...")
    drawn = figures.draw(content)
    page = render(content, drawn)
    beside = out.with_name(f"{out.stem}_figures")
    for name, picture in drawn.items():
        write_bytes(beside / name, picture)
    # Last: a report that is there has its figures.
    write_text(out, page)
    print(f"figures  {beside.resolve()} ({len(drawn)} files)")
    print(f"report   {out.resolve()}")
