"""Geometry shared by image and mask: resize, then centre crop."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from padim_lit.errors import InputError, as_pair

Size = int | Sequence[int]
#: Pixels of what a model sees, and of a resized image before its crop.
MOST_PIXELS = 2**26


@dataclass(frozen=True)
class ResizeCrop:
    """What of each image the model sees: resize, then centre crop.

    Args:
        image_size: int or [h, w] in pixels. With a crop, an int is the shorter side after the
            resize (aspect kept; PaDiM: 256); without one, an int is both sides (aspect not kept),
            so that all of the image is seen. [h, w] is always exact.
        crop_size: int, [h, w] or None: the centre crop (PaDiM: 224).

    Attributes:
        resize: the shorter side (int, aspect kept; only with a crop) or an exact (h, w).
        crop: the (h, w) cut from the centre, or None.

    Raises InputError for sizes that are no positive integers and a crop larger than the image.
    """

    image_size: Size = field(compare=False)
    crop_size: Size | None = field(compare=False)
    resize: int | tuple[int, int] = field(init=False)
    crop: tuple[int, int] | None = field(init=False)

    def __post_init__(self) -> None:
        image_size, crop_size = self.image_size, self.crop_size
        exact = tuple(as_pair("image_size", image_size, MOST_PIXELS))
        crop = None if crop_size is None else tuple(as_pair("crop_size", crop_size, MOST_PIXELS))
        if crop is not None and (crop[0] > exact[0] or crop[1] > exact[1]):
            raise InputError(
                f"crop_size={crop_size} is larger than image_size={image_size}; it must fit "
                "inside; lower crop_size or raise image_size"
            )
        if math.prod(exact) > MOST_PIXELS:
            raise InputError(f"image_size={image_size}: more than {MOST_PIXELS} pixels; lower it")
        keeps_aspect = crop is not None and isinstance(image_size, int)
        object.__setattr__(self, "resize", image_size if keeps_aspect else exact)
        object.__setattr__(self, "crop", crop)

    @property
    def output_shape(self) -> tuple[int, int]:
        """(h, w) of every image and mask afterwards."""
        return self.crop if self.crop is not None else self.resize

    @property
    def size(self) -> dict[str, Any]:
        """image_size and crop_size as they were given, and as a checkpoint holds them."""
        return {"image_size": self.image_size, "crop_size": self.crop_size}

    def image(self, image: Image.Image) -> Image.Image:
        """Resized (antialiased bilinear) and cropped image of size `output_shape`."""
        return self._apply(image, Image.Resampling.BILINEAR)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Resized (nearest) and cropped mask; (h', w') bool in, `output_shape` bool out."""
        image = Image.fromarray(mask.astype(np.uint8) * 255)
        return np.asarray(self._apply(image, Image.Resampling.NEAREST)) > 127

    def shows(self, mask: np.ndarray) -> bool:
        """Whether any True pixel of the native (h', w') mask lies inside the crop.

        Unlike `mask`, this does not lose defects that are smaller than one resized pixel.
        """
        left, top, right, bottom = self.seen(*mask.shape)
        rows = slice(math.floor(top), math.ceil(bottom))
        return bool(mask[rows, math.floor(left) : math.ceil(right)].any())

    def seen(self, h: int, w: int) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of what is seen of an (h, w) image, in its own pixels."""
        if self.crop is None:
            return 0.0, 0.0, float(w), float(h)
        rows, columns = self._resized(h, w)
        y, x = h / rows, w / columns
        left, top, right, bottom = self._cut(rows, columns)
        return left * x, top * y, right * x, bottom * y

    def _apply(self, image: Image.Image, filter: Image.Resampling) -> Image.Image:
        h, w = self._resized(image.height, image.width)
        if self.crop is None:
            return image.resize((w, h), filter)
        if h * w <= MOST_PIXELS:
            return image.resize((w, h), filter).crop(self._cut(h, w))
        # The crop alone: of a scan line of 60000×1 pixels the rest would be 4·10⁹. It equals the
        # other way up to rounding alone, so ordinary images go that way.
        return image.resize(self.crop[::-1], filter, self.seen(image.height, image.width))

    def _cut(self, h: int, w: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the crop in a resized (h, w) image."""
        top, left = round((h - self.crop[0]) / 2), round((w - self.crop[1]) / 2)
        return left, top, left + self.crop[1], top + self.crop[0]

    def _resized(self, h: int, w: int) -> tuple[int, int]:
        if not isinstance(self.resize, int):
            return self.resize
        # The longer side is rounded down, as torchvision's Resize does in the paper's code.
        short = min(h, w)
        return self.resize * h // short, self.resize * w // short
