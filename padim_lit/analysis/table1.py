"""What stands beside what: projections, or sweeps that differ in one key, category by category."""

from collections.abc import Sequence

from padim_lit.analysis.published import MEAN, averages
from padim_lit.analysis.sweep_results import (
    INCIDENTAL,
    SAME_IMAGES,
    SETTINGS,
    SweepFolder,
    joined,
    mean_of,
    same,
)
from padim_lit.errors import InputError

#: The projection that others are compared with.
BASE = "subset"
#: Settings that follow from others, such as the backbone.
_FOLLOWING = ("weights", "embedding_dim", "grid", "layers")


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


def base_of(sweeps: Sequence[SweepFolder], typed: str | None) -> tuple[str, str]:
    """Return the key and the value that others are compared with, as `typed` or by default.

    Raises:
        InputError: no sweep has it.
    """
    keys = ("backbone", *SETTINGS, *(key for sweep in sweeps for key in sweep.typed), *_FOLLOWING)
    # What follows comes last, so that by default it is what was swept.
    order = sorted(dict.fromkeys(keys), key=lambda key: key in _FOLLOWING)
    found = {"proj": list(dict.fromkeys(proj for sweep in sweeps for proj in sweep.projs))}
    for key in order:
        twin = "." in key and key.replace(".", "/") in keys  # as typed, beside what results have
        if key not in SAME_IMAGES and not INCIDENTAL.match(key) and not twin:
            found[key] = list(dict.fromkeys(str(s.constants.get(key)) for s in sweeps))
    found = {key: values for key, values in found.items() if len(values) > 1}
    if typed is None:
        key, values = next(iter(found.items()), ("proj", [BASE]))
        return key, next(one for one in (BASE, "jl", values[0]) if one in values)
    name, _, value = typed.rpartition("=")
    for key in (name or "proj", name.replace(".", "/")):  # as typed, or as results have it
        if value in found.get(key, ()):
            return key, value
    known = ", ".join(f"{key}={one}" for key, values in found.items() for one in values)
    raise InputError(f"--versus {typed}: not among what these sweeps vary: {known or 'nothing'}")


def with_base(
    sweep: SweepFolder, sweeps: Sequence[SweepFolder], key: str, value: str
) -> tuple[SweepFolder, str]:
    """Add the one sweep that differs in `key` alone, which has `value`; and what names it there."""
    own, name = f"{key.replace('/', '.')}.", f"{key}={value}: "
    known = {"backbone", *SETTINGS, *SAME_IMAGES, *sweep.typed}
    known = {k for k in known if not f"{k.replace('/', '.')}.".startswith(own)}
    others = [s for s in sweeps if str(s.constants.get(key)) == value]
    for alike in (known, known - {*_FOLLOWING}) if sweep not in others else ():
        keys = [k for k in alike if not INCIDENTAL.match(k)]
        if len(found := [s for s in others if all(same(s, sweep, k) for k in keys)]) == 1:
            return joined(sweep, found[0], name), name
    return sweep, name
