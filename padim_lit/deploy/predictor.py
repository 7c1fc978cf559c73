"""A fitted model in memory, ``padim_lit.load(ckpt)``: pictures in, scores and decisions out."""

import math
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from padim_lit.checkpoint.state import load_identified
from padim_lit.data.files import find_images
from padim_lit.data.transform import Size
from padim_lit.deploy.calibration import (
    by_hand,
    describe,
    p_value,
    recalibrate,
    require_one_of,
)
from padim_lit.deploy.explanation import Explanation, explain
from padim_lit.deploy.prediction import ModelInput, Prediction, resize_crop_of
from padim_lit.deploy.regions import View, find
from padim_lit.errors import InputError, naming, refusing, require_finite
from padim_lit.model.anomaly_map import TOP_SHARE
from padim_lit.model.detector import Detector
from padim_lit.system.paths import typed_path
from padim_lit.system.resource_errors import in_parts

#: Called with an image that cannot be used and its error; None: the error is raised.
OnError = Callable[[Any, InputError], None] | None
#: Images of a batch on a GPU; images that are decoded ahead, at most.
GPU_BATCH, DECODED_AHEAD = 16, 8


class Predictor:
    """Scores pictures with a fitted detector and the preprocessing that it was fitted with.

    What it takes:
        - a path (str, in which ~ is expanded, or Path) of a PNG, JPEG, TIFF, BMP or WebP file;
        - a PIL image;
        - a uint8 or uint16 array (h,w), (h,w,1) or (h,w,3), or tensor (1,h,w) or (3,h,w), which is
          a picture in RGB order; 16 bit is scaled by its full range, so 12 bits of a camera are
          shifted up first (``frame << 4``), 10 by 6; also what Pillow makes of a file: an array
          (h,w,4) or tensor (4,h,w) of uint8 with transparency, an array (h,w) of bool, or of int32
          from 0 to 65535, some above 255: 8-bit values are refused;
        - a floating-point array (h,w,3) or tensor (3,h,w), which is what the model sees: RGB in
          [0, 1], resized and cropped to `image_shape` already;
        - a list or tuple of any of these, or a batch of them (B,…); a folder, for all images in it
          and in its folders, or a pattern such as ``"new/*.png"``; `stream` takes also what gives
          images one by one, such as a generator.

    Pictures are resized and cropped as the training images were, by Pillow, and no more is done: of
    a fit with a Dataset that does more, give what that Dataset gives, in floats. On the CPU each
    image is by default a batch of its own, so that its score depends on nothing else, bit for bit;
    with the batches of a test run (`batch_size`) scores equal that run's bit for bit, with others
    up to rounding (10⁻⁶).

    Threads may share one. A process that was forked after the first score may not use it, because
    PyTorch's threads are not in it: load the model there, or start processes with "spawn".

    Args:
        detector: fitted; moved to `device`.
        image_size, crop_size: see `padim_lit.data.transform.ResizeCrop`. Read from the
            checkpoint, and needed (crop_size may be None) only where it does not hold them.
        device: such as "cuda"; None takes a GPU where there is one.
        batch_size: images scored at once; None is 1 on the CPU and for generators, else 16.
        threshold: of the score; None takes the checkpoint's. That of the maps is moved by the
            same factor.
        false_alarm_rate: share of good images to call defective, for a threshold from the
            checkpoint's scores of good images; None takes the checkpoint's. One of the two.

    Attributes:
        threshold, map_threshold: of scores, and of the maps' regions, see `Prediction`; None where
            unknown. To set the first moves the second, as the argument does.
        threshold_source: where the threshold is from, in words.
        calibration: a `padim_lit.model.calibration.Calibration`; None where there is none.
        model_sha256: of the file that `load` has read, the first 12 hex digits; None of others.

    Raises:
        InputError: not fitted; sizes that are missing or other than the checkpoint's; arguments out
            of range.

    >>> predictor = Predictor(detector, image_size=[64, 64], threshold=3.0, device="cpu")
    >>> predictor
    Predictor(image_shape=(64, 64), threshold=3.0, device=cpu)
    >>> found = predictor(np.zeros((480, 640, 3), np.uint8))
    >>> found.map.shape, found.is_anomalous is (found.score >= 3.0)
    ((64, 64), True)
    >>> found.full_map().shape, found.mask().shape
    ((480, 640), (480, 640))
    >>> [region.numbers()["box"] for region in found.regions]
    [[0.0, 0.0, 640.0, 480.0]]
    """

    def __init__(
        self,
        detector: Detector,
        image_size: Size | None = None,
        crop_size: Size | None = None,
        device: str | torch.device | None = None,
        batch_size: int | None = None,
        threshold: float | None = None,
        false_alarm_rate: float | None = None,
    ) -> None:
        detector.require_fitted()
        self.resize_crop = resize_crop_of(detector, image_size, crop_size)
        self.device = as_device(device)
        self.detector = detector.to(self.device).eval()
        roi = detector.anomaly_map.roi
        self._roi = None if roi is None else roi.cpu().numpy()
        default = 1 if self.device.type == "cpu" else GPU_BATCH
        self.batch_size = default if batch_size is None else operator.index(batch_size)
        # One by one from a generator: a camera's first picture must not wait for its sixteenth.
        self._alone = batch_size is None
        if self.batch_size < 1:
            raise InputError(f"batch_size={batch_size}: must be at least 1")
        self._set_threshold(threshold, false_alarm_rate)
        self.model_sha256: str | None = None

    def __repr__(self) -> str:
        facts = f"image_shape={self.image_shape}, threshold={self.threshold}, device={self.device}"
        which = f", model_sha256={self.model_sha256}" if self.model_sha256 else ""
        return f"{type(self).__name__}({facts}{which})"

    @property
    def threshold(self) -> float | None:
        return self._threshold

    @threshold.setter
    def threshold(self, value: float | None) -> None:
        self._set_threshold(value, None)

    @property
    def image_shape(self) -> tuple[int, int]:
        """(h, w) of what the model sees, and of maps."""
        return self.detector.image_shape

    @overload
    def __call__(self, images: Image.Image) -> Prediction: ...
    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...
    # A path may be of a file or a folder, and a tensor a picture or several: the caller knows.
    @overload
    def __call__(self, images: Any) -> Prediction | Any: ...

    def __call__(self, images: Any) -> Prediction | list[Prediction]:
        """Return one prediction for one image, and a list for several.

        Several are a list, a tuple, a batch (B,…), a folder or a pattern, whose files are sorted.

        Raises:
            InputError: something that is no image, or a file that cannot be read.
        """
        images = _listed(images)
        several = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
        found = list(self.stream(images if several else [images]))
        return found if several else found[0]

    def stream(self, images: Iterable[Any], on_error: OnError = None) -> Iterator[Prediction]:
        """Yield predictions one by one, in memory that does not grow with their number.

        Args:
            images: what `__call__` takes, or what gives it one by one, such as a generator.
            on_error: called with an image that cannot be used, which is then left out; None raises
                its error.
        """
        return (prediction for _, prediction in self.stream_seen(images, on_error))

    def stream_seen(
        self, images: Iterable[Any], on_error: OnError = None, picture: int = 0
    ) -> Iterator[tuple[ModelInput, Prediction]]:
        """Yield what the model saw of each image, and its prediction; `picture` as in `see`."""
        images = _listed(images)
        images = [images] if _is_one(images) else images
        seen, alone = self._read(images, on_error, picture), self._alone
        alone = alone and not isinstance(images, Sequence | Tensor)
        while batch := list(islice(seen, 1 if alone else self.batch_size)):
            yield from zip(batch, self.score(batch), strict=True)

    def see(self, image: Any, picture: int = 0) -> ModelInput:
        """Return what the model sees of one image, see `ModelInput.of`."""
        return ModelInput.of(image, self.resize_crop, picture)

    def score(self, batch: Sequence[ModelInput]) -> list[Prediction]:
        """Return the predictions for what `see` gave, scored as one batch."""
        device = self.device.type  # a caller's autocast would round the features
        with torch.inference_mode(), torch.autocast(device, enabled=False):
            images = torch.stack([seen.tensor() for seen in batch]).to(self.device)
            scores, maps, self.batch_size = in_parts(self.detector, images, self.batch_size)
        require_finite(scores, {"path": [seen.path or "an image" for seen in batch]})
        found = zip(scores.tolist(), maps.cpu().numpy(), batch, strict=True)
        return [self._prediction(score, map.copy(), seen) for score, map, seen in found]

    def explain(self, image: Any) -> Explanation:
        """Return the shares of positions and layers in one image's score.

        See `padim_lit.deploy.explanation.explain`.

        Raises:
            InputError: something that is no image, or a checkpoint that does not hold the layers'
                means.
        """
        seen = self.see(image)
        with torch.autocast(self.device.type, enabled=False):
            return explain(self.detector, seen.tensor(), seen.view)

    def _read(self, images: Iterable[Any], on_error: OnError, picture: int) -> Iterator[ModelInput]:
        # Only a sequence is read ahead: a generator's next picture may be minutes away.
        ahead = DECODED_AHEAD if isinstance(images, Sequence) else 0
        coming = iter(images)
        waiting: deque[tuple[Any, Future[ModelInput]]] = deque()
        # Pillow releases the GIL while it decodes.
        pool = ThreadPoolExecutor(2)
        try:
            while True:
                for image in islice(coming, 1 + ahead - len(waiting)):
                    waiting.append((image, pool.submit(self.see, image, picture)))
                if not waiting:
                    return
                image, future = waiting.popleft()
                try:
                    seen = future.result()
                except InputError as error:
                    if on_error is None:
                        raise
                    on_error(image, error)
                else:
                    yield seen
        finally:
            pool.shutdown(cancel_futures=True)

    def _prediction(self, score: float, map: np.ndarray, seen: ModelInput) -> Prediction:
        threshold, at, (h, w) = self.threshold, self.map_threshold, map.shape
        view = seen.view or View((h, w), (0, 0, w, h))
        anomalous = None if threshold is None else score >= threshold
        if anomalous and (at is None or map.max() < at):
            counted = map if self._roi is None else map[self._roi]
            at = float(np.quantile(counted, 1 - TOP_SHARE, method="higher"))
        p = None if self.calibration is None else p_value(score, self.calibration)
        regions = find(map, at, view)
        return Prediction(score, p, anomalous, map, threshold, at, seen.path, regions, view)

    def _set_threshold(self, threshold: float | None, rate: float | None) -> None:
        # A plain number, not a tensor's or NumPy's, because pixels are compared with it.
        threshold, rate = (None if one is None else float(one) for one in (threshold, rate))
        calibration = self.detector.calibration
        require_one_of(threshold, rate)
        if threshold is not None and not 0 < threshold < math.inf:
            raise InputError(f"threshold={threshold}: must be a finite score above 0")
        if calibration is None and rate is not None:
            raise InputError(
                f"false_alarm_rate={rate}: the checkpoint holds no scores of good images; give it "
                "some with mode=calibrate images=GOOD_IMAGES, or give threshold=SCORE"
            )
        own = at = None
        source = "no threshold: the checkpoint is not calibrated (mode=calibrate does it)"
        if calibration is not None:
            calibration = recalibrate(calibration, rate)
            if threshold is not None:
                calibration = by_hand(calibration, threshold, self.detector.image_score)
            own, at = calibration.threshold, calibration.map_threshold
            source = describe(calibration)
        elif threshold is not None:
            own, source = threshold, f"threshold {threshold:g}, chosen by hand"
            at = own if self.detector.image_score == "max" else None
        # Last, so that refused arguments change nothing; together, for threads that are scoring.
        self.calibration, self.threshold_source = calibration, source
        self._threshold, self.map_threshold = own, at


def load(
    ckpt: str | Path,
    *,
    device: str | torch.device | None = None,
    image_size: Size | None = None,
    crop_size: Size | None = None,
    batch_size: int | None = None,
    threshold: float | None = None,
    false_alarm_rate: float | None = None,
) -> Predictor:
    """Return a `Predictor` of a model.ckpt; arguments are its own. No code in the file is run.

    Raises:
        InputError: no such file, not a checkpoint of padim_lit, or what `Predictor` raises.

    >>> load("missing.ckpt")
    Traceback (most recent call last):
    padim_lit.errors.InputError: ckpt=missing.ckpt: no such file; give the model.ckpt of an ...
    """
    detector, sha256 = load_identified(ckpt)
    detector.fit_state = None  # as large as the factors, and not needed to score
    with naming(ckpt):
        predictor = Predictor(
            detector, image_size, crop_size, device, batch_size, threshold, false_alarm_rate
        )
    predictor.model_sha256 = sha256
    return predictor


def _listed(images: Any) -> Any:
    """Return the images of a folder or a pattern, and anything else as it is."""
    if not isinstance(images, str | PathLike):
        return images
    path = typed_path(images)
    pattern = not path.exists() and any(sign in str(path) for sign in "*?[")
    return find_images(images) if path.is_dir() or pattern else images


def _is_one(images: Any) -> bool:
    """Whether this is one image and not several; an array (h,w) is, though it has rows."""
    if isinstance(images, np.ndarray) and images.ndim == 3:
        return images.shape[2] in (1, 3, 4)  # else grey ones, (B,h,w)
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim in (2, 3)  # with one dimension it may hold paths
    return isinstance(images, str | PathLike | Image.Image)


def as_device(device: Any, key: str = "device") -> torch.device:
    """Return the device of a name, such as "cuda"; None takes a GPU where there is one.

    Raises:
        InputError: it is not there, or has no float64; the line begins with `key`.

    >>> as_device({"cuda:0": "cpu"}, "map_location")
    Traceback (most recent call last):
    padim_lit.errors.InputError: map_location={'cuda:0': 'cpu'}: not to be had (...); use cpu
    """
    kinds = RuntimeError, AssertionError, NotImplementedError, TypeError
    with refusing(f"{key}={device}: not to be had", "use cpu", *kinds):
        default = "cuda" if torch.cuda.is_available() else "cpu"
        found = torch.device(default if device is None else device)
        torch.empty(0, dtype=torch.float64, device=found)  # as means are; Apple's GPUs have none
        return found
