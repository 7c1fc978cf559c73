"""PaDiM as a LightningModule: fits, tests and saves a `Detector`, which scores the images."""

import time
from functools import partial
from inspect import Parameter, Signature, signature
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from padim_lit.checkpoint.format import KEY, forget_arguments, state_of
from padim_lit.checkpoint.state import full_state, load_detector, restore
from padim_lit.data.datamodule import with_facts
from padim_lit.data.loaders import of_all_ranks, require_each_once, require_sizes
from padim_lit.data.trainer import as_it_runs, loader_of_fit, require_trainer
from padim_lit.data.truth import truth_of
from padim_lit.deploy.calibration import outcome, require_asked, set_threshold
from padim_lit.deploy.left_out import met_again
from padim_lit.deploy.over_images import Loop
from padim_lit.deploy.predictor import as_device
from padim_lit.errors import InputError, require_finite, require_tensors
from padim_lit.metrics import ImageMetrics, PixelMetrics
from padim_lit.model.detector import Detector
from padim_lit.model.fit_state import FitState
from padim_lit.model.projection_cache import ProjectionCache
from padim_lit.model.warm_up import learn, require_memory, warm_up


class PaDiM(LightningModule):
    """Gaussians of good patches on projected CNN features, fitted in one epoch.

    The epoch has no optimiser: it sums up moments, and its end makes covariances of them.
    ``test_step`` and ``predict_step`` return ``score`` (B,) and ``map`` (B,h,w), Mahalanobis
    distances, not squared, ``path`` and, where there is a threshold, ``is_anomalous`` (B,).

    Takes `Detector`'s arguments, and two by keyword alone. Batches are dicts with
    ``image`` (B,3,h,w) in [0, 1]; for ``test_step`` also ``label`` (B,), and where they are known
    ``mask`` (B,h,w) and the flags ``count_image`` and ``count_pixel`` (B,), which say in which
    metrics an image takes part. ``digest`` (B,16) identifies it, see `padim_lit.digests.digest`.

    Attributes:
        detector: what scores; all that is fitted and saved lies in it.
        calibration: training images, at most, that the fit's end sets a threshold by; 0: none.
        false_alarm_rate: share of good images above that threshold; None: `set_threshold`'s own.
        threshold_seconds: how much of the fit's time the threshold took.
        look_at: which good images a fit advises to look at, in words; "" where it does not.
        image_metrics, pixel_metrics: there while a test runs.
        results: metrics of the last ``trainer.test``: floats, or None with a reason in ``why``.

    >>> from padim_lit import JL, Backbone
    >>> backbone = Backbone('test_resnet', weights='random')
    >>> PaDiM(backbone, JL(backbone.embedding_dim, dim=8), image_shape=(64, 64)).detector.positions
    64
    """

    calibration: int = 500
    false_alarm_rate: float | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()
        self.calibration = kwargs.pop("calibration", self.calibration)
        self.false_alarm_rate = kwargs.pop("false_alarm_rate", self.false_alarm_rate)
        self._hold(Detector(*args, **kwargs))

    def _hold(self, detector: Detector) -> None:
        self.detector = detector
        # Nothing is optimised; Lightning's own loop would ask DDP for gradients.
        self.automatic_optimization = False
        self.results: dict[str, Any] = {}
        self.threshold_seconds, self.look_at, self._fitted = 0.0, "", False
        self._state: FitState | None = None

    # Fit

    def configure_optimizers(self) -> list[Any]:
        return []  # Lightning would warn of None

    def setup(self, stage: str) -> None:
        require_trainer(self.trainer)
        require_asked(self.calibration or 0, self.false_alarm_rate)
        # Frozen; only DDP refuses a module without parameters to train.
        self.detector.requires_grad_(isinstance(self.trainer.strategy, DDPStrategy))
        self._fitted = False

    def on_fit_start(self) -> None:
        if self._fitted:  # a batch size finder ran an epoch of its own, whose end set both flags
            self.trainer.should_stop = self._fitted = False

    @torch.no_grad()
    def on_train_start(self) -> None:
        loader, numbers = loader_of_fit(self.trainer)
        # `adopt` sets fit_images to 0, while the options keep how many were asked for.
        parts = self.detector.projection, self.detector.density
        adopted = any(part.options.get("fit_images") and not part.fit_images for part in parts)
        facts = {"precision": self.trainer.precision, "learnt_elsewhere": adopted}
        self.detector.provenance = with_facts(self.detector.provenance, self.trainer) | facts
        # Frees what an earlier fit left, or an attempt that ran out of memory.
        self.detector.reset()
        self._state = None
        require_memory(self.detector, self.device, self.trainer.num_devices)
        self.detector.cache = cache = ProjectionCache.for_fit(self.device)
        cache.keep_next(self.detector.density.fit_images * self.detector.rotations)
        with as_it_runs(self.trainer):
            learn(self.detector, partial(warm_up, loader, numbers), self._agree)
        calibrates = self.calibration and self.trainer.is_global_zero
        cache.keep_next(met_again(self.detector, loader.dataset) if calibrates else 0)

    def on_train_epoch_start(self) -> None:
        # At the epoch's start, so that a second epoch counts no image twice.
        self._state = self.detector.empty_state()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._state = self.detector.update_state(self._state, batch)

    def on_train_epoch_end(self) -> None:
        state, self._state = self._state, None
        if self.trainer.world_size > 1:
            summed = partial(self.trainer.strategy.reduce, reduce_op="sum")
            state = state.reduce(summed, partial(of_all_ranks, ranks=self.trainer.world_size))
        self.detector.set_state(state)
        self.trainer.should_stop = True  # a second pass would gather the same
        # Now, so that it is in what callbacks save: ModelCheckpoint's turn is after this hook.
        start, loader = time.perf_counter(), self.trainer.train_dataloader
        if self.trainer.is_global_zero:
            with as_it_runs(self.trainer):
                self.detector.cache.keep_next(0)
                how = self.calibration, self.false_alarm_rate, Loop.like(loader, self.device)
                self.look_at = set_threshold(self.detector, loader.dataset, *how)
            self.detector.to(self.device)  # `set_threshold` left it on the CPU; callbacks may score
        # As a rank without it would decide nothing.
        self.detector.calibration = self.trainer.strategy.broadcast(self.detector.calibration)
        self.detector.cache = ProjectionCache()
        self.threshold_seconds, self._fitted = time.perf_counter() - start, True

    def on_fit_end(self) -> None:
        if not self._fitted:
            raise InputError("nothing was fitted: no epoch or batches are left; use a new Trainer")

    # Score

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (B,) and anomaly maps (B,h,w) of images (B,3,h,w) in [0, 1]."""
        return self.detector(images)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        output = self.predict_step(batch, batch_idx)
        truth = truth_of(batch, output["map"])
        by_image, by_pixel = truth["count_image"], truth["count_pixel"]  # (B,)
        self.image_metrics.update(output["score"][by_image], truth["label"][by_image])
        roi = self.detector.anomaly_map.roi
        self.pixel_metrics.update(output["map"][by_pixel], truth["mask"][by_pixel], roi)
        return output

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        require_tensors(batch, "image")
        score, maps = self(batch["image"])
        require_finite(score, batch)
        return outcome(batch, score, maps, self.detector.threshold)

    def on_test_start(self) -> None:
        require_each_once(self.trainer.test_dataloaders, self.trainer.world_size)
        self.detector.require_fitted()
        require_sizes(self.trainer.test_dataloaders, self.detector.provenance)
        self.image_metrics = ImageMetrics().to(self.device)
        self.pixel_metrics = PixelMetrics().to(self.device)

    def on_predict_start(self) -> None:
        self.detector.require_fitted()
        require_sizes(self.trainer.predict_dataloaders, self.detector.provenance)

    def on_test_epoch_end(self) -> None:
        image, pixel = self.image_metrics.compute(), self.pixel_metrics.compute()
        why = {**image.pop("why"), **pixel.pop("why")}
        self.results = {**image, **pixel, "why": why}
        numbers = {f"test/{k}": v for k, v in {**image, **pixel}.items() if v is not None}
        self.log_dict(numbers, sync_dist=True)

    def on_test_end(self) -> None:
        del self.image_metrics, self.pixel_metrics  # histograms of 47 MB

    # Checkpoints: the detector's, so that every way of writing one gives the same file

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.detector.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        return self.detector.load_state_dict(state_dict, strict, assign)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # Called by a module that holds this one, such as `torch.compile`'s.
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[f"{prefix}detector.{key[len(prefix) :]}"] = state_dict.pop(key)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = full_state(self.detector)
        forget_arguments(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        restore(self.detector, state_of(checkpoint), checkpoint["state_dict"])

    @classmethod
    def load_from_checkpoint(
        cls, checkpoint_path: Any, map_location: Any = "cpu", strict=True, weights_only=True
    ) -> "PaDiM":
        """Rebuild a fitted model on a device; its file is always read strictly, as data alone."""
        device = "cpu" if map_location is None else as_device(map_location, "map_location")
        model = cls.__new__(cls)
        LightningModule.__init__(model)
        model._hold(load_detector(checkpoint_path))
        return model.eval().to(device)

    def _agree(self, learnt: nn.Module) -> None:
        # All take rank 0's: ranks that round differently would sum moments of different Π.
        if self.trainer.world_size > 1:
            for buffer in learnt.buffers():
                buffer.copy_(self.trainer.strategy.broadcast(buffer.cpu()))


# For help: `Detector`'s parameters, then by keyword alone the class's own.
_shown = list(signature(Detector.__init__).parameters.values())
for _key in PaDiM.__annotations__:
    _shown.append(Parameter(_key, Parameter.KEYWORD_ONLY, default=getattr(PaDiM, _key)))
PaDiM.__init__.__signature__ = Signature(_shown)  # type: ignore[attr-defined]
