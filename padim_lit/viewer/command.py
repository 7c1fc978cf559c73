"""A page over results: ``python -m padim_lit.viewer FOLDER... [--out FILE]``."""

from collections.abc import Sequence
from pathlib import Path

from padim_lit.errors import InputError
from padim_lit.system.atomic import write_text
from padim_lit.system.command_line import Parser, run
from padim_lit.system.console import count
from padim_lit.system.paths import typed_path
from padim_lit.viewer.content import build
from padim_lit.viewer.html import render


def main(words: Sequence[str] | None = None) -> None:
    """Write the page and print where it is; one line for an error."""
    parser = Parser("padim_lit.viewer", "Make one page over the runs in some folders.")
    parser.take_folders("FOLDER", "runs")
    parser.add_argument(
        "--out", type=typed_path, help="the file to write; viewer.html in the first FOLDER"
    )
    given = parser.parse_args(words)
    run(lambda: _write(given.folders, given.out or Path(given.folders[0]) / "viewer.html"))


def _write(folders: Sequence[str], out: Path) -> None:
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; give the name of a file, such as viewer.html")
    content = build(folders)
    write_text(out, render(content))
    every = [*content["runs"], *content["scored"]]
    pictures = sum(len(run["pictures"]["items"]) for run in every if run["pictures"])
    skipped = f", {len(content['skipped'])} skipped" if content["skipped"] else ""
    print(f"shown   {count(len(every), 'run')}{skipped}, {pictures} pictures")
    if left := content["left"]:
        print(f"left    {left} pictures out; a page over fewer folders has room for more")
    print(f"viewer  {out.resolve()}")
