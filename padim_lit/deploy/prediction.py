"""What one image is to a fitted model: what it sees of it, `ModelInput`, and says, `Prediction`."""

import os
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from padim_lit.data.images import as_rgb, from_array, is_paged, read_image
from padim_lit.data.transform import ResizeCrop, Size
from padim_lit.deploy.regions import DIGITS, Region, View, spread
from padim_lit.errors import InputError
from padim_lit.model.backbone import ROUNDING
from padim_lit.model.detector import Detector
from padim_lit.system.paths import typed_path

_IN_MEMORY = Lock()
#: Why nobody can show a model pictures, and what to do.
NO_SIZES = (
    "the checkpoint does not say how its images were resized (a plain Trainer's); fit with "
    "mode=fit, or before trainer.save_checkpoint do model.detector.provenance |= {'image_size': …, "
    "'crop_size': …} (docs/library.md)"
)
#: ``is_anomalous`` as files and the HTTP server write it.
DECISIONS = {True: "anomalous", False: "good", None: ""}


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The result for one image.

    Attributes:
        score: Mahalanobis distance, not squared.
        p_value: share of good images that score as high, see
            `padim_lit.deploy.calibration.p_value`; None where the checkpoint was not calibrated.
        is_anomalous: ``score >= threshold``; None without a threshold.
        map: (h,w) float32, distance of each pixel of what the model saw.
        threshold: of the score.
        map_threshold: distance from which its regions are outlined: the predictor's. Where an
            anomalous image's map lies below that everywhere, it is the distance that the highest
            2 % of the map reach, which the score is about.
        path: of the image's file; None for an image that was in memory.
        regions: connected parts of the map at or above `map_threshold`, in pixels of the picture
            as it was given, highest peak first; None without such a threshold.
        view: where what the model saw lies in that picture.
    """

    score: float
    p_value: float | None
    is_anomalous: bool | None
    map: np.ndarray = field(repr=False)
    threshold: float | None
    map_threshold: float | None
    path: str | None
    regions: list[Region] | None
    view: View

    def full_map(self) -> np.ndarray:
        """Return the map in the picture's own pixels, (H,W) float32; NaN: not seen."""
        return spread(self.map, self.view)

    def mask(self) -> np.ndarray:
        """Return where the map reaches `map_threshold`, (H,W) bool in the picture's own pixels.

        Raises:
            InputError: there is no such threshold.
        """
        if self.map_threshold is None:
            raise InputError(
                "no mask without a threshold of maps; mode=calibrate images=GOOD_IMAGES sets one"
            )
        return spread(self.map, self.view, peaks=True) >= self.map_threshold

    def numbers(self) -> dict[str, Any]:
        """Return all but the map as primitives, for JSON; width and height are the picture's."""
        height, width = self.view.size
        regions = None if self.regions is None else [region.numbers() for region in self.regions]
        return {
            "score": self.score,
            "p_value": self.p_value,
            "decision": DECISIONS[self.is_anomalous],
            "threshold": self.threshold,
            "width": width,
            "height": height,
            "seen": np.round(self.view.box, DIGITS).tolist(),
            "regions": regions,
        }


@dataclass(frozen=True, slots=True, eq=False)
class ModelInput:
    """What the model sees of one image.

    Attributes:
        values: (h,w,3) uint8, or float32 in [0, 1] as given.
        path: of the image's file; None: it was in memory.
        view: where `values` lie in the picture; None: they are all of it.
        picture: the picture itself, upright RGB, perhaps smaller, see `of`; None: not kept.
        paged: whether its file has further pages or frames, which are not seen.
    """

    values: np.ndarray = field(repr=False)
    path: str | None = None
    view: View | None = None
    picture: Image.Image | None = None
    paged: bool = False

    @classmethod
    def of(cls, image: Any, resize_crop: ResizeCrop, picture: int = 0) -> "ModelInput":
        """Return what a model sees of what `padim_lit.Predictor` takes as one image.

        With `picture` above 0 the picture is kept, too, at most so many pixels long.

        Raises:
            InputError: it is no image, or cannot be read.

        >>> ModelInput.of(np.zeros((480, 640), np.uint8), ResizeCrop(64, None)).values.shape
        (64, 64, 3)
        """
        path = None
        if isinstance(image, str | PathLike):
            # A str may have been typed with ~ for the home; in a Path ~ is a folder's name.
            file = typed_path(image) if isinstance(image, str) else Path(image)
            path, image = os.fspath(image), read_image(file)
        elif isinstance(image, Image.Image):
            # Pillow decodes when an image is first used, which two threads must not do at once.
            with _IN_MEMORY:
                image = as_rgb(image)
        elif not isinstance(image, np.ndarray | Tensor):
            raise InputError(
                f"{type(image).__name__} is no image; give a path, a PIL image, an array (h,w,3), "
                "a tensor (3,h,w) or a list of them, or a generator of them to predictor.stream"
            )
        else:
            if isinstance(image, Tensor):
                image = image.float() if image.is_floating_point() else image
                # Channels last, as in an array; other tensors are refused as arrays are.
                image = (image.permute(1, 2, 0) if image.ndim == 3 else image).numpy(force=True)
            if image.dtype.kind == "f":
                return cls._of_floats(image, resize_crop.output_shape)
            image = from_array(image)
        size = image.height, image.width
        values, view = resize_crop.image(image), View(size, resize_crop.seen(*size))
        if picture:
            image.thumbnail((picture, picture), Image.Resampling.BILINEAR)
        kept = image if picture else None
        return cls(np.asarray(values), path, view, kept, is_paged(image))

    @classmethod
    def _of_floats(cls, image: np.ndarray, shape: tuple[int, int]) -> "ModelInput":
        low, high = (float(f(image)) if image.size else np.nan for f in (np.min, np.max))
        if image.shape != (*shape, 3) or not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise InputError(
                f"a floating-point image {image.shape} from {low:g} to {high:g}: floats are what "
                f"the model sees, {(*shape, 3)} from 0 to 1, resized and cropped already; give "
                "pictures as uint8"
            )
        return cls(image.astype(np.float32).clip(0, 1))

    def tensor(self) -> Tensor:
        """Return the values as a tensor (3,h,w), float32 in [0, 1]."""
        floats = self.values.astype(np.float32)
        if self.values.dtype == np.uint8:
            floats /= 255
        return torch.from_numpy(floats).permute(2, 0, 1).contiguous()


def resize_crop_of(
    detector: Detector, image_size: Size | None, crop_size: Size | None
) -> ResizeCrop:
    """Return how images are resized and cropped for a detector; of None, the checkpoint's size.

    Raises:
        InputError: it is not known, or other than at the fit.

    >>> resize_crop_of(detector, [80, 80], [64, 64]).output_shape
    (64, 64)
    """
    given = {"image_size": image_size, "crop_size": crop_size}
    provenance = detector.provenance
    saved = {key: provenance[key] for key in given} if given.keys() <= provenance.keys() else {}
    asked = given | {key: size for key, size in saved.items() if given[key] is None}
    if asked["image_size"] is None:
        raise InputError(
            f"{NO_SIZES}; in Python give image_size, and crop_size where they were cropped"
        )
    found, what = ResizeCrop(**asked), f"image_size={image_size}, crop_size={crop_size}"
    if saved and found != ResizeCrop(**saved):
        were = ", ".join(map(str, saved.values()))
        raise InputError(f"{what}: it was fitted with {were}; leave them out")
    if found.output_shape != detector.image_shape:
        raise InputError(
            f"{what} show the model {found.output_shape} pixels, but it was fitted on "
            f"{detector.image_shape}"
        )
    return found
