"""A fitted detector as one graph for export: image in, score, map and decision out."""

from torch import Tensor, nn

from padim_lit.errors import InputError
from padim_lit.model.anomaly_map import image_score
from padim_lit.model.density import Density, PerPosition
from padim_lit.model.detector import Detector
from padim_lit.model.embedding import project
from padim_lit.model.mixture import Mixture
from padim_lit.model.projection import Projection
from padim_lit.model.search import Exhaustive
from padim_lit.model.triangular import Triangle

#: The graph's outputs, in order; without a threshold the last is left out.
OUTPUTS = ("score", "map", "decision")
# Numbers that a mixture's step writes for each patch: those of a thousand patches stay in a cache.
SCRATCH_NUMBERS = 800


class Graph(nn.Module):
    """`Detector.forward` as a graph can hold it: no step depends on a tensor's values.

    Backbone, embedding and map are the detector's own. Projections are matrix products, also where
    the detector picks channels, and all distances are computed.

    Args:
        detector: fitted.
        threshold: score from which an image is called defective, in the score's unit; None leaves
            the decision out.
        preprocess: take uint8 (B,h,w,3) RGB instead of float32 (B,3,h,w) in [0, 1].

    Raises:
        InputError: a detector that is not fitted, or whose density is a class of one's own.

    >>> import torch
    >>> score, maps, decision = Graph(detector, threshold=3.0)(torch.rand(2, 3, 64, 64))
    >>> score.shape, maps.shape, decision.dtype
    (torch.Size([2]), torch.Size([2, 64, 64]), torch.bool)
    """

    def __init__(
        self, detector: Detector, threshold: float | None = None, preprocess: bool = False
    ):
        super().__init__()
        self.image, self.backbone = first_step(preprocess), detector.backbone
        self.scores = Scores(detector, threshold)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return score (B,), map (B,h,w) and, with a threshold, decision (B,) bool, of images."""
        return self.scores(*self.backbone(self.image(image)))


class Scores(nn.Module):
    """The part of a `Graph` after the backbone, whose maps (B,C_l,H_l,W_l) it takes.

    >>> Scores(detector)(*detector.backbone(torch.rand(2, 3, 64, 64)))[0].shape
    torch.Size([2])
    """

    def __init__(self, detector: Detector, threshold: float | None = None):
        super().__init__()
        whitening = detector.require_fitted()
        self.threshold, self.how = threshold, detector.image_score
        self.projection, density = detector.projection, detector.density
        self.combine = density.combine
        self.anomaly_map, self.grid = detector.anomaly_map, detector.map_grid
        self.add_up = detector.add_up
        self.parts = nn.ModuleList(
            _measuring(part)(detector.mean[some], whitening.at(some))
            for part, some in density.parts(detector.positions)
        )

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        x = self.add_up(project(features, self, self.grid))
        distances = self.combine([part(x) for part in self.parts])
        maps = self.anomaly_map(distances)
        score = image_score(self.anomaly_map.counted(distances), maps, self.how)
        if self.threshold is None:
            return score, maps
        return score, maps, score >= self.threshold

    def project_layer(self, features: Tensor, start: int) -> tuple[Tensor, slice]:
        """Project one layer by a matrix product, see `Projection.project_layer`."""
        return Projection.project_layer(self.projection, features, start)


def first_step(preprocess: bool) -> nn.Module:
    """Return the module that turns a graph's input into images in [0, 1].

    With `preprocess` the input is uint8, otherwise such images.

    >>> first_step(preprocess=True)
    Pixels()
    """
    return Pixels() if preprocess else nn.Identity()


class Pixels(nn.Module):
    """Turns uint8 (B,h,w,3) RGB into float32 (B,3,h,w) in [0, 1].

    >>> Pixels()(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8)).max().item()
    1.0
    """

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.permute(0, 3, 1, 2).float() / 255


class OfPositions(nn.Module):
    """Distances d = ‖W(x−μ)‖ (B,P) of (B,P,D), eq. 5 and 10, with a Gaussian for each position.

    >>> OfPositions(detector.mean.float(), detector.whitening)(torch.zeros(1, 64, 8)).shape
    torch.Size([1, 64])
    """

    mean: Tensor

    def __init__(self, mean: Tensor, whitening: Triangle):
        super().__init__()
        self.register_buffer("mean", mean.float().unsqueeze(2))  # (P,D,1)
        self.stops = [rows.stop for rows, _ in whitening]
        for i, band in enumerate(whitening.bands):
            self.register_buffer(f"whitening{i}", band.float())

    def forward(self, x: Tensor) -> Tensor:
        deviation = x.permute(1, 2, 0) - self.mean
        squares: Tensor | float = 0.0
        for i, stop in enumerate(self.stops):
            z = getattr(self, f"whitening{i}") @ deviation[:, :stop]
            squares = squares + (z * z).sum(dim=1)
        return squares.sqrt().T


class OfComponents(Exhaustive):
    """Distances d = min_k ‖W_k(x−μ_k)‖ (B,P) of (B,P,D), over the K components of a mixture.

    >>> OfComponents(detector.mean.float(), detector.whitening)(torch.zeros(1, 9, 8)).shape
    torch.Size([1, 9])
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, at_once=max(1, SCRATCH_NUMBERS // self.dim))[0]


def _measuring(density: Density) -> type[nn.Module]:
    """Return the class of modules that compute distances to this density's Gaussians."""
    if type(density) is PerPosition:
        return OfPositions
    if type(density) is Mixture:
        return OfComponents
    raise InputError(
        f"density={density.name}: a graph is known of padim_lit's own densities alone; use "
        "format=torch"
    )
