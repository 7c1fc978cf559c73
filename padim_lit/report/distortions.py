"""Read what experiment=distortion left: distortion.json, its rows and what it was."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from padim_lit.analysis.result_files import read_distortion
from padim_lit.report.pictures import about, find


def read_distortions(
    paths: Iterable[str | os.PathLike], names: Mapping[Path, str]
) -> list[dict[str, Any]]:
    """Label, path and rows of every distortion.json in or below `paths`.

    `names` are labels by resolved folder; others are named by what the folder says.

    Raises:
        InputError: a file cannot be read; it is named.
    """
    found = []
    for file in find(paths, "distortion.json"):
        label = names.get(file.parent.resolve()) or about(file.parent)
        found.append({"label": label, "path": str(file), "rows": read_distortion(file)})
    return found
