"""A fitted detector as one plain graph: image in, score, map and decision out."""

from collections.abc import Iterable

from torch import Tensor, nn

from padim_lit.model.anomaly_map import image_score
from padim_lit.model.detector import Detector
from padim_lit.model.embedding import add_up, project
from padim_lit.model.projection import Projection

#: What the graph returns, in order; without a threshold the last one is left out.
OUTPUTS = ("score", "map", "decision")


class Graph(nn.Module):
    """`Detector.forward` without what a graph cannot hold: no step reads a tensor's values.

    Backbone, embedding and map are the detector's own; projections are multiplied, also where the
    detector picks channels, and distances are taken of all positions at once.

    Args:
        detector: fitted.
        threshold: score from which an image is called defective, in the score's unit; None leaves
            the decision out.
        preprocess: take uint8 (B,h,w,3) RGB instead of float32 (B,3,h,w) in [0, 1].

    Raises:
        InputError: a detector that is not fitted.

    >>> import torch
    >>> score, maps, decision = Graph(detector, threshold=3.0)(torch.rand(2, 3, 64, 64))
    >>> score.shape, maps.shape, decision.dtype
    (torch.Size([2]), torch.Size([2, 64, 64]), torch.bool)
    """

    mean: Tensor

    def __init__(
        self, detector: Detector, threshold: float | None = None, preprocess: bool = False
    ):
        super().__init__()
        whitening = detector.require_fitted()
        self.threshold, self.preprocess, self.how = threshold, preprocess, detector.image_score
        self.backbone, self.projection = detector.backbone, detector.projection
        self.anomaly_map, self.grid = detector.anomaly_map, detector.map_grid
        self.register_buffer("mean", detector.mean.float().unsqueeze(2))  # (P,D,1)
        self.stops = [rows.stop for rows, _ in whitening]
        for i, band in enumerate(whitening.bands):
            self.register_buffer(f"whitening{i}", band.float())

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Images → score (B,), map (B,h,w) and, with a threshold, decision (B,) bool."""
        if self.preprocess:
            image = image.permute(0, 3, 1, 2).float() / 255
        layers = project(self.backbone(image), self, self.grid)
        distances = self._distances(add_up(layers, self.grid, self.projection.dim))
        maps = self.anomaly_map(distances)
        score = image_score(self.anomaly_map.counted(distances), maps, self.how)
        if self.threshold is None:
            return score, maps
        return score, maps, score >= self.threshold

    def project_layer(self, features: Tensor, start: int) -> tuple[Tensor, slice]:
        """As any projection's: a product with its columns."""
        return Projection.project_layer(self.projection, features, start)

    def _distances(self, x: Tensor) -> Tensor:
        """(B,P,D) → M = ‖W(x−μ)‖ (B,P), eq. 5 and 10."""
        deviation = x.permute(1, 2, 0) - self.mean
        squares: Tensor | float = 0.0
        for i, stop in enumerate(self.stops):
            z = getattr(self, f"whitening{i}") @ deviation[:, :stop]
            squares = squares + (z * z).sum(dim=1)
        return squares.sqrt().T


def names(threshold: float | None) -> Iterable[str]:
    """Those of `OUTPUTS` that a graph with this threshold has.

    >>> list(names(None))
    ['score', 'map']
    """
    return OUTPUTS if threshold is not None else OUTPUTS[:-1]
