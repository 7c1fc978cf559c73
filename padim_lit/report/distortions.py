"""Read what experiment=distortion left: distortion.csv, and distortion.json on what it was."""

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from padim_lit.errors import InputError
from padim_lit.report.pictures import about, find

WORDS, WHOLE = ("proj", "quantity"), ("dim", "seed")


def read_distortions(
    paths: Iterable[str | os.PathLike], names: Mapping[Path, str]
) -> list[dict[str, Any]]:
    """Label, path and rows of every distortion.csv in or below `paths`.

    `names` are labels by resolved folder; others are named by what the folder says. Empty cells
    are None: a rank correlation belongs to distances alone.

    Raises:
        InputError: a file cannot be read; it names the line.
    """
    found = []
    for file in find(paths, "distortion.csv"):
        label = names.get(file.parent.resolve()) or about(file.parent)
        found.append({"label": label, "path": str(file), "rows": _read(file)})
    return found


def _read(file: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        with file.open(newline="", encoding="utf-8") as text:
            reader = csv.DictReader(text, strict=True)
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if None in row or None in row.values() or not {*WORDS, *WHOLE} <= row.keys():
                    raise InputError(f"{where}: columns are missing; run experiment=distortion")
                rows.append({key: _typed(key, value, where) for key, value in row.items()})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read ({error}); run experiment=distortion") from error
    return rows


def _typed(key: str, text: str, where: str) -> Any:
    if key in WORDS:
        return text
    if text == "" and key not in WHOLE:
        return None
    try:
        return int(text) if key in WHOLE else float(text)
    except ValueError as error:
        raise InputError(f"{where}: {key}={text!r} is not a number") from error
