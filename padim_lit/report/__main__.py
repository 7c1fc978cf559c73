"""Turn sweeps into one HTML file: ``python -m padim_lit.report SWEEP_DIR... [--out FILE]``."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from padim_lit.analysis.sweep_results import read_sweeps
from padim_lit.errors import InputError
from padim_lit.report import figures
from padim_lit.report.content import describe, finite
from padim_lit.report.distortions import read_distortions
from padim_lit.report.html import render
from padim_lit.report.pictures import PICTURES, embed, find
from padim_lit.system.atomic import write_bytes, write_text

USAGE = "python -m padim_lit.report SWEEP_DIR... [--out report.html]"


def build(paths: Sequence[str | os.PathLike]) -> dict[str, Any]:
    """The content of a report on every sweep, distortion and picture in or below `paths`.

    Raises:
        InputError: no sweep is there, or a file cannot be read.
    """
    sweeps = read_sweeps(paths)
    configurations = sum(len(sweep.rows) for sweep in sweeps)
    _say(f"{len(sweeps)} sweeps, {configurations} configurations: fits, intervals, verdicts ...")
    content = describe(sweeps)
    pictures = [(file, shows) for name, shows in PICTURES.items() for file in find(paths, name)]
    if pictures:
        _say(f"{len(pictures)} pictures ...")
    content["pictures"], left = embed(pictures)
    content["warnings"] += left
    content["command"] = f"python -m padim_lit.report {shlex.join(map(str, paths))}"
    names = {s.path.resolve(): f"{s.data}, {s.backbone}" for s in sweeps}
    content["distortions"] = finite(read_distortions(paths, names))
    return content


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print its usage on a line of its own.
        self.exit(2, f"error: {message}; usage: {USAGE}\n")


def main(words: Sequence[str] | None = None) -> None:
    """Write the report and its figures, and print where they are; one line for an error."""
    parser = _Parser(prog="python -m padim_lit.report", usage=USAGE, description=__doc__)
    parser.add_argument(
        "folders", nargs="+", metavar="SWEEP_DIR", help="folders with sweeps, at any depth"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("report.html"),
        help="the file to write (report.html); its figures go to a folder beside it",
    )
    given = parser.parse_args(words)
    try:
        _write(given.folders, given.out)
    except (InputError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)


def _write(folders: Sequence[str], out: Path) -> None:
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; give the name of a file, such as report.html")
    content = build(folders)
    _say("figures ...")
    beside = out.with_name(f"{out.stem}_figures")
    drawn = figures.draw(content)
    page = render(content)
    for name, picture in drawn.items():
        write_bytes(beside / name, picture)
    # Last: a report that is there has its figures.
    write_text(out, page)
    print(f"figures  {beside.resolve()} ({len(drawn)} files)")
    print(f"report   {out.resolve()}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
