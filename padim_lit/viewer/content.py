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
from padim_lit.viewer.folders import APART, describe_run, describe_scored
from padim_lit.viewer.pictures import encode_pictures
from padim_lit.visualization.palette import DISTANCES, FOUND, TRUTH

#: Pictures of a run and of a folder of scored images, and bytes of all of them, at most.
PICTURES, SCORED_PICTURES, BYTES = 24, 200, 30_000_000


def build(paths: Sequence[str | os.PathLike], budget: int = BYTES) -> dict[str, Any]:
    """The content of a page over every run and all scored images in or below `paths`.

    Each run that cannot be read is skipped, with a line on it. Pictures take `budget` bytes at
    most, as many for each folder.

    Raises:
        InputError: no run is there, or none can be read.
    """
    fits = [file.parent for file in find(paths, "metrics.json")]
    folders = [*fits, *(file.parent for file in find(paths, "predictions.jsonl"))]
    if not folders:
        raise InputError(
            f"no run (metrics.json or predictions.jsonl) in {', '.join(map(str, paths))}; make one "
            "with `python run.py`, or give another folder"
        )
    # What names of runs start from: of one run, the folder around it.
    whole = [folder.resolve() for folder in folders]
    try:
        root = Path(os.path.commonpath(whole))
    except ValueError:  # Windows' have no folder in common
        root = Path("several drives")
    root = root.parent if len(folders) == 1 else root
    runs: list[dict[str, Any]] = []
    scored: list[dict[str, Any]] = []
    skipped: list[str] = []
    for at, folder in enumerate(folders):
        is_fit, name = at < len(fits), whole[at]
        name = str(name.relative_to(root) if root.anchor else name)
        most = PICTURES if is_fit else SCORED_PICTURES
        try:
            with reading(folder, OSError, *BROKEN):
                if is_fit:
                    described, entries, unread = *describe_run(folder, name), 0
                else:
                    described, entries, unread = describe_scored(folder, name, most)
                shown = entries and encode_pictures(entries, most, budget // len(folders))
                to_script([described, shown])  # NaN, which no page can hold, costs its folder alone
        except InputError as error:
            skipped.append(str(error))
            say(f"skipped: {error}")
            continue
        if shown:
            shown["left"] += unread
        missing = 0 if shown else unread
        (runs if is_fit else scored).append(
            {**described, "pictures": shown or None, "left": missing}
        )
    groups = _group(runs)
    if not runs and not scored:
        raise InputError(skipped[0])
    return {
        "runs": runs,
        "scored": scored,
        "groups": labels([SweepFolder(root, (), settings) for settings in groups], APART),
        # Of a map from low to high, 256 times six hexadecimal digits.
        "colours": colormaps[DISTANCES](range(256), bytes=True)[:, :3].tobytes().hex(),
        "found": FOUND,
        "truth": TRUTH,
        "skipped": skipped,
        "left": sum((run["pictures"] or run)["left"] for run in [*runs, *scored]),
        "root": str(root),
        "version": __version__,
    }


def _group(runs: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Number the groups of `runs` ("group", in place of their settings); the settings of each.

    A split that follows the seed, as it does by default, makes no group of its own. One does where
    the same seed ran on several splits.
    """
    splits: dict[tuple, set[str]] = {}
    for run in runs:
        one = (tuple(run["group"].items()), run["proj"], run["dim"], run["seed"])
        splits.setdefault(one, set()).add(run["split_seed"])
    apart = {settings for (settings, *_), found in splits.items() if len(found) > 1}
    groups: list[dict[str, str]] = []
    for run in runs:
        split = run.pop("split_seed")
        if tuple(run["group"].items()) in apart:
            run["group"] |= {"split_seed": split}
        if run["group"] not in groups:
            groups.append(run["group"])
        run["group"] = groups.index(run["group"])
    return groups
