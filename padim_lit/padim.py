"""PaDiM as a LightningModule: a shell around the detector, its moments and its metrics."""

import logging
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from padim_lit.checkpoint.format import KEY, state_of
from padim_lit.digests import ordered
from padim_lit.errors import InputError, require_finite
from padim_lit.metrics import ImageMetrics, PixelMetrics
from padim_lit.model.detector import Detector
from padim_lit.model.learned import evenly_spaced, patch_statistics
from padim_lit.model.moments import reduce
from padim_lit.model.projection import Identity, Projection
from padim_lit.system.memory import available_bytes, readable

log = logging.getLogger(__name__)


class PaDiM(Detector, LightningModule):
    """One Gaussian per patch position on projected CNN features, fitted in one epoch.

    The fit epoch has no optimiser: it gathers the moments, and its end factors them.
    ``test_step`` and ``predict_step`` return ``{"score": (B,), "map": (B,h,w)}``: Mahalanobis
    distances, not squared.

    Takes `Detector`'s arguments. Batches are dicts with ``image`` (B,3,h,w) in [0, 1]; for
    ``test_step`` also ``label`` (B,), ``mask`` (B,h,w) and the flags ``count_image`` and
    ``count_pixel`` (B,), which say in which metrics an image takes part. ``digest`` (B,16) uint8,
    where it is there, says which images the moments hold.

    Attributes:
        results: test metrics of the last ``trainer.test``: floats, or None with a reason in
            ``why``.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # Nothing is optimised; Lightning's own loop would ask DDP for gradients.
        self.automatic_optimization = False
        self.image_metrics, self.pixel_metrics = ImageMetrics(), PixelMetrics()
        self.results: dict[str, Any] = {}
        self._digests: list[Tensor] = []

    # Fit

    def configure_optimizers(self) -> None:
        return None

    def setup(self, stage: str) -> None:
        strategy = self.trainer.strategy
        if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
            raise InputError(
                f"trainer.strategy={type(strategy).__name__}: it shards what is trained, and here "
                "nothing is; the backbone and the moments are whole on every rank; use trainer=ddp"
            )
        if self.trainer.precision.endswith("true") and self.trainer.precision != "32-true":
            raise InputError(
                f"trainer.precision={self.trainer.precision}: would round the moments; use 32-true "
                "or bf16-mixed (backbone in bf16, moments in float32)"
            )

    def on_fit_start(self) -> None:
        # Those of an earlier fit, or of an attempt that ran out of memory, take room no more.
        self.moments = self.mean = self.layer_means = self.whitening = None
        # Moments and factors, before hours of images are read in vain.
        need = self.fit_bytes
        have = available_bytes(self.device)
        if have is not None and need > have:
            raise InputError(
                f"dim={self.projection.dim} on a {self.map_grid[0]}×{self.map_grid[1]} grid needs "
                f"{readable(need)} for moments and factors, {readable(have)} are free on "
                f"{self.device}; use a smaller dim, or grid={max(self.map_grid) // 2} for a quarter"
            )

    @torch.no_grad()
    def on_train_start(self) -> None:
        if not self.projection.fit_images:
            return
        loader = self.trainer.train_dataloader
        # Each rank sees the same images, so none waits for another.
        chosen = Subset(
            loader.dataset, evenly_spaced(len(loader.dataset), self.projection.fit_images)
        )
        # No more at once than the fit itself: that may have been halved for want of memory.
        batches = DataLoader(
            chosen, batch_size=min(8, loader.batch_size or 8), collate_fn=loader.collate_fn
        )
        log.info("proj=%s learns from %d images", self.projection.name, len(chosen))
        every = Identity(self.projection.in_channels).to(self.device)
        with self.trainer.precision_plugin.forward_context():
            self.projection.learn(
                *patch_statistics(self._embed_finite(batch, every) for batch in batches)
            )
        if self.trainer.world_size > 1:
            # Where ranks round differently, eigenvectors turn, and moments of different Π would
            # be summed without a word.
            matrix = self.trainer.strategy.broadcast(self.projection.matrix.cpu())
            self.projection.matrix = matrix.to(self.device)

    def on_train_epoch_start(self) -> None:
        # At the epoch's start, so that a second epoch counts no image twice.
        self.moments = self.mean = self.layer_means = self.whitening = None
        self.moments = self.no_moments()
        self._digests = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        check = partial(require_finite, batch=batch)
        self.moments = self.update_moments(self.moments, batch["image"], check)
        if "digest" in batch:
            self._digests.append(batch["digest"].cpu())

    def on_train_epoch_end(self) -> None:
        moments, digests = self.moments, self._digests
        if self.trainer.world_size > 1:
            moments = reduce(moments, self._sum_over_ranks)
            ranks: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(ranks, digests)
            digests = [part for rank in ranks for part in rank]
        images = ordered(torch.cat(digests)) if digests else None
        self.set_moments(moments, images)

    # Score

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        output = self.predict_step(batch, batch_idx)
        require_finite(output["score"], batch)
        images, pixels = batch["count_image"], batch["count_pixel"]
        self.image_metrics.update(output["score"][images], batch["label"][images])
        self.pixel_metrics.update(output["map"][pixels], batch["mask"][pixels])
        return output

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        score, maps = self(batch["image"])
        return {"score": score, "map": maps}

    def on_test_start(self) -> None:
        self.require_fitted()

    def on_predict_start(self) -> None:
        self.require_fitted()

    def on_test_epoch_start(self) -> None:
        self.image_metrics.reset()
        self.pixel_metrics.reset()

    def on_test_epoch_end(self) -> None:
        image, pixel = self.image_metrics.compute(), self.pixel_metrics.compute()
        why = {**image.pop("why"), **pixel.pop("why")}
        self.results = {**image, **pixel, "why": why}
        numbers = {f"test/{k}": v for k, v in {**image, **pixel}.items() if v is not None}
        self.log_dict(numbers, sync_dist=self.trainer.world_size > 1)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.restore(state_of(checkpoint))

    def _embed_finite(self, batch: dict[str, Any], projection: Projection) -> Tensor:
        x = self.embed(batch["image"].to(self.device), projection)
        require_finite(x, batch)
        return x

    def _sum_over_ranks(self, tensor: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(tensor, reduce_op="sum")
