"""ckpt=: a test takes what was not typed from the checkpoint, so that nobody remembers its keys."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hydra.conf import HydraConf

from padim_lit.checkpoint.format import KEY, read
from padim_lit.cli.build import FACT_KEYS
from padim_lit.cli.config import CONF
from padim_lit.cli.settings import Settings
from padim_lit.model.backbone import Backbone
from padim_lit.model.density import DENSITIES
from padim_lit.model.projection import PROJECTIONS

if TYPE_CHECKING:
    from padim_lit.cli.modes.fit import Fit

S = TypeVar("S", bound=Settings)


def as_fitted(settings: S, hydra: HydraConf) -> S:
    """Return the settings; those of a test with the checkpoint's for all that was not typed.

    What was typed, or is said by an experiment or another config than the package's, is compared
    later, by name.
    """
    if settings.fits:
        return settings
    files = [Path(one.path) for one in hydra.runtime.config_sources if one.provider == "main"]
    if files != [CONF] or hydra.runtime.choices["experiment"] not in (None, "null"):
        return settings
    typed = {word.lstrip("+~").partition("=")[0] for word in hydra.overrides.task}
    return replace(settings, **_of_checkpoint(settings, typed))  # type: ignore[arg-type]


def _of_checkpoint(settings: "Fit", typed: set[str]) -> dict[str, Any]:
    saved = read(settings.ckpt or "")[KEY]
    spec, about = saved["spec"], saved["provenance"]
    sizes = {key: about[key] for key in ("image_size", "crop_size") if key in about}
    plain = {key: spec[key] for key in ("dim", "seed", "grid", *FACT_KEYS)}
    plain |= {**sizes, "tiles": spec["backbone"]["tiles"]}
    found = {key: value for key, value in plain.items() if key not in typed}
    nodes = {
        # Its weights lie in the checkpoint; these are what the fit was given.
        "backbone": (Backbone, {**spec["backbone"], "weights": about.get("weights")}),
        "proj": (PROJECTIONS.get(spec["proj"]), spec["proj_options"]),
        "density": (DENSITIES.get(spec["density"]), spec["density_options"]),
    }
    for group, (kind, options) in nodes.items():
        if group in typed or kind is None:  # one of the user's own, which is named when it is read
            continue
        given = {key: value for key, value in getattr(settings, group).items()
                 if f"{group}.{key}" in typed}  # fmt: skip
        node = {**options, "_target_": f"{kind.__module__}.{kind.__qualname__}", **given}
        found[group] = {key: value for key, value in node.items() if key != "tiles"}
    drawn = about.get("split_seed") is not None and "split_seed" in settings.data
    if drawn and not typed & {"seed", "data.split_seed"}:
        found["data"] = settings.data | {"split_seed": about["split_seed"]}
    return found
