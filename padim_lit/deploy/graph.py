"""A fitted detector as one plain graph: image in, score, map and decision out."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from padim_lit.model.anomaly_map import image_score
from padim_lit.model.detector import Detector

#: What the graph returns, in order; without a threshold the last one is left out.
OUTPUTS = ("score", "map", "decision")


class Graph(nn.Module):
    """`Detector.forward` without what a graph cannot hold: no step reads a tensor's values.

    Same steps in the same order, so scores differ by rounding alone. This is the one place that
    knows how a detector stores its Gaussians.

    Args:
        detector: fitted.
        threshold: score from which an image is called defective, in the score's unit; None leaves
            the decision out.
        preprocess: take uint8 (B,h,w,3) RGB instead of float32 (B,3,h,w) in [0, 1].

    Raises:
        InputError: a detector that is not fitted.
    """

    def __init__(
        self, detector: Detector, threshold: float | None = None, preprocess: bool = False
    ):
        super().__init__()
        detector.require_fitted()
        self.threshold, self.preprocess, self.how = threshold, preprocess, detector.image_score
        self.net, self.channels = detector.backbone.net, detector.backbone.channels
        self.channels_last = detector.backbone.channels_last
        self.grid, self.dim = detector.map_grid, detector.projection.dim
        grids = detector.backbone.grids(detector.image_shape)
        for name, tensor in (
            ("pixel_mean", detector.backbone.pixel_mean),
            ("pixel_std", detector.backbone.pixel_std),
            ("mean", detector.mean.float().unsqueeze(2)),  # (P,D,1)
            ("rows", detector.anomaly_map.rows),
            ("columns", detector.anomaly_map.columns.T),
        ):
            self.register_buffer(name, tensor)
        self.stops = []
        for i, (rows, band) in enumerate(detector.whitening):
            self.stops.append(rows.stop)
            self.register_buffer(f"whitening{i}", band.float())
        start = 0
        for i, channels in enumerate(self.channels):
            columns = detector.projection.matrix[:, start : start + channels]
            self.register_buffer(f"projection{i}", columns[:, :, None, None].contiguous())
            start += channels
            for side, inside, outside in zip("hw", grids[i], self.grid, strict=True):
                # Averages down, or picks the nearest above; nothing where the sides agree.
                if inside > outside:
                    self.register_buffer(f"pool{i}{side}", _averages(inside, outside))
                if inside < outside:
                    nearest = torch.arange(outside) * inside // outside
                    self.register_buffer(f"nearest{i}{side}", nearest)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Images → score (B,), map (B,h,w) and, with a threshold, decision (B,) bool."""
        if self.preprocess:
            image = image.permute(0, 3, 1, 2).float() / 255
        distances = self._distances(self._embed((image - self.pixel_mean) / self.pixel_std))
        maps = self.rows @ distances.reshape(-1, *self.grid) @ self.columns
        score = image_score(distances, maps, self.how)
        if self.threshold is None:
            return score, maps
        return score, maps, score >= self.threshold

    def _embed(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,h,w) → (B,D,P); see `padim_lit.model.embedding.embed`."""
        total = None
        for i, layer in enumerate(self.net(x)):
            if self.channels_last:
                layer = layer.permute(0, 3, 1, 2)
            layer = self._pool(layer, i)
            layer = F.conv2d(layer, getattr(self, f"projection{i}"))
            for side, axis in (("h", 2), ("w", 3)):
                if hasattr(self, f"nearest{i}{side}"):
                    layer = layer.index_select(axis, getattr(self, f"nearest{i}{side}"))
            total = layer if total is None else total + layer
        return total.flatten(2)

    def _pool(self, layer: Tensor, i: int) -> Tensor:
        down, across = (getattr(self, f"pool{i}{side}", None) for side in "hw")
        steps = [1 if m is None else m.shape[1] / m.shape[0] for m in (down, across)]
        if max(steps) == 1:
            return layer
        if all(step == int(step) for step in steps):
            return F.avg_pool2d(layer, [int(step) for step in steps])
        if down is not None:
            layer = down @ layer
        return layer if across is None else layer @ across.T

    def _distances(self, x: Tensor) -> Tensor:
        """(B,D,P) → M = ‖W(x−μ)‖ (B,P), eq. 5 and 10."""
        deviation = x.permute(2, 1, 0) - self.mean
        squares: Tensor | float = 0.0
        for i, stop in enumerate(self.stops):
            z = getattr(self, f"whitening{i}") @ deviation[:, :stop]
            squares = squares + (z * z).sum(dim=1)
        return squares.sqrt().T


def names(threshold: float | None) -> Iterable[str]:
    """Those of `OUTPUTS` that a graph with this threshold has."""
    return OUTPUTS if threshold is not None else OUTPUTS[:-1]


def _averages(inside: int, outside: int) -> Tensor:
    """(outside, inside) weights of adaptive average pooling along one side."""
    return F.adaptive_avg_pool1d(torch.eye(inside)[None], outside)[0].T.contiguous()
