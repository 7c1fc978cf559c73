"""Why an image scores as it does: which positions, and which of the backbone's layers.

A score is a weighted sum of distances, and Πx is a sum over the layers, so both questions have
exact answers: the shares of all positions, or of all layers, add up to the score.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padim_lit.deploy.regions import DIGITS, View
from padim_lit.model.anomaly_map import MEDIAN_SHARE, top_count
from padim_lit.model.detector import Detector
from padim_lit.model.embedding import project
from padim_lit.model.region_of_interest import weights
from padim_lit.system.console import percent

#: Positions that an explanation names, those with the largest shares first.
NAMED_POSITIONS = 5


@dataclass(frozen=True, slots=True)
class Position:
    """One patch position and its part in the score.

    Attributes:
        row, column: on the grid.
        box: (left, top, right, bottom) in pixels of the picture, as that of a region.
        distance: Mahalanobis distance there, not squared.
        share: of the image's score, above 0. Of "contrast", which takes something off, all shares
            above 0 may add up to more than 1.
    """

    row: int
    column: int
    box: tuple[float, float, float, float]
    distance: float
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """Shares of layers and positions in one image's score.

    Attributes:
        score: Mahalanobis distance, not squared.
        layers: each layer's share of the score by name, such as "layer 1 (56×56)"; they add up
            to 1. Below 0 where a layer makes the score smaller.
        positions: those with the largest shares, at most `NAMED_POSITIONS`.
        layer_maps: (L,h,w) float32 distances; they add up to the anomaly map.
    """

    score: float
    layers: dict[str, float]
    positions: list[Position]
    layer_maps: np.ndarray = field(repr=False)

    @property
    def captions(self) -> list[str]:
        """Return each layer's name and its share of the score; words tell where it is below 0."""
        return [
            f"{name}: {percent(share)} of the score" if share >= 0 else f"{name}: speaks against it"
            for name, share in self.layers.items()
        ]

    def layer_scale(self, scale: tuple[float, float]) -> tuple[float, float]:
        """Return (low, high) of a colour scale for all layer maps, from `scale` of the anomaly map.

        The low end is divided by the number of layers, so that shares of a low distance look low.
        """
        return scale[0] / len(self.layer_maps), scale[1]

    def numbers(self) -> dict[str, Any]:
        """Return the shares of layers and positions as primitives, for JSON."""
        positions = [
            asdict(one) | {"box": np.round(one.box, DIGITS).tolist()} for one in self.positions
        ]
        return {"layers": dict(self.layers), "positions": positions}


@torch.inference_mode()
def explain(detector: Detector, image: Tensor, view: View | None = None) -> Explanation:
    """Split the score of one image over layers and positions.

    With y = x − μ the sum of the layers' y_l, a squared distance d² = yᵀΣ⁻¹y is the sum of
    y_lᵀΣ⁻¹y, so layer l has y_lᵀΣ⁻¹y / d of the distance d. Where a patch's distance is a weighted
    sum of two (`Density.terms`), so is a layer's share of it. The map is linear in the distances,
    and the score is one of its values ("max"), a mean of distances ("topk"), or that less half of
    another one ("contrast"). So it is a weighted sum of distances, and of the layers' shares of
    them.

    Args:
        detector: fitted.
        image: (3,h,w) in [0, 1], as the model sees it.
        view: where the image lies in the picture; None: it is all of the picture.

    Raises:
        InputError: not fitted.

    >>> why = explain(detector, torch.rand(3, 64, 64))  # a fitted detector
    >>> list(why.layers)
    ['layer 1 (16×16)', 'layer 2 (8×8)', 'layer 3 (4×4)']
    >>> round(sum(why.layers.values()), 4)
    1.0
    """
    whitening, means = detector.require_fitted(), _layer_means(detector)
    features = detector.backbone(image[None].to(means.device))
    layers = project(features, detector.projection, detector.map_grid)
    shares = torch.cat([detector.add_up([layer]) for layer in layers])  # (L,P,D)
    x = shares.sum(dim=0, keepdim=True)
    by_layer, distances = torch.zeros_like(shares[..., 0]), torch.zeros_like(x[0, :, 0])
    for weight, owner in detector.density.terms(x, detector.mean, whitening):
        parts = shares - means[:, owner]
        # W y_l of every layer, so that y_lᵀΣ⁻¹y = (W y_l)ᵀ(W y).
        white = whitening.at(owner).times(parts.transpose(0, 1).contiguous())  # (P,L,D)
        total = white.sum(dim=1, keepdim=True)
        distance = total.square().sum(dim=2).sqrt()[:, 0]
        by_layer += weight * (white * total).sum(dim=2).T / distance.clamp(min=1e-30)  # (L,P)
        distances += weight * distance

    maps = detector.anomaly_map(by_layer)
    by_position = _weights(detector, distances, maps.sum(dim=0))
    parts_of_score = by_position * distances
    score = parts_of_score.sum()
    shares = (by_position * by_layer).sum(dim=1) / score.clamp(min=1e-30)
    names = [
        f"layer {layer} ({f.shape[-2]}×{f.shape[-1]})"
        for layer, f in zip(detector.backbone.layers, features, strict=True)
    ]
    return Explanation(
        float(score),
        dict(zip(names, shares.tolist(), strict=True)),
        _positions(detector, distances, parts_of_score / score.clamp(min=1e-30), view),
        maps.float().cpu().numpy(),
    )


def _layer_means(detector: Detector) -> Tensor:
    """Return each layer's share of the means, (L,G,D), also for components without patches."""
    means, mean = detector.layer_means.clone(), detector.mean.float()
    used = means.any(dim=2).any(dim=0)
    # Without patches the mean is a centroid, which has about the shares of the nearest other mean.
    near = torch.cdist(mean[~used], mean[used]).argmin(dim=1)
    means[:, ~used] = means[:, used][:, near]
    return means + (mean - means.sum(dim=0)) / len(means)


def _weights(detector: Detector, distances: Tensor, map: Tensor) -> Tensor:
    """Return how much each position's distance weighs in the score, (P,)."""
    if detector.image_score == "max":
        peak = int(map.argmax())
        return weights(detector.anomaly_map, *divmod(peak, map.shape[1]))
    every = torch.arange(len(distances), device=distances.device)
    counted = detector.anomaly_map.counted(every[None])[0]
    count, half = top_count(len(counted)), len(counted) // 2
    highest = counted[distances[counted].topk(half + 1).indices]
    found = torch.zeros_like(distances)
    found[highest[:count]] = 1 / count
    if detector.image_score == "contrast":
        found[highest[half]] -= MEDIAN_SHARE
    return found


def _positions(
    detector: Detector, distances: Tensor, shares: Tensor, view: View | None
) -> list[Position]:
    (height, width), (h, w) = detector.map_grid, detector.image_shape
    view, found = view or View((h, w), (0, 0, w, h)), []
    down, right = detector.anomaly_map.offset  # the map is drawn back by as much
    for index in shares.topk(min(NAMED_POSITIONS, len(shares))).indices.tolist():
        if shares[index] <= 0:
            break
        row, column = divmod(index, width)
        corners = ((column * w // width, row * h // height),
                   (-(-(column + 1) * w // width), -(-(row + 1) * h // height)))  # fmt: skip
        # A box at an edge is moved less, so that it stays in the image.
        moved = np.clip((right, down), np.subtract(corners[1], (w, h)), corners[0])
        box = tuple(view.place(np.subtract(corners, moved), (h, w)).flatten().tolist())
        found.append(Position(row, column, box, float(distances[index]), float(shares[index])))
    return found
