"""What a checkpoint's state must look like before anything is built from it."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from padim_lit.checkpoint.rounding import SCALE
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
# Lists in lists of what a checkpoint says of its fit; a history has three.
MOST_NESTED = 32
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
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

    def require(name: str, tensor: Any, shape: Sequence[int] | None, *dtypes: torch.dtype) -> None:
        _require(isinstance(tensor, Tensor) and tensor.dtype in dtypes, name)
        _require(shape is None or tuple(tensor.shape) == tuple(shape), name)
        require_numbers(name, tensor, file_bytes)

    spec, weights = state["spec"], content["state_dict"]
    for key in ("spec", "provenance"):
        _require(_is_tree(state[key]), f"{key}: its lists are nested without an end")
    _require_keys("spec", spec, _SPEC)
    _require_provenance(state["provenance"])
    _require(_is_named(weights), "state_dict")
    for name, tensor in weights.items():
        require(name, tensor, None, *_FLOATS, *_COUNTS)
    dim, matrix = spec["dim"], weights.get("projection.matrix")
    right = matrix is not None and matrix.ndim == 2 and len(matrix) == dim
    _require(right, "projection.matrix missing")
    components = spec["density_options"].get("components")
    if components is not None and spec["density"] in ("both", "mixture"):
        rows = [len(x) for name, x in weights.items() if name.endswith(".centroids") and x.ndim]
        _require(rows == [components], "density_options: components")
    _require(_is_int(state["count"]) and state["count"] >= 0, "count")
    _require(_is_pair(offset := state.get("offset")), "offset")
    sides = zip(offset, spec["image_shape"], strict=True)
    _require(all(abs(pixels) <= side / 2 for pixels, side in sides), "offset")
    if (roi := state["roi"]) is not None:
        require("roi", roi, spec["image_shape"], torch.bool)
        _require(bool(roi.any()), "roi is empty")
    _require_memory(spec["image_shape"])
    if not state["count"]:
        return
    for key in ("mean", "layer_means", "scatter", "patches", "whitening", "digests", "calibration"):
        _require(key in state, f"{key} missing")
    mean = state["mean"]
    require("mean", mean, None, torch.float32, torch.float64)
    _require(mean.ndim == 2 and mean.shape[1] == dim, "mean")
    positions = len(mean)
    shape = (len(spec["backbone"]["layers"]), positions, dim)
    require("layer_means", state["layer_means"], shape, *_FLOATS)
    if isinstance(whitening := state["whitening"], Tensor):  # packed
        shape = (positions, dim * (dim + 1) // 2)
        require("whitening", whitening, shape, torch.int8, *_FLOATS)
        if whitening.dtype == torch.int8:
            require("scales", state.get("scales"), (positions, dim), SCALE)
    else:
        _require_bands("whitening", whitening, positions, dim, require)
    if state["scatter"] is not None:  # of a slim checkpoint it is
        _require_bands("scatter", state["scatter"], positions, dim, require)
        require("patches", state["patches"], (positions,), torch.float64)
        _require(bool((state["patches"] >= 0).all()), "patches")
    if state["digests"] is not None:
        require("digests", state["digests"], (state["count"], BYTES), torch.uint8)
    if state["calibration"] is not None:
        _require_calibration(state["calibration"])
    # A grid of the user's own may be as coarse as it likes; a mixture has no position.
    if spec["density"] in ("position", "both") and not _is_int(spec["grid"]):
        right = math.prod(spec["image_shape"]) <= positions * MOST_STRIDE**2
        _require(right, "spec: image_shape beside so few positions")


def _require_memory(image_shape: Sequence[int]) -> None:
    """Raise InputError where one image of this shape would not fit: building a model runs one."""
    need, have = PIXEL_BYTES * math.prod(image_shape), available_bytes(torch.device("cpu"))
    if have is not None and need > have:
        h, w = image_shape
        raise InputError(
            f"its images are {h}×{w} pixels, which take at least {readable(need)} of memory, and "
            f"{readable(have)} are left; use a machine with more, or fit with smaller images"
        )


def _require_bands(key: str, saved: Any, positions: int, dim: int, require: Callable) -> None:
    _require(isinstance(saved, list | tuple), key)
    start = 0
    for band in saved:
        _require(isinstance(band, Tensor) and band.ndim == 3 and band.shape[2] > start, key)
        stop = band.shape[2]
        require(key, band, (positions, stop - start, stop), torch.float32)
        start = stop
    _require(start == dim, key)


def _require_calibration(calibration: Any) -> None:
    _require_keys("calibration", calibration, _CALIBRATION)
    for key in ("scores", "map_maxima"):
        values = calibration[key]
        require_numbers(f"calibration: {key}", values)
        _require(bool((values[1:] >= values[:-1]).all()), f"calibration: {key} is not sorted")
    if calibration["threshold"] is not None:
        for key in ("interval", "method"):
            _require(calibration[key] is not None, f"calibration: {key}")


def _require_keys(where: str, found: Any, rules: Mapping[str, Any]) -> None:
    """Raise InputError unless `found` is a dict of just these keys, with what their rules allow."""
    _require(isinstance(found, dict), where)
    strange = [key for key in found if key not in rules]
    _require(not strange, f"{where}: unknown {strange[:1]}")
    for key, rule in rules.items():
        if isinstance(rule, dict):
            _require_keys(f"{where}: {key}", found.get(key), rule)
        else:
            _require(key in found and rule(found[key]), f"{where}: {key}")


def _require_provenance(provenance: Any) -> None:
    _require(_is_named(provenance), "provenance")
    for key in ("image_size", "crop_size"):
        value = provenance.get(key)
        _require(value is None or _is_int(value) or _is_shape(value), f"provenance: {key}")
    _require(isinstance(provenance.get("history", []), list), "provenance: history")
    _require(_list_of(_is_hex)(provenance.get("removed", [])), "provenance: removed")


def _is_tree(value: Any) -> bool:
    """Whether no list, tuple or dict is in it twice, or deep in others.

    It is copied and written as a tree, and [x,x] of [x,x] of … would take no end.
    """
    seen: set[int] = set()
    level = [value]
    for _ in range(MOST_NESTED):
        level = [part for part in level if isinstance(part, dict | list | tuple) and part]
        if not level:
            return True
        new = set(map(id, level))
        if len(new) < len(level) or new & seen:
            return False
        seen |= new
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        level = [one for some in parts for one in some]
    return False


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return (_is_int(value) or isinstance(value, float)) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_hex(value: Any) -> bool:
    return _is_text(value) and re.fullmatch("([0-9a-f]{2})*", value) is not None


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))


def _is_shape(value: Any) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_int, value))
    return pair and min(value) > 0 and value[0] * value[1] <= MOST_PIXELS


def _is_row(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 1


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value))


def _list_of(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(map(rule, value))


def _optional(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or rule(value)


_BACKBONE = {
    # No place to fetch from, as timm's hf-hub:… and local-dir:… are.
    "model": lambda v: _is_text(v) and re.fullmatch(r"[\w.-]+", v) is not None,
    "layers": _list_of(_is_int),
    "weights": _is_text,
    "feature_location": _optional(_is_text),
    "name": _is_text,
    "mean": _list_of(_is_number),
    "std": _list_of(_is_number),
    "img_size": _optional(_is_shape),
    "tiles": _is_shape,
}
_SPEC = {
    "backbone": _BACKBONE,
    "proj": _is_text,
    "dim": lambda v: _is_int(v) and v > 0,
    "seed": lambda v: _is_int(v) and 0 <= v < 2**32,
    "proj_options": _is_named,
    "density": _is_text,
    "density_options": _is_named,
    "eps": lambda v: _is_number(v) and v >= 0,
    "eps_unit": _is_text,
    "neighbourhood": lambda v: _is_int(v) and v > 0,
    "rotations": lambda v: _is_int(v) and v > 0,
    "grid": lambda v: v is None or v == "auto" or _is_int(v),
    "image_shape": _is_shape,
    "sigma": lambda v: _is_number(v) and v >= 0,
    "image_score": _is_text,
    "alignment": lambda v: v is None or v == "auto" or _is_pair(v),
}
_CALIBRATION = {
    "scores": _is_row,
    "map_maxima": _is_row,
    "unreliable": _is_int,
    "unseen": _is_int,
    "false_alarm_rate": lambda v: _is_number(v) and 0 < v < 1,
    "threshold": _optional(_is_number),
    "map_threshold": _optional(_is_number),
    "method": _optional(_is_text),
    "interval": _optional(lambda v: _list_of(_is_number)(v) and len(v) == 2),
    "level": _is_number,
    "why": _optional(_is_text),
}
