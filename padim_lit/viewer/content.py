"""What the page shows, as plain containers: fits, what they share, scored images, pictures."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps

from padim_lit.analysis.result_files import BROKEN, find, reading
from padim_lit.analysis.sweep_results import SweepFolder, labels
from padim_lit.errors import InputError
from padim_lit.report.page import to_script
from padim_lit.system.command_line import say
from padim_lit.version import __version__
from padim_lit.viewer.folders import SETTINGS_APART, describe_run, describe_scored, short_names
from padim_lit.viewer.pictures import encode_pictures
from padim_lit.visualization.palette import DISTANCES, FOUND, TRUTH
from padim_lit.visualization.panels import CONTRAST, MID_GREY, OPACITY

#: Pictures of a run and of a folder of scored images, and bytes of all of them, at most.
PICTURES, SCORED_PICTURES, BYTES = 24, 200, 30_000_000


def build(paths: Sequence[str | os.PathLike], budget: int = BYTES) -> dict[str, Any]:
    """Return the content of a page over every run and all scored images in or below `paths`.

    Each run that cannot be read is skipped, with a line on it. Pictures take `budget` bytes at
    most, as many for each folder.

    Raises:
        InputError: no run is there, or none can be read.
    """
    runs: list[dict[str, Any]] = []
    scored: list[dict[str, Any]] = []
    kinds = (
        ("metrics.json", describe_run, PICTURES, runs),
        ("predictions.jsonl", describe_scored, SCORED_PICTURES, scored),
    )
    found = [(file.parent, *kind) for name, *kind in kinds for file in find(paths, name)]
    if not found:
        raise InputError(
            f"no run (metrics.json or predictions.jsonl) in {', '.join(map(str, paths))}; make one "
            "with `padim-lit` or `python run.py`, or give another folder"
        )
    names = short_names([str(folder.resolve()) for folder, *_ in found])
    skipped: list[str] = []
    for name, (folder, describe, most, shown) in zip(names, found, strict=True):
        try:
            with reading(folder, OSError, *BROKEN):
                described, pictures, left = describe(folder, most)
                described |= {"name": name, "left": left, "pictures": None}
                if pictures:
                    drawn = encode_pictures(pictures, most, budget // len(found))
                    drawn["scale"] = described["scale"] or drawn["scale"]
                    described |= {"pictures": drawn, "left": left + drawn.pop("left")}
                to_script(described)  # NaN, which no page can hold, costs its folder alone
        except InputError as error:
            skipped.append(str(error))
            say(f"skipped: {error}")
            continue
        shown.append(described)
    groups: list[dict[str, str]] = []
    for run in runs:
        if run["group"] not in groups:
            groups.append(run["group"])
        run["group"] = groups.index(run["group"])
    if not runs and not scored:
        raise InputError(skipped[0])
    return {
        "runs": runs,
        "scored": scored,
        "groups": labels(
            [SweepFolder(Path(), (), settings) for settings in groups], SETTINGS_APART
        ),
        # Of a map from low to high, 256 times six hexadecimal digits.
        "colours": colormaps[DISTANCES](range(256), bytes=True)[:, :3].tobytes().hex(),
        "opacity": float(OPACITY),
        "contrast": float(CONTRAST),
        "mid_grey": float(MID_GREY),
        "found": FOUND,
        "truth": TRUTH,
        "skipped": skipped,
        "left": sum(run["left"] for run in [*runs, *scored]),
        "folders": ", ".join(map(str, paths)),
        "version": __version__,
    }
