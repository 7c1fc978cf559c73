"""What scores images: backbone, projection, Gaussians, anomaly map (symbols: docs/method.md)."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from padim_lit.errors import InputError, require_finite, require_kinds, require_tensors
from padim_lit.model.anomaly_map import AnomalyMap, image_score, require_image_score
from padim_lit.model.backbone import Backbone
from padim_lit.model.both import Both
from padim_lit.model.calibration import Calibration
from padim_lit.model.density import Density
from padim_lit.model.embedding import ProjectedLayer, add_up, project
from padim_lit.model.fit_state import FitState
from padim_lit.model.grid import require_neighbourhood, resolve_alignment, resolve_grid
from padim_lit.model.projection import Projection
from padim_lit.model.projection_cache import Layers, ProjectionCache
from padim_lit.model.registered import refuse_others, require_float32, require_rebuildable
from padim_lit.model.ridge import Ridge
from padim_lit.model.rotations import require_rotations, turned
from padim_lit.model.triangular import Triangle, scoring_bytes

#: The backbone's precision unless a fit used another, as Lightning names it.
FULL_PRECISION = "32-true"


class Detector(nn.Module):
    """Scores images and draws anomaly maps, in Mahalanobis distances (PaDiM §3; JL report §3).

    Args:
        backbone: frozen feature extractor with C channels.
        projection: Π from C to D numbers a patch.
        image_shape: (h, w) of the images in pixels.
        density: which Gaussians there are; None: `Both`. PaDiM is `PerPosition` with eps=0.01,
            eps_unit="feature", neighbourhood=1, grid=None, image_score="max", alignment=None.
        eps: ε ≥ 0, added to every covariance's diagonal (eq. 4).
        eps_unit: of ε: "feature" (squared, as in PaDiM) or "variance", see `Ridge`.
        neighbourhood: side of the square of positions that a patch averages, see `add_up`.
        rotations: V, directions that each image is fitted in, see `turned`.
        grid: positions along the longer side; features are averaged down to it. "auto" takes the
            second finest layer's grid, None the finest layer's.
        sigma: σ of the map's blur, in pixels.
        image_score: "max", "topk" or "contrast", see `padim_lit.model.anomaly_map.image_score`.
        alignment: see `padim_lit.model.grid.resolve_alignment`.

    Attributes:
        mean, whitening: μ (G,D) and W, G triangles of D rows; None before a fit.
        layer_means: (L,G,D), each layer's share of μ; None before a fit.
        count: N, the images that these were made of; 0 before a fit.
        fit_state: the sums that these were made of, to which images can be added; None before a
            fit and where a slim checkpoint was loaded.
        calibration: what held-out good images score; None where it was not measured.
        turned: called with images, gives them turned in each of the V directions.
        cache: projected layers of images that a fit needs twice; used during `PaDiM`'s fit alone.
        provenance: primitives on what was fitted (data, preprocessing, seed).

    Raises:
        InputError: arguments that do not fit each other.

    >>> from padim_lit import JL, PerPosition
    >>> backbone, density = Backbone('test_resnet', weights='random'), PerPosition(dim=8)
    >>> detector = Detector(backbone, JL(backbone.embedding_dim, dim=8), (64, 64), density)
    >>> state = detector.update_state(detector.empty_state(), {'image': torch.rand(4, 3, 64, 64)})
    >>> detector.set_state(state)
    >>> score, maps = detector(torch.rand(2, 3, 64, 64))
    >>> score.shape, maps.shape
    (torch.Size([2]), torch.Size([2, 64, 64]))
    """

    mean: Tensor
    layer_means: Tensor

    def __init__(
        self,
        backbone: Backbone,
        projection: Projection,
        image_shape: tuple[int, int] = (224, 224),
        density: Density | None = None,
        eps: float = 0.01,
        eps_unit: str = "variance",
        neighbourhood: int = 3,
        rotations: int = 1,
        grid: int | str | None = "auto",
        sigma: float = 4.0,
        image_score: str = "topk",
        alignment: str | Sequence[float] | None = "auto",
    ):
        super().__init__()
        require_kinds((backbone, Backbone), (projection, Projection), (density, Density | None))
        density, self.ridge = density or Both(projection.dim, projection.seed), Ridge(eps, eps_unit)
        require_neighbourhood(neighbourhood)
        require_rotations(rotations)
        if (wanted := projection.in_channels) != (given := backbone.embedding_dim):
            raise InputError(f"the projection takes C={wanted}, {backbone.name} gives {given}")
        if density.dim != (dim := projection.dim):
            raise InputError(f"the density takes D={density.dim}, the projection gives {dim}")
        require_rebuildable(projection, density)
        require_image_score(image_score)
        self.backbone, self.projection, self.density = backbone, projection, density
        h, w = image_shape
        self.image_shape, self.neighbourhood, self.rotations = (h, w), neighbourhood, rotations
        self.grid, self.sigma, self.image_score = grid, sigma, image_score
        self.alignment, self.turned = alignment, partial(turned, rotations=rotations)
        self.map_grid = resolve_grid(backbone.grids(self.image_shape), grid)
        offset = resolve_alignment(backbone, self.image_shape, self.map_grid, alignment)
        self.anomaly_map = AnomalyMap(self.map_grid, self.image_shape, sigma, offset)
        # No buffer: DDP would broadcast them before every step.
        self.fit_state: FitState | None = None
        self.cache, self.count = ProjectionCache(), 0
        self.calibration: Calibration | None = None
        self.provenance: dict[str, Any] = {}
        # Saved by `padim_lit.checkpoint`, not in the state dict.
        self.register_buffer("mean", None, persistent=False)
        self.register_buffer("layer_means", None, persistent=False)
        self.whitening: Triangle | None = None
        self.register_load_state_dict_pre_hook(refuse_others)

    @property
    def positions(self) -> int:
        """P = H·W, the grid's positions."""
        return self.map_grid[0] * self.map_grid[1]

    @property
    def gaussians(self) -> int:
        """G, the Gaussians of the density."""
        return self.density.gaussians(self.positions)

    @property
    def state_bytes(self) -> int:
        """Bytes that scoring needs beside backbone and Π, see `scoring_bytes`."""
        return scoring_bytes(self.gaussians, self.projection.dim)

    @property
    def threshold(self) -> float | None:
        """Of scores: from it on they are called defective; None where none was chosen."""
        return None if self.calibration is None else self.calibration.threshold

    @property
    def precision(self) -> str:
        """Precision of the backbone at the fit: "32-true" or "bf16-mixed"."""
        return self.provenance.get("precision", FULL_PRECISION)

    def _apply(self, change: Any, recurse: bool = True) -> "Detector":
        require_float32(change)  # of factors and moments too, which are no buffers
        if self.whitening is not None:
            self.whitening = self.whitening.map(change)
        if self.fit_state is not None:
            self.fit_state = self.fit_state.map(change)
        return super()._apply(change, recurse)

    @torch.no_grad()
    def project(self, images: Tensor, projection: Projection | None = None) -> Layers:
        """Return each layer's share of the embeddings of images (B,3,h,w), in float32."""
        self.backbone.require_images(images, self.image_shape)
        features = self.backbone(images)
        with torch.autocast(images.device.type, enabled=False):
            return project(features, projection or self.projection, self.map_grid)

    @torch.no_grad()
    def embed(self, images: Tensor, projection: Projection | None = None) -> Tensor:
        """Return the projected embeddings (B,P,D) of images (B,3,h,w)."""
        return self.add_up(self.project(images, projection), (projection or self.projection).dim)

    def layers(self, images: Tensor, projection: Projection | None = None) -> Iterator[Layers]:
        """Yield `project` of images (B,3,h,w) in each of the V directions."""
        for x in self.turned(images):  # the cache knows this Π alone
            yield self.project(x, projection) if projection else self.cache.layers(x, self.project)

    def embed_turned(self, images: Tensor, projection: Projection | None = None) -> Tensor:
        """Return the embeddings (B,V,P,D) of images (B,3,h,w) in all directions."""
        dim = (projection or self.projection).dim
        return torch.stack([self.add_up(x, dim) for x in self.layers(images, projection)], dim=1)

    def add_up(self, layers: Sequence[ProjectedLayer], dim: int | None = None) -> Tensor:
        """Return the embeddings (B,P,D) that the layers' shares add up to."""
        return add_up(layers, self.map_grid, dim or self.projection.dim, self.neighbourhood)

    @torch.inference_mode(False)
    def empty_state(self) -> FitState:
        """Return the sums over no image, for `update_state`, on the detector's device."""
        moments = self.density.empty(self.positions, self.projection.require_learnt().device)
        return FitState.empty(moments, len(self.backbone.layers))

    @torch.inference_mode(False)  # whose tensors could not be changed later
    @torch.no_grad()
    def update_state(self, state: FitState, batch: Mapping[str, Any]) -> FitState:
        """Add the images of a batch to `state`; use what is returned.

        Args:
            state: its scatter is changed in place, unless it is this detector's `fit_state`.
            batch: ``image`` (B,3,h,w), and where they are known ``digest`` (B,16) and ``path``.

        Raises:
            InputError: features that are not finite; it names the image.
        """
        require_tensors(batch, "image")
        if state is self.fit_state:  # which must stay what the Gaussians were made of
            state = state.map(Tensor.clone)
        for layers in self.layers(batch["image"]):
            for layer in layers:
                require_finite(layer.values, batch)
            shares = self.density.layer_embeddings(layers, self.add_up)
            x, counted = self.add_up(layers), self.anomaly_map.counted  # last: it may change layers
            moments, means = self.density.update_moments(state.moments, x, shares, counted)
            state = state.update(moments, means)
        return state.with_images(len(batch["image"]), batch.get("digest"))

    def distances(self, images: Tensor) -> Tensor:
        """Return the Mahalanobis distances (B,P), not squared, of images (B,3,h,w) in [0, 1]."""
        return self.distances_of(self.embed(images))

    def distances_of(self, x: Tensor) -> Tensor:
        """Return the Mahalanobis distances (B,P), not squared, of embeddings (B,P,D)."""
        with torch.autocast(x.device.type, enabled=False):
            return self.density.nearest(x, self.mean, self.require_fitted())[0]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (B,) and anomaly maps (B,h,w) of images (B,3,h,w) in [0, 1]."""
        distances = self.distances(images)
        with torch.autocast(images.device.type, enabled=False):
            maps = self.anomaly_map(distances)
        return image_score(self.anomaly_map.counted(distances), maps, self.image_score), maps

    def set_state(self, state: FitState) -> None:
        """Make Gaussians of the sums in `state`, and score with them from now on.

        Raises:
            InputError: fewer than 2 images, a state of another shape, or a singular covariance.
        """
        state.require_shape(len(self.backbone.layers), self.gaussians, self.projection.dim)
        if state.count < 2:
            raise InputError(f"{state.count} training image: at least 2 are needed; add good ones")
        self.whitening = self.density.factorize(state.moments, self.ridge)
        self.mean, self.layer_means, self.count = state.moments.mean, state.layer_means, state.count
        self.fit_state, self.calibration = state, None

    def reset(self) -> None:
        """Forget the Gaussians and the sums that they were made of, and free their memory."""
        self.fit_state, self.whitening, self.count, self.calibration = None, None, 0, None
        self.cache = ProjectionCache()
        self.mean = self.layer_means = None  # type: ignore[assignment]

    def require_fitted(self) -> Triangle:
        """Return the whitening factors; raise InputError where nothing was fitted."""
        if self.whitening is None:
            raise InputError("this PaDiM has no Gaussians yet: fit it or load a checkpoint first")
        return self.whitening

    def require_state(self) -> FitState:
        """Return the fit's sums; raise InputError where there are none to add to or take from."""
        self.require_fitted()
        if self.fit_state is None:
            raise InputError(
                "a slim checkpoint, and padim_lit.load, keep no sums: nothing is added, removed or "
                "calibrated; give the full model.ckpt (Python: load_detector, load_from_checkpoint)"
            )
        return self.fit_state
