"""A fitted detector as a checkpoint's content, and back."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padim_lit import digests
from padim_lit.checkpoint import format as checkpoint
from padim_lit.checkpoint.rounding import from_int8, to_int8
from padim_lit.errors import InputError, naming, refusing
from padim_lit.model.anomaly_map import AnomalyMap
from padim_lit.model.backbone import Backbone
from padim_lit.model.calibration import Calibration
from padim_lit.model.density import DENSITIES
from padim_lit.model.detector import Detector
from padim_lit.model.fit_state import FitState
from padim_lit.model.moments import Moments
from padim_lit.model.projection import PROJECTIONS
from padim_lit.model.region_of_interest import RestrictedMap
from padim_lit.model.triangular import Triangle
from padim_lit.model.weights import timm


def full_state(detector: Detector) -> dict[str, Any]:
    """Return what a file holds under `padim_lit.checkpoint.format.KEY`, beside the state dict."""
    state: dict[str, Any] = {
        "version": checkpoint.VERSION,
        "spec": spec_of(detector),
        "provenance": _plain(detector.provenance),
        "count": detector.count,
        "offset": list(detector.anomaly_map.offset),
        "roi": detector.anomaly_map.roi,
    }
    if detector.whitening is not None:
        fit, known = detector.fit_state, detector.calibration
        held = None if fit is None else fit.digests
        state |= {
            "mean": detector.mean,
            "layer_means": detector.layer_means,
            # The bands themselves: packing would need the memory of both once more.
            "whitening": list(detector.whitening.bands),
            "scatter": None if fit is None else list(fit.moments.scatter.bands),
            "patches": None if fit is None else fit.moments.counts,
            "digests": None if held is None else digests.ordered(held),
            "calibration": None if known is None else dict(vars(known)),
        }
    return state


def spec_of(detector: Detector) -> dict[str, Any]:
    """Return the arguments that a detector was made with, as primitives."""
    projection, density, aligned = detector.projection, detector.density, detector.alignment
    spec = {
        "backbone": detector.backbone.spec(),
        "proj": projection.name,
        "dim": projection.dim,
        "seed": projection.seed,
        "proj_options": projection.options,
        "density": density.name,
        "density_options": density.options,
        "eps": detector.ridge.eps,
        "eps_unit": detector.ridge.unit,
        "neighbourhood": detector.neighbourhood,
        "rotations": detector.rotations,
        "grid": detector.grid,
        "image_shape": list(detector.image_shape),
        "sigma": detector.sigma,
        "image_score": detector.image_score,
        "alignment": list(aligned) if isinstance(aligned, tuple) else aligned,
    }
    return _plain(spec)


def _plain(value: Any) -> Any:
    """Return `value` with Python's numbers in place of NumPy's, which `read` would refuse.

    Equal texts are one object: pickle writes it once, so that equal content is an equal file.
    """
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, str):
        return sys.intern(str(value))
    return value.item() if isinstance(value, np.generic) else value


def facts_of(detector: Detector) -> dict[str, Any]:
    """Return what a run's results say of a detector, under flat names."""
    backbone, spec = detector.backbone, spec_of(detector)
    for key in ("proj_options", "density_options", "image_shape"):
        del spec[key]
    return {
        **spec,
        **{name: round(value, 3) for name, value in detector.density.learnt.items()},
        "backbone": backbone.name,
        "weights": backbone.source,
        "weights_sha256": backbone.source_sha256,
        "grid": list(detector.map_grid),
        "map_offset": list(detector.anomaly_map.offset),
    }


def slim_state(detector: Detector, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return `full_state` for scoring alone: no scatter, no digests, whitening packed, in `dtype`.

    Args:
        detector: fitted.
        dtype: floating, or int8, see `to_int8`; with int8 the means are in float32.

    Raises:
        InputError: not fitted.
    """
    eight, whitening = dtype == torch.int8, detector.require_fitted()
    state = full_state(detector) | dict.fromkeys(("scatter", "patches", "digests"))
    state["whitening"] = packed = whitening.pack(None if eight else dtype)
    if eight:
        state["whitening"], state["scales"] = to_int8(packed)
        state["mean"] = detector.mean.float()
    return state


def save_detector(detector: Detector, path: Path, state: dict[str, Any] | None = None) -> None:
    """Write a detector's file, whole or not at all; `state` may be that of `slim_state`."""
    content = {"state_dict": detector.state_dict(), checkpoint.KEY: state or full_state(detector)}
    # Lightning takes no ckpt_path without its version; this is the first that is supported.
    checkpoint.write(path, {"pytorch-lightning_version": "2.5.0", **content})


def restore(
    detector: Detector, state: dict[str, Any], weights: dict[str, Tensor] | None = None
) -> None:
    """Give a detector what `full_state` returned.

    Args:
        detector: of the same config; changed.
        state: of `full_state`.
        weights: the state dict beside it; None: the detector has it already.

    Raises:
        InputError: another config's state.
    """
    if state["spec"] != spec_of(detector):
        wrong = checkpoint.differences(state["spec"], spec_of(detector))
        raise InputError(f"checkpoint of another config: {wrong}")
    detector.reset()
    if weights is not None:  # after `reset`: a fitted detector would refuse them
        detector.load_state_dict(weights)
    detector.provenance = state["provenance"]
    sides, roi = (detector.map_grid, detector.image_shape), state["roi"]
    whole = AnomalyMap(*sides, detector.sigma, tuple(state["offset"]))
    whole.to(detector.anomaly_map.rows.device)
    detector.anomaly_map = whole if roi is None else RestrictedMap(whole, roi)
    elsewhere = detector.provenance.get("learnt_elsewhere")  # from other images than the fit's
    for one in (detector.projection, detector.density):
        one.fit_images = 0 if elsewhere else one.fit_images or one.options.get("fit_images", 0)
    if not state["count"]:
        return
    detector.count, detector.mean = state["count"], state["mean"]
    detector.layer_means, saved = state["layer_means"], state["whitening"]
    if (known := state["calibration"]) is not None:
        detector.calibration = Calibration(**known)
    if not isinstance(saved, Tensor):
        detector.whitening = Triangle(tuple(saved))
    elif saved.dtype == torch.int8:  # packed, in a slim checkpoint, which has no scatter
        detector.whitening = from_int8(saved, state["scales"])
    else:
        detector.whitening = Triangle.unpack(saved, torch.float32)
    if state["scatter"] is not None:
        moments = Moments(state["patches"], detector.mean, Triangle(tuple(state["scatter"])))
        detector.fit_state = FitState(
            detector.count, moments, detector.layer_means, state["digests"]
        )


def load_detector(path: str | Path, key: str = "ckpt") -> Detector:
    """Rebuild a detector on the CPU from its file, without a download or running any code in it.

    Arguments and errors are those of `load_identified`.
    """
    return load_identified(path, key)[0]


def load_identified(path: str | Path, key: str = "ckpt") -> tuple[Detector, str]:
    """Do as `load_detector`, and return the file's `padim_lit.checkpoint.format.sha256_of`, too.

    Args:
        path: of the file.
        key: by which the file was given, for errors.

    Raises:
        InputError: no such file, not a checkpoint of padim_lit, or of another version.
    """
    content, todo = checkpoint.read(path, key), "give the model.ckpt of a finished run"
    # What `read` cannot find wrong fails here, where tensors do not fit the backbone.
    with naming(path, key), refusing("no model can be built from it", todo, Exception):
        return _built(content), content[checkpoint.SHA256]


def _built(content: dict[str, Any]) -> Detector:
    weights, state = content["state_dict"], content[checkpoint.KEY]
    spec = dict(state["spec"])
    within = "backbone.net."
    net = {k.removeprefix(within): v for k, v in weights.items() if k.startswith(within)}
    named = spec["backbone"]
    if not timm.is_model(model := named["model"]):
        raise InputError(
            f"made with the timm model {model}, which timm {timm.__version__} does not know; "
            "update timm, or, if it is your own, name it again on the command line: "
            f"{_named_again('backbone', named['name'])}"
        )
    backbone = Backbone(**spec.pop("backbone"), state=net)
    dim, seed = spec.pop("dim"), spec.pop("seed")

    def made(key: str, classes: Mapping[str, Any], *channels: int) -> Any:
        name, options = spec.pop(key), spec.pop(f"{key}_options")
        if name not in classes:
            raise InputError(
                f"made with {key}={name}, which is not known here; on the command line name it "
                f"again: {_named_again(key, name)}"
            )
        return classes[name](*channels, dim, seed, **options)

    projection = made("proj", PROJECTIONS, backbone.embedding_dim)
    density = made("density", DENSITIES)
    alignment, spec["alignment"] = spec["alignment"], None  # not measured: the state has the offset
    detector = Detector(backbone, projection, density=density, **spec)
    detector.alignment = alignment
    restore(detector, state, weights)
    return detector.eval()


def _named_again(key: str, name: str) -> str:
    """Return what to type, or to import, for a user's own class that a checkpoint needs."""
    return f"--config-dir DIR own=[PACKAGE] {key}={name}; in Python import its module first"
