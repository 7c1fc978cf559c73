"""The key roi: which part of the images counts."""

import logging
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from padim_lit.data import AnomalyData
from padim_lit.data.images import read_mask, read_size
from padim_lit.errors import InputError
from padim_lit.system.paths import typed_path

log = logging.getLogger(__name__)

# How much the sides' ratios of mask and images may differ.
TOLERANCE = 0.01


def read_roi(given: Any, data: AnomalyData) -> Tensor:
    """(h,w) bool, True what counts of what the model sees.

    Args:
        given: path of a mask, white where it counts, of the images' size or a multiple of it; or
            corners [x, y] of a polygon in pixels of the images.
        data: whose first training image tells their size.

    Raises:
        InputError: no mask or polygon, another shape than the images', or nothing of it is seen.
    """
    paths = [item.path for item in data.train_items]
    height, width = first = read_size(paths[0])
    if others := [path for path in paths if not _alike(read_size(path), first)]:
        log.warning(
            "roi is drawn on %d×%d pixels; it may lie elsewhere on the %d of %d training images "
            "that have other sides, such as %s",
            *(width, height, len(others), len(paths), others[0]),
        )
    if isinstance(given, str):
        mask = read_mask(typed_path(given))
        if not _alike(mask.shape, first):
            h, w = mask.shape
            raise InputError(
                f"roi={given} has {w}×{h} pixels, the images have {width}×{height}, as {paths[0]}; "
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


def _alike(size: tuple[int, ...], other: tuple[int, int]) -> bool:
    """Both (h, w) have sides of the same ratio."""
    (h, w), (height, width) = size, other
    return abs(h * width - w * height) <= TOLERANCE * h * width


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
