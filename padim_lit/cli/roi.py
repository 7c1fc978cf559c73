"""The key roi: which part of the images counts."""

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from padim_lit.data import AnomalyData
from padim_lit.data.images import read_image, read_mask
from padim_lit.errors import InputError
from padim_lit.system.paths import typed_path

# How much the sides' ratios of mask and images may differ.
TOLERANCE = 0.01


def read_roi(given: Any, data: AnomalyData) -> Tensor:
    """Return which pixels that the model sees count: (h,w) bool.

    Args:
        given: path of a mask, white where it counts, of the images' size or a multiple of it; or
            corners [x, y] of a polygon in pixels of the images.
        data: whose first training image tells their size.

    Raises:
        InputError: no mask or polygon, another shape than the images', or nothing of it is seen.
    """
    path = data.train_items[0].path
    width, height = read_image(path).size
    if isinstance(given, str):
        mask = read_mask(typed_path(given))
        h, w = mask.shape
        if abs(h * width - w * height) > TOLERANCE * h * width:
            raise InputError(
                f"roi={given} has {w}×{h} pixels, the images have {width}×{height}, as {path}; "
                "make it as large as they are"
            )
    else:
        mask = _polygon(given, (width, height))
    roi = data.resize_crop.mask(mask)
    if not roi.any():
        raise InputError(
            f"roi={given}: nothing of it is seen; draw it larger and white, or set crop_size=null"
        )
    return torch.from_numpy(roi.copy())


def _polygon(corners: Any, size: tuple[int, int]) -> np.ndarray:
    try:
        points = [(float(x), float(y)) for x, y in corners]
    except (TypeError, ValueError):
        points = []
    if len(points) < 3 or not np.isfinite(points).all():
        raise InputError(
            f"roi={corners}: must be the file of a mask, or three or more corners, as in "
            "[[10,10],[200,10],[100,150]]"
        )
    drawn = Image.new("1", size)
    ImageDraw.Draw(drawn).polygon(points, fill=1)
    return np.asarray(drawn)
