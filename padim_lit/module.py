"""PaDiM as a LightningModule: a shell around embedding, moments, Gaussian and anomaly map."""

import logging
import math
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from padim_lit.anomaly_map import AnomalyMap, image_score, require_image_score
from padim_lit.backbone import Backbone
from padim_lit.embedding import embed, resolve_grid
from padim_lit.errors import InputError
from padim_lit.gaussian import mahalanobis, whiten
from padim_lit.memory import available_bytes, readable
from padim_lit.metrics import ImageMetrics, PixelMetrics
from padim_lit.moments import (
    Moments,
    init,
    pack,
    reduce,
    require_two,
    unpack,
    update,
)
from padim_lit.projection import PROJECTIONS, Identity, Projection
from padim_lit.warmup import patch_statistics, spread

log = logging.getLogger(__name__)

#: Layout of what `PaDiM` adds to a Lightning checkpoint.
CHECKPOINT_VERSION = 2


class PaDiM(LightningModule):
    """One Gaussian per patch position on projected CNN features (PaDiM §3; JL report §3).

    One fit epoch without an optimiser gathers the moments; its end factors them. ``test_step``
    and ``predict_step`` return ``{"score": (B,), "map": (B,h,w)}``: Mahalanobis distances, not
    squared.

    Args:
        backbone: frozen feature extractor with C channels.
        projection: Π from C to D.
        image_shape: (h, w) of the images in pixels.
        eps: ε ≥ 0 added to every covariance's diagonal, in squared feature units (eq. 4).
        grid: positions along the longer side; features are averaged down to it. "auto" takes the
            second finest layer's grid, None the finest layer's.
        sigma: σ of the map's blur, in pixels.
        image_score: "max" or "topk", see `padim_lit.anomaly_map.image_score`.

    Batches are dicts with ``image`` (B,3,h,w) in [0, 1]; for ``test_step`` also ``label`` (B,),
    ``mask`` (B,h,w) and the flags ``count_image`` and ``count_pixel`` (B,), which say in which
    metrics an image takes part.

    Raises:
        InputError: arguments that do not fit each other.
    """

    def __init__(
        self,
        backbone: Backbone,
        projection: Projection,
        image_shape: tuple[int, int] = (224, 224),
        eps: float = 0.01,
        grid: int | str | None = "auto",
        sigma: float = 4.0,
        image_score: str = "max",
    ):
        super().__init__()
        if not 0 <= eps < math.inf:
            raise InputError(f"eps={eps}: must be finite and 0 or more (PaDiM uses 0.01)")
        if projection.in_channels != backbone.embedding_dim:
            raise InputError(
                f"the projection takes C={projection.in_channels} channels but backbone "
                f"{backbone.name} gives {backbone.embedding_dim}"
            )
        require_image_score(image_score)
        # Nothing is optimised; Lightning's own loop would ask DDP for gradients.
        self.automatic_optimization = False
        self.backbone, self.projection = backbone, projection
        self.image_shape, self.eps, self.grid, self.sigma = tuple(image_shape), eps, grid, sigma
        self.image_score = image_score
        self.map_grid = resolve_grid(backbone.grids(self.image_shape), grid)
        self.anomaly_map = AnomalyMap(self.map_grid, self.image_shape, sigma)
        self.image_metrics, self.pixel_metrics = ImageMetrics(), PixelMetrics()
        #: Running moments. No buffer: DDP would broadcast it before every step.
        self.moments: Moments | None = None
        # Saved packed and with a version by on_save_checkpoint, not in the state dict.
        self.register_buffer("mean", None, persistent=False)
        self.register_buffer("whitening", None, persistent=False)
        #: Test metrics of the last ``trainer.test``: floats, or None with a reason in ``why``.
        self.results: dict[str, Any] = {}
        #: Primitives that the caller wants kept in the checkpoint (data, preprocessing, seed).
        self.record: dict[str, Any] = {}

    @property
    def positions(self) -> int:
        """P = H·W."""
        return self.map_grid[0] * self.map_grid[1]

    @property
    def state_bytes(self) -> int:
        """Bytes of the moments, and again of the factors."""
        return self.positions * self.projection.dim * (4 * self.projection.dim + 8)

    # Fit

    def configure_optimizers(self) -> None:
        return None

    def setup(self, stage: str) -> None:
        if self.trainer.precision.endswith("true") and self.trainer.precision != "32-true":
            raise InputError(
                f"trainer.precision={self.trainer.precision}: would round the moments; use 32-true "
                "or bf16-mixed (backbone in bf16, moments in float32)"
            )

    def on_fit_start(self) -> None:
        # Moments and factors, before hours of images are read in vain.
        need = 2 * self.state_bytes
        have = available_bytes(self.device)
        if have is not None and need > have:
            raise InputError(
                f"dim={self.projection.dim} on a {self.map_grid[0]}×{self.map_grid[1]} grid needs "
                f"{readable(need)} for moments and factors, {readable(have)} are free on "
                f"{self.device}; use a smaller dim, or grid={max(self.map_grid) // 2} for a quarter"
            )

    @torch.no_grad()
    def on_train_start(self) -> None:
        if not self.projection.warmup:
            return
        loader = self.trainer.train_dataloader
        # Each rank sees the same images, so all learn the same Π without a word between them.
        chosen = Subset(loader.dataset, spread(len(loader.dataset), self.projection.warmup))
        batches = DataLoader(chosen, batch_size=8, collate_fn=loader.collate_fn)
        log.info("proj=%s learns from %d images", self.projection.name, len(chosen))
        every = Identity(self.projection.in_channels).to(self.device)
        with self.trainer.precision_plugin.forward_context():
            self.projection.learn(
                *patch_statistics(
                    self.embed(batch["image"].to(self.device), every) for batch in batches
                )
            )

    def on_train_epoch_start(self) -> None:
        # At the epoch's start, so that a second epoch or a second fit counts no image twice.
        self.moments = init(self.positions, self.projection.dim, self.device)
        self.mean = self.whitening = None

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        x = self.embed(batch["image"])
        self._require_finite(x, batch)
        self.moments = update(self.moments, x)

    def on_train_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            self.moments = reduce(self.moments, self._sum_over_ranks)
        require_two(self.moments)
        self.mean, self.whitening = self.moments.mean, whiten(self.moments, self.eps)

    @torch.no_grad()
    def embed(self, images: Tensor, projection: Projection | None = None) -> Tensor:
        """(B,3,h,w) images → (B,P,D) projected embeddings, float32 under any autocast."""
        features = self.backbone(images)
        with torch.autocast(images.device.type, enabled=False):
            return embed(features, projection or self.projection, self.map_grid)

    # Score

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B,3,h,w) images in [0, 1] → scores (B,) and anomaly maps (B,h,w)."""
        x = self.embed(images)
        with torch.autocast(images.device.type, enabled=False):
            distances = mahalanobis(x, self.mean, self.whitening)
            maps = self.anomaly_map(distances)
        return image_score(distances, maps, self.image_score), maps

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        output = self.predict_step(batch, batch_idx)
        self._require_finite(output["score"], batch)
        images, pixels = batch["count_image"], batch["count_pixel"]
        self.image_metrics.update(output["score"][images], batch["label"][images])
        self.pixel_metrics.update(output["map"][pixels], batch["mask"][pixels])
        return output

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        score, maps = self(batch["image"])
        return {"score": score, "map": maps}

    def on_test_start(self) -> None:
        self._require_fitted()

    def on_predict_start(self) -> None:
        self._require_fitted()

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

    def spec(self) -> dict[str, Any]:
        """What was fitted, as primitives: backbone, projection, ε, grid, image shape, σ."""
        return {
            "backbone": self.backbone.spec(),
            "proj": self.projection.name,
            "dim": self.projection.dim,
            "seed": self.projection.seed,
            "proj_options": self.projection.options,
            "eps": self.eps,
            "grid": self.grid,
            "image_shape": list(self.image_shape),
            "sigma": self.sigma,
            "image_score": self.image_score,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state: dict[str, Any] = {"version": CHECKPOINT_VERSION, "spec": self.spec()}
        state |= {"record": self.record, "count": 0}
        if self.whitening is not None:
            # Both are triangles, so together they take the room of one square.
            state |= {
                "count": self.moments.count,
                "mean": self.moments.mean,
                "scatter": pack(self.moments.scatter),
                "whitening": pack(self.whitening),
            }
        checkpoint["padim_lit"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = _checkpoint_state(checkpoint)
        if state["spec"] != self.spec():
            raise InputError(
                f"checkpoint of another config: {differences(state['spec'], self.spec())}"
            )
        self.record = state["record"]
        if state["count"]:
            dim = self.projection.dim
            scatter = unpack(state["scatter"], dim, symmetric=True)
            self.moments = Moments(state["count"], state["mean"], scatter)
            self.mean = state["mean"]
            self.whitening = unpack(state["whitening"], dim, symmetric=False)

    @classmethod
    def load_from_checkpoint(cls, path: str | Path, map_location: Any = "cpu") -> "PaDiM":
        """Rebuild a fitted PaDiM from its file alone; no download, and no pickle is executed.

        Raises:
            InputError: no such file, not a checkpoint of padim_lit, or of a newer version.
        """
        checkpoint = read_checkpoint(path, map_location)
        state = _checkpoint_state(checkpoint)
        weights, spec = checkpoint["state_dict"], state["spec"]
        net = _strip(weights, "backbone.net.")
        backbone = Backbone(**spec["backbone"], state=net)
        kind = PROJECTIONS.get(spec["proj"])
        if kind is None:
            raise InputError(
                f"{path}: made with proj={spec['proj']}, which is not registered here; "
                f"import the module that adds it to PROJECTIONS (known: {', '.join(PROJECTIONS)})"
            )
        projection = kind(backbone.embedding_dim, spec["dim"], spec["seed"], **spec["proj_options"])
        model = cls(
            backbone,
            projection,
            image_shape=tuple(spec["image_shape"]),
            eps=spec["eps"],
            grid=spec["grid"],
            sigma=spec["sigma"],
            image_score=spec["image_score"],
        )
        model.load_state_dict(weights)
        model.on_load_checkpoint(checkpoint)
        return model.eval()

    def _require_fitted(self) -> None:
        if self.whitening is None:
            raise InputError("this PaDiM has no Gaussians yet: fit it or load a checkpoint first")

    def _require_finite(self, values: Tensor, batch: dict[str, Any]) -> None:
        finite = values.flatten(1).sum(1).isfinite() if values.ndim > 1 else values.isfinite()
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            path = batch["path"][bad] if "path" in batch else f"image {bad} of the batch"
            raise InputError(
                f"{path}: its features are not finite; check the image and the weights"
            )

    def _sum_over_ranks(self, tensor: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(tensor, reduce_op="sum")


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint's content, read without executing any pickle.

    Raises:
        InputError: no such file, or not readable as a checkpoint.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"ckpt={path}: no such file; give the model.ckpt of an earlier run")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise InputError(
            f"ckpt={path}: not a readable checkpoint ({type(error).__name__}); give the model.ckpt "
            "of a finished run"
        ) from error
    try:
        _checkpoint_state(checkpoint)
    except InputError as error:
        raise InputError(f"ckpt={path}: {error}") from None
    return checkpoint


def differences(saved: dict[str, Any], given: dict[str, Any], prefix: str = "") -> str:
    """The keys in which two nested dicts differ: ``dim is 100 there and 50 here, …``."""
    found = []
    for key in given:
        there, here = saved.get(key), given[key]
        if isinstance(here, dict) and isinstance(there, dict):
            found.append(differences(there, here, f"{prefix}{key}."))
        elif there != here:
            found.append(f"{prefix}{key} is {there} there and {here} here")
    return ", ".join(f for f in found if f)


def _checkpoint_state(checkpoint: Any) -> dict[str, Any]:
    state = checkpoint.get("padim_lit") if isinstance(checkpoint, dict) else None
    if state is None:
        raise InputError("not a padim_lit checkpoint; give the model.ckpt of an earlier run")
    if state["version"] > CHECKPOINT_VERSION:
        raise InputError(
            f"written by a newer padim_lit (checkpoint version {state['version']}, this one reads "
            f"up to {CHECKPOINT_VERSION}); upgrade padim_lit"
        )
    if state["version"] == 1:
        state["spec"].setdefault("image_score", "max")
        if state["spec"]["proj"] == "minor":
            state["spec"]["proj_options"].setdefault("warmup", 100)
    return state


def _strip(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
