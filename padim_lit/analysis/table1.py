"""What Table 1 of the JL report is about: a projection against selection, category by category."""

from collections.abc import Sequence

from padim_lit.analysis.published import MEAN, averages
from padim_lit.analysis.sweep_results import SETTINGS, SweepFolder, mean_of

#: The projection that others are compared with.
BASE = "subset"


def short(metric: str) -> str:
    """Return a metric's name in files and on pages: "image_auroc" for "test/image_auroc"."""
    return metric.removeprefix("test/")


def category(sweep: SweepFolder) -> str:
    """Return MVTec's category, "screw" for "mvtec/screw"; for other data the whole name."""
    return sweep.data.removeprefix("mvtec/")


def with_means(sweeps: Sequence[SweepFolder]) -> list[tuple[SweepFolder, list[str]]]:
    """Return each sweep, then the means over MVTec's categories for each backbone and settings.

    Beside each are the categories in it. There are no means where a category was measured twice.
    """
    groups: dict[tuple[str, ...], dict[str, list[SweepFolder]]] = {}
    for sweep in sweeps:
        if sweep.data.startswith("mvtec/"):
            settings = tuple(str(sweep.constants.get(key)) for key in ("backbone", *SETTINGS))
            groups.setdefault(settings, {}).setdefault(category(sweep), []).append(sweep)
    found = [(sweep, [category(sweep)]) for sweep in sweeps]
    for members in groups.values():
        if all(len(alike) == 1 for alike in members.values()):
            for name, names in averages(list(members)).items():
                title = f"mean of {len(names)} MVTec {'categories' if name == MEAN else name}"
                found.append((mean_of([members[one][0] for one in names], title), names))
    return found
