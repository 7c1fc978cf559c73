"""What a checkpoint's state must look like before anything is built from it."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from padim_lit.digests import BYTES
from padim_lit.errors import InputError
from padim_lit.system.memory import available_bytes, readable
from padim_lit.system.torch_file import require_numbers
from padim_lit.system.torch_file import require_written as _require

# Pixels of an image that a model is built for; the largest backbones here would need 100 GB.
MOST_PIXELS = 2**26
# Bytes of memory for each pixel of one image, at least: ResNet18 takes 130, Lite0 290.
PIXEL_BYTES = 100
# Pixels between two positions of a backbone's own grid, along a side; 32 is what any here has.
MOST_STRIDE = 64
# What a fitted model's state holds, too.
_FITTED = ("mean", "layer_means", "scatter", "patches", "whitening", "digests", "calibration")
# What buffers count in, beside floats: BatchNorm's batches, or indices of a projection.
_COUNTS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def require_content(content: dict[str, Any], state: dict[str, Any], file_bytes: int) -> None:
    """Raise InputError unless types, shapes and values are those of a fitted model.

    Args:
        content: of the file.
        state: what lies in it under `padim_lit.checkpoint.format.KEY`, of the present version.
        file_bytes: the file's size. No tensor may be larger: a tensor of stride 0 takes nothing
            in a file and any amount of memory afterwards.
    """
    _require_spec(state["spec"])
    _require(isinstance(state["provenance"], dict), "provenance")
    _require_provenance(state["provenance"])
    weights = content["state_dict"]
    _require(isinstance(weights, dict), "state_dict")
    for name, tensor in weights.items():
        _require(isinstance(name, str) and isinstance(tensor, Tensor), f"state_dict: {name}")
        _require(tensor.is_floating_point() or tensor.dtype in _COUNTS, f"{name}: {tensor.dtype}")
        require_numbers(name, tensor, file_bytes)
    dim = state["spec"]["dim"]
    matrix = weights.get("projection.matrix")
    _require(
        matrix is not None and matrix.ndim == 2 and len(matrix) == dim, "projection.matrix missing"
    )
    _require(_is_int(state["count"]) and state["count"] >= 0, "count")
    if (roi := state["roi"]) is not None:
        right = isinstance(roi, Tensor) and roi.dtype == torch.bool
        _require(right and list(roi.shape) == list(state["spec"]["image_shape"]), "roi")
        require_numbers("roi", roi, file_bytes)
        _require(bool(roi.any()), "roi is empty")
    _require_memory(state["spec"]["image_shape"])
    if state["count"]:
        _require_gaussians(state, dim, file_bytes)
        _require_positions(state["spec"], len(state["mean"]))


def _require_memory(image_shape: Sequence[int]) -> None:
    """Raise InputError where one image of this shape would not fit: building a model runs one."""
    need, have = PIXEL_BYTES * math.prod(image_shape), available_bytes(torch.device("cpu"))
    if have is not None and need > have:
        h, w = image_shape
        raise InputError(
            f"its images are {h}×{w} pixels, which take at least {readable(need)} of memory, and "
            f"{readable(have)} are left; use a machine with more, or fit with smaller images"
        )


def _require_positions(spec: dict[str, Any], positions: int) -> None:
    # A grid of the user's own may be as coarse as it likes; a mixture has no position.
    if spec["density"] in ("position", "both") and not _is_int(spec["grid"]):
        pixels = math.prod(spec["image_shape"])
        _require(pixels <= positions * MOST_STRIDE**2, "spec: image_shape beside so few positions")


def _require_gaussians(state: dict[str, Any], dim: int, file_bytes: int) -> None:
    for key in _FITTED:
        _require(key in state, f"{key} missing")
    mean, images = state["mean"], state["digests"]
    wide = (torch.float32, torch.float64)
    _require(_floats(mean, 2) and mean.shape[1] == dim and mean.dtype in wide, "mean")
    require_numbers("mean", mean, file_bytes)
    layers = state["layer_means"]
    shape = (len(state["spec"]["backbone"]["layers"]), len(mean), dim)
    _require(_floats(layers, 3) and layers.shape == shape, "layer_means")
    require_numbers("layer_means", layers, file_bytes)
    for key in ("whitening", "scatter"):
        saved = state[key]
        if key == "scatter" and saved is None:  # of a slim checkpoint
            continue
        _require_triangle(key, saved, len(mean), dim)
        for band in [saved] if isinstance(saved, Tensor) else saved:
            require_numbers(key, band, file_bytes)
    if state["scatter"] is not None:
        counts = state["patches"]
        right = _floats(counts, 1) and counts.dtype == torch.float64 and len(counts) == len(mean)
        _require(right and bool((counts >= 0).all()), "patches")
        require_numbers("patches", counts, file_bytes)
    if images is not None:
        right = isinstance(images, Tensor) and images.dtype == torch.uint8
        _require(right and images.shape == (state["count"], BYTES), "digests")
    if state["calibration"] is not None:
        _require_calibration(state["calibration"])


def _require_triangle(key: str, saved: Any, positions: int, dim: int) -> None:
    if isinstance(saved, Tensor):  # packed
        packed = (positions, dim * (dim + 1) // 2)
        _require(_floats(saved, 2) and saved.shape == packed, key)
        return
    _require(isinstance(saved, list | tuple) and len(saved) > 0, key)
    start = 0
    for band in saved:
        _require(_floats(band, 3) and band.dtype == torch.float32, key)
        stop = band.shape[2]
        _require(band.shape == (positions, stop - start, stop) and stop > start, key)
        start = stop
    _require(start == dim, key)


def _require_calibration(calibration: Any) -> None:
    _require(isinstance(calibration, dict), "calibration")
    for key in ("scores", "map_maxima"):
        values = calibration.get(key)
        _require(_floats(values, 1), f"calibration: {key}")
        require_numbers(f"calibration: {key}", values)
        _require(bool((values[1:] >= values[:-1]).all()), f"calibration: {key} is not sorted")
    rate = calibration.get("false_alarm_rate")
    _require(_is_number(rate) and 0 < rate < 1, "calibration: false_alarm_rate")
    for key in ("threshold", "map_threshold"):
        value = calibration.get(key)
        _require(key in calibration and (value is None or _is_number(value)), f"calibration: {key}")
    for key in ("unreliable", "unseen"):
        _require(_is_int(calibration.get(key)), f"calibration: {key}")
    if calibration["threshold"] is None:
        return
    interval = calibration.get("interval")
    pair = isinstance(interval, list | tuple) and len(interval) == 2
    _require(pair and all(map(_is_number, interval)), "calibration: interval")
    _require(isinstance(calibration.get("method"), str), "calibration: method")
    _require(_is_number(calibration.get("level")), "calibration: level")


def _require_spec(spec: Any) -> None:
    _require(isinstance(spec, dict), "spec")
    backbone = spec.get("backbone")
    _require(isinstance(backbone, dict), "spec: backbone")
    _require_keys("spec: backbone", backbone, _BACKBONE)
    _require_keys("spec", {k: v for k, v in spec.items() if k != "backbone"}, _SPEC)


def _require_keys(where: str, found: dict, rules: dict[str, Callable[[Any], bool]]) -> None:
    strange = [key for key in found if key not in rules]
    _require(not strange, f"{where}: unknown {strange[:1]}")
    for key, rule in rules.items():
        _require(key in found and rule(found[key]), f"{where}: {key}")


def _require_provenance(provenance: dict[str, Any]) -> None:
    _require(all(isinstance(key, str) for key in provenance), "provenance")
    for key in ("image_size", "crop_size"):
        value = provenance.get(key)
        _require(value is None or _is_int(value) or _is_shape(value), f"provenance: {key}")
    _require(isinstance(provenance.get("history", []), list), "provenance: history")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return (_is_int(value) or isinstance(value, float)) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_shape(value: Any) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_int, value))
    return pair and min(value) > 0 and value[0] * value[1] <= MOST_PIXELS


def _floats(value: Any, dims: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim == dims


_BACKBONE = {
    # No place to fetch from, as timm's hf-hub:… and local-dir:… are.
    "model": lambda v: _is_text(v) and re.fullmatch(r"[\w.-]+", v) is not None,
    "layers": lambda v: isinstance(v, list) and all(map(_is_int, v)),
    "weights": _is_text,
    "feature_location": lambda v: v is None or _is_text(v),
    "name": _is_text,
    "mean": lambda v: isinstance(v, list) and all(map(_is_number, v)),
    "std": lambda v: isinstance(v, list) and all(map(_is_number, v)),
    "img_size": lambda v: v is None or _is_shape(v),
    "tiles": _is_shape,
}
_SPEC = {
    "proj": _is_text,
    "dim": lambda v: _is_int(v) and v > 0,
    "seed": lambda v: _is_int(v) and 0 <= v < 2**32,
    "proj_options": lambda v: isinstance(v, dict) and all(map(_is_text, v)),
    "density": _is_text,
    "density_options": lambda v: isinstance(v, dict) and all(map(_is_text, v)),
    "eps": lambda v: _is_number(v) and v >= 0,
    "eps_unit": _is_text,
    "neighbourhood": lambda v: _is_int(v) and v > 0,
    "grid": lambda v: v is None or v == "auto" or _is_int(v),
    "image_shape": _is_shape,
    "sigma": lambda v: _is_number(v) and v >= 0,
    "image_score": _is_text,
}
