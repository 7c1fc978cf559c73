"""Checks of a checkpoint's content, made before anything is built from it."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

import torch
from torch import Tensor

from padim_lit.checkpoint.rounding import SCALE_DTYPE
from padim_lit.digests import BYTES
from padim_lit.errors import InputError, refusing
from padim_lit.model.calibration import Calibration
from padim_lit.system.memory import available_bytes, readable
from padim_lit.system.torch_file import require_numbers

# The most pixels of an image: for so many the largest backbones here would need 100 GB.
MOST_PIXELS = 2**26
# Bytes of memory for each pixel of one image, at least: ResNet18 takes 130, Lite0 290.
PIXEL_BYTES = 100
# The most pixels between two positions of a backbone's own grid, along a side; here it is 32.
MOST_STRIDE = 64
# Levels of lists in lists in what a checkpoint says of its fit, and parts of one; a history has
# three, and a part for each image removed.
MOST_NESTED = 32
MOST_PARTS = 10**6
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Other dtypes of buffers: BatchNorm counts batches, a projection may hold indices.
_COUNTS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_STRANGE = "its content is not what padim_lit writes"
_TODO = "give the model.ckpt of a finished run"


def require_content(content: dict[str, Any], state: dict[str, Any], file_bytes: int) -> None:
    """Raise InputError for content that would take endless memory or time, or score wrongly.

    Arguments of classes are checked by these, when `padim_lit.checkpoint.state` makes them.

    Args:
        content: of the file.
        state: what lies in it under `padim_lit.checkpoint.format.KEY`, of the present version.
        file_bytes: the file's size. No tensor may be larger: one of stride 0 takes no room in a
            file, and any amount of memory afterwards.
    """

    def require(name: str, tensor: Any, shape: Sequence[int] | None, *dtypes: torch.dtype) -> None:
        _require(isinstance(tensor, Tensor) and tensor.dtype in dtypes, name)
        _require(shape is None or tuple(tensor.shape) == tuple(shape), name)
        _require(tensor.layout == torch.strided, f"{name}: layout")
        size = tensor.numel() * tensor.element_size()
        _require(size <= file_bytes, f"{name} is larger than the file")
        require_numbers(name, tensor)

    with refusing(_STRANGE, _TODO, Exception):  # of a missing key, say
        for name, tensor in content["state_dict"].items():
            require(name, tensor, None, *_FLOATS, *_COUNTS)
        _require_described(content["state_dict"], state)
        if state["roi"] is not None:
            require("roi", state["roi"], state["spec"]["image_shape"], torch.bool)
        if state["count"]:
            _require_fit(state, require)


def _require_described(weights: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Check what a checkpoint holds of every detector, fitted or not."""
    spec, provenance = state["spec"], state["provenance"]
    for key in ("spec", "provenance"):
        _require(_is_small(state[key]), f"{key}: its lists are nested without an end")
    for key, kind in _SPEC.items():
        _require(isinstance(spec[key], kind), f"spec: {key}")
    for key in ("weights", "name"):
        _require(isinstance(spec["backbone"][key], str), f"spec: backbone: {key}")
    aligned = spec["alignment"]
    right = _is_pair(aligned, int, float) or aligned in (None, "auto")
    _require(right, "spec: alignment")
    # A name only: timm would fetch hf-hub:… and local-dir:….
    named = re.fullmatch(r"[\w.-]+", spec["backbone"]["model"])
    _require(named is not None, "spec: backbone: model")
    shape, offset = spec["image_shape"], state["offset"]
    right = _is_pair(shape, int) and min(shape) > 0 and math.prod(shape) <= MOST_PIXELS
    _require(right, "spec: image_shape")
    right = _is_pair(offset, int, float)
    right = right and all(abs(o) <= side / 2 for o, side in zip(offset, shape, strict=True))
    _require(right, "offset")
    _require_memory(shape)
    _require(len(weights["projection.matrix"]) == spec["dim"], "projection.matrix")
    components = spec["density_options"].get("components")
    if components is not None and spec["density"] in ("both", "mixture"):
        rows = [len(x) for name, x in weights.items() if name.endswith(".centroids")]
        _require(rows == [components], "density_options: components")
    _require(type(state["count"]) is int and state["count"] >= 0, "count")
    _require(isinstance(provenance.get("history", []), list), "provenance: history")
    for digest in provenance.get("removed", []):
        bytes.fromhex(digest)


def _require_fit(state: dict[str, Any], require: Callable) -> None:
    """Check what a checkpoint holds after a fit; `require` is `require_content`'s."""
    spec, dim, mean = state["spec"], state["spec"]["dim"], state["mean"]
    positions = len(mean)
    require("mean", mean, (positions, dim), torch.float32, torch.float64)
    shape = (len(spec["backbone"]["layers"]), positions, dim)
    require("layer_means", state["layer_means"], shape, *_FLOATS)
    if isinstance(whitening := state["whitening"], Tensor):  # packed
        shape = (positions, dim * (dim + 1) // 2)
        require("whitening", whitening, shape, torch.int8, *_FLOATS)
        if whitening.dtype == torch.int8:
            require("scales", state["scales"], (positions, dim), SCALE_DTYPE)
    else:
        _require_bands("whitening", whitening, positions, dim, require)
    if state["scatter"] is not None:  # a slim checkpoint has none
        _require_bands("scatter", state["scatter"], positions, dim, require)
        require("patches", state["patches"], (positions,), torch.float64)
        _require(bool((state["patches"] >= 0).all()), "patches")
    if state["digests"] is not None:
        require("digests", state["digests"], (state["count"], BYTES), torch.uint8)
    if state["calibration"] is not None:
        _require_calibration(Calibration(**state["calibration"]), require)
    # A grid of the user's own may be as coarse as it likes; a mixture has no position.
    if spec["density"] in ("position", "both") and not isinstance(spec["grid"], int):
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
    start = 0
    for band in saved:
        stop = band.shape[-1]
        _require(stop > start, key)
        require(key, band, (positions, stop - start, stop), torch.float32)
        start = stop
    _require(start == dim, key)


def _require_calibration(calibration: Calibration, require: Callable) -> None:
    for key in ("scores", "map_maxima"):
        values = getattr(calibration, key)
        require(f"calibration: {key}", values, (len(values),), torch.float32)
        right = len(values) > 0 and bool((values[1:] >= values[:-1]).all())
        _require(right, f"calibration: {key} is empty or not sorted")
    for key, kind in _CALIBRATION.items():
        value = getattr(calibration, key)
        finite = not isinstance(value, float) or math.isfinite(value)
        _require(isinstance(value, kind) and finite, f"calibration: {key}")
    chosen = calibration.threshold, calibration.method, calibration.interval  # all or none
    low, high = (0, 1) if calibration.interval is None else calibration.interval
    _require(chosen.count(None) in (0, 3) and 0 <= low <= high <= 1, "calibration: interval")


def _is_small(value: Any) -> bool:
    """Whether lists, tuples and dicts in `value` end within `MOST_NESTED` levels of `MOST_PARTS`.

    It is written as a tree: that of [x,x], x = [y,y], y = … doubles with each level.
    """
    level = [value]
    for _ in range(MOST_NESTED):
        level = [part for part in level if isinstance(part, dict | list | tuple)]
        if sum(map(len, level)) > MOST_PARTS:
            return False
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        level = [one for some in parts for one in some]
    return not level


def _is_pair(value: Any, *kinds: type) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2
    return pair and all(type(one) in kinds for one in value)


def _require(right: bool, what: str) -> None:
    """Raise InputError unless `right`; it says that `what` is not as padim_lit writes it."""
    if not right:
        raise InputError(f"{_STRANGE} ({what}); {_TODO}")


#: Types of arguments that classes only compare with a limit.
_SPEC = {
    "seed": int,
    "neighbourhood": int,
    "rotations": int,
    "eps": int | float,
    "sigma": int | float,
}
#: Of a calibration's fields, what they may be; `isinstance` takes no tuple[float, float].
_CALIBRATION = get_type_hints(Calibration) | {"interval": tuple | None}
