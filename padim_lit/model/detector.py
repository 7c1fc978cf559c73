"""What scores images: backbone, projection, one Gaussian a position, anomaly map."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from padim_lit.checkpoint import format as checkpoint
from padim_lit.errors import InputError
from padim_lit.model.anomaly_map import AnomalyMap, image_score, require_image_score
from padim_lit.model.backbone import Backbone
from padim_lit.model.embedding import embed, resolve_grid
from padim_lit.model.gaussian import mahalanobis, scoring_bytes, whiten
from padim_lit.model.moments import Moments, init, update
from padim_lit.model.projection import PROJECTIONS, Projection
from padim_lit.model.triangular import Triangle, triangle_bytes

#: Of the backbone, as Lightning names it; `Detector.precision` says what a fit used.
FULL_PRECISION = "32-true"


class Detector(nn.Module):
    """Images in, Mahalanobis scores and maps out (PaDiM §3; JL report §3).

    Args:
        backbone: frozen feature extractor with C channels.
        projection: Π from C to D.
        image_shape: (h, w) of the images in pixels.
        eps: ε ≥ 0 added to every covariance's diagonal, in squared feature units (eq. 4).
        grid: positions along the longer side; features are averaged down to it. "auto" takes the
            second finest layer's grid, None the finest layer's.
        sigma: σ of the map's blur, in pixels.
        image_score: "max" or "topk", see `padim_lit.model.anomaly_map.image_score`.

    Attributes:
        mean, whitening: (P,D) and P triangles of D rows after a fit, else None.
        layer_means: (L,P,D), each layer's share of the mean; None where it is not known.
        moments: what they were made of; None before a fit and in slim checkpoints.
        count: N, the images that they were made of; 0 before a fit.
        images: content digests (N,16) of the images in the moments; None where unknown.
        calibration: what held-out good images score; None where it was not measured.
        provenance: primitives on what was fitted (data, preprocessing, seed).

    Raises:
        InputError: arguments that do not fit each other.
    """

    mean: Tensor
    layer_means: Tensor | None

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
        self.backbone, self.projection = backbone, projection
        h, w = image_shape
        self.image_shape, self.eps, self.grid, self.sigma = (h, w), eps, grid, sigma
        self.image_score = image_score
        self.map_grid = resolve_grid(backbone.grids(self.image_shape), grid)
        self.anomaly_map = AnomalyMap(self.map_grid, self.image_shape, sigma)
        # No buffer: DDP would broadcast them before every step.
        self.moments: Moments | None = None
        self.count = 0
        self.images: Tensor | None = None
        self.calibration: dict[str, Any] | None = None
        self.provenance: dict[str, Any] = {}
        # Saved packed and with a version by `state`, not in the state dict.
        self.register_buffer("mean", None, persistent=False)
        self.register_buffer("layer_means", None, persistent=False)
        self.whitening: Triangle | None = None

    @property
    def positions(self) -> int:
        """P = H·W."""
        return self.map_grid[0] * self.map_grid[1]

    @property
    def state_bytes(self) -> int:
        """Bytes of what scoring needs beside backbone and Π, see `scoring_bytes`."""
        return scoring_bytes(self.positions, self.projection.dim)

    @property
    def fit_bytes(self) -> int:
        """Bytes of moments and factors in memory."""
        dim = self.projection.dim
        return 2 * triangle_bytes(self.positions, dim) + 8 * self.positions * dim

    @property
    def precision(self) -> str:
        """What the backbone was computed in at the fit: "32-true", or "bf16-mixed"."""
        return self.provenance.get("precision", FULL_PRECISION)

    def _apply(self, change: Any, recurse: bool = True) -> "Detector":
        # Where the module moves, its factors and moments move; as bands they are no buffers.
        if self.whitening is not None:
            self.whitening = self.whitening.map(change)
        if self.moments is not None:
            self.moments = self.moments.map(change)
        return super()._apply(change, recurse)

    @torch.no_grad()
    def embed(
        self, images: Tensor, projection: Projection | None = None, means: Tensor | None = None
    ) -> Tensor:
        """(B,3,h,w) images → (B,P,D) projected embeddings, float32 under any autocast.

        `means` is filled with the layers' shares, see `padim_lit.model.embedding.embed`.
        """
        features = self.backbone(images)
        with torch.autocast(images.device.type, enabled=False):
            return embed(features, projection or self.projection, self.map_grid, means)

    def no_moments(self) -> Moments:
        """Moments of no image, for `update_moments`, where the module is."""
        device, layers = self.projection.matrix.device, len(self.backbone.layers)
        return init(self.positions, self.projection.dim, device, layers=layers)

    @torch.no_grad()
    def update_moments(
        self, moments: Moments, images: Tensor, check: Callable[[Tensor], None]
    ) -> Moments:
        """Moments with these images (B,3,h,w) too; `check` sees the embeddings (B,P,D) before.

        The scatter is changed in place, see `padim_lit.model.moments.update`.
        """
        shape = (len(self.backbone.layers), self.positions, self.projection.dim)
        means = torch.zeros(shape, device=images.device)
        x = self.embed(images, means=means)
        check(x)
        return update(moments, x, means)

    def distances(self, images: Tensor) -> Tensor:
        """(B,3,h,w) images in [0, 1] → (B,P) Mahalanobis distances, not squared."""
        x = self.embed(images)
        with torch.autocast(images.device.type, enabled=False):
            return mahalanobis(x, self.mean, self.require_fitted())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B,3,h,w) images in [0, 1] → scores (B,) and anomaly maps (B,h,w)."""
        distances = self.distances(images)
        with torch.autocast(images.device.type, enabled=False):
            maps = self.anomaly_map(distances)
        return image_score(distances, maps, self.image_score), maps

    def set_moments(self, moments: Moments, images: Tensor | None = None) -> None:
        """Score with the Gaussians of these moments from now on.

        Raises:
            InputError: fewer than 2 images, or a singular covariance.
        """
        self.mean, self.whitening = moments.mean, whiten(moments, self.eps)
        self.count = moments.count
        self.layer_means = moments.layers
        self.moments, self.images, self.calibration = moments, images, None

    def require_fitted(self) -> Triangle:
        """The whitening factors; InputError unless there are Gaussians to score with."""
        if self.whitening is None:
            raise InputError("this PaDiM has no Gaussians yet: fit it or load a checkpoint first")
        return self.whitening

    def require_moments(self) -> Moments:
        """The moments; InputError unless there are any to add to, take from or merge."""
        self.require_fitted()
        if self.moments is None:
            raise InputError(
                "this is a slim checkpoint (mode=export format=torch): it scores, but holds no "
                "moments to merge, update or remove from; give the full model.ckpt"
            )
        return self.moments

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

    def state(self) -> dict[str, Any]:
        """What `padim_lit.checkpoint.format` keeps beside the state dict."""
        state: dict[str, Any] = {"version": checkpoint.VERSION, "spec": self.spec()}
        state |= {"provenance": self.provenance, "count": 0, "images": None, "calibration": None}
        if self.whitening is not None:
            # The bands themselves: packing would need the room of both once more.
            state |= {
                "count": self.count,
                "mean": self.mean,
                "layer_means": self.layer_means,
                "scatter": None if self.moments is None else list(self.moments.scatter.bands),
                "whitening": list(self.whitening.bands),
                "images": self.images,
                "calibration": self.calibration,
            }
        return state

    def save(self, path: Path) -> None:
        """Write all of it for `load_from_checkpoint`, whole or not at all."""
        content = {"state_dict": self.state_dict(), checkpoint.KEY: self.state()}
        checkpoint.write(path, content)

    def slim_state(self, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
        """`state` for scoring alone: no scatter, no digests, whitening packed, in `dtype`.

        Raises:
            InputError: not fitted.
        """
        packed = self.require_fitted().pack(dtype)
        slim = {"scatter": None, "images": None, "whitening": packed}
        return self.state() | slim

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` gave; InputError where it is another config's."""
        if state["spec"] != self.spec():
            wrong = checkpoint.differences(state["spec"], self.spec())
            raise InputError(f"checkpoint of another config: {wrong}")
        self.provenance = state["provenance"]
        if state["count"]:
            self.count, self.mean, self.moments = state["count"], state["mean"], None
            self.layer_means = state["layer_means"]
            if state["scatter"] is not None:  # of a slim checkpoint it is
                scatter = _triangle(state["scatter"], symmetric=True)
                self.moments = Moments(self.count, self.mean, scatter, self.layer_means)
            self.whitening = _triangle(state["whitening"], symmetric=False)
            self.images, self.calibration = state["images"], state["calibration"]

    @classmethod
    @checkpoint.explained
    def load_from_checkpoint(cls, path: str | Path, map_location: Any = "cpu") -> "Detector":
        """Rebuild a fitted model from its file alone; no download, and no pickle is executed.

        Raises:
            InputError: no such file, not a checkpoint of padim_lit, or of a newer version.
        """
        content = checkpoint.read(path)
        weights, state = content["state_dict"], content[checkpoint.KEY]
        spec = state["spec"]
        backbone = Backbone(
            **spec["backbone"], state=checkpoint.submodule_state(weights, "backbone.net.")
        )
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
        model.restore(state)
        return model.eval().to(map_location)


def _triangle(saved: Tensor | list[Tensor], symmetric: bool) -> Triangle:
    """Of bands, or packed as versions 1 and 2 and slim checkpoints have it."""
    if isinstance(saved, Tensor):
        return Triangle.unpack(saved.float(), symmetric)
    return Triangle(tuple(saved))
