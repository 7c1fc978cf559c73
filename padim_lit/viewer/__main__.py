"""A page over results: ``python -m padim_lit.viewer FOLDER... [--out FILE]``."""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from padim_lit.errors import InputError
from padim_lit.report.html import assemble, asset
from padim_lit.system.atomic import write_text
from padim_lit.viewer.content import MEGABYTES, PICTURES, build

USAGE = "python -m padim_lit.viewer FOLDER... [--out viewer.html] [--pictures N] [--megabytes MB]"
SCRIPTS = ("maps.js", "runs.js", "threshold.js", "viewer.js")


def render(content: Mapping[str, Any]) -> str:
    """The page; its texts reach it as text, never as markup. `content` has no NaN."""
    return assemble(
        _asset("template.html"),
        asset("report.css") + _asset("viewer.css"),
        [asset("charts.js"), asset("tables.js"), *map(_asset, SCRIPTS)],
        content,
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print its usage on a line of its own.
        self.exit(2, f"error: {message}; usage: {USAGE}\n")


def main(words: Sequence[str] | None = None) -> None:
    """Write the page and print where it is; one line for an error."""
    parser = _Parser(prog="python -m padim_lit.viewer", usage=USAGE, description=__doc__)
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="folders with runs, at any depth"
    )
    parser.add_argument(
        "--out", type=Path, help="the file to write; viewer.html in the first FOLDER"
    )
    parser.add_argument(
        "--pictures", type=int, default=PICTURES, help=f"of a run, at most ({PICTURES})"
    )
    parser.add_argument(
        "--megabytes",
        type=float,
        default=MEGABYTES,
        help=f"of the file, about; pictures are left out to stay below ({MEGABYTES:g})",
    )
    given = parser.parse_args(words)
    try:
        _write(given)
    except (InputError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)


def _write(given: argparse.Namespace) -> None:
    if given.pictures < 0:
        raise InputError(f"--pictures {given.pictures}: a number of pictures; 0 for none")
    if not 0 < given.megabytes < math.inf:
        raise InputError(f"--megabytes {given.megabytes}: must be above 0")
    out = given.out or Path(given.folders[0]) / "viewer.html"
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; give the name of a file, such as viewer.html")
    content = build(given.folders, given.pictures, given.megabytes, _say)
    write_text(out, render(content))
    shown = [run["pictures"] for run in content["runs"] if run["pictures"]]
    pictures = sum(len(found["items"]) for found in shown)
    skipped = f", {len(content['skipped'])} skipped" if content["skipped"] else ""
    print(f"runs    {len(content['runs'])}{skipped}, {pictures} pictures")
    if left := sum(found["left"] for found in shown):
        print(f"left    {left} pictures out, see --pictures and --megabytes")
    print(f"viewer  {out.resolve()}")


def _asset(name: str) -> str:
    return files("padim_lit.viewer").joinpath("assets", name).read_text(encoding="utf-8")


def _say(text: str) -> None:
    print(" ".join(text.split()), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
