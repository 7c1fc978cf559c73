"""From patch distances to an anomaly map at image size, and to one score an image."""

from functools import partial

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from padim_lit.errors import InputError, require_choice


class AnomalyMap(nn.Module):
    """Bilinear upsampling and Gaussian blur of distances d (H,W) at once: A_h · d · A_wᵀ.

    Both steps are linear and act on rows and columns apart. Equals ``F.interpolate`` (bilinear,
    ``align_corners=False``), then SciPy's ``gaussian_filter(sigma)`` (reflected borders, cut at
    4σ), as in PaDiM's reference code.

    Args:
        grid: (H, W) of the distances.
        image_shape: (h, w) of the map, in pixels.
        sigma: σ of the blur in pixels; 0 leaves it out.
        offset: pixels (down, right) by which the map is moved back, up and to the left.

    Raises:
        InputError: σ below 0 or beyond the image.

    >>> AnomalyMap((2, 2), (4, 4), sigma=0)(torch.tensor([[0.0, 0.0, 1.0, 1.0]]))[0, :, 0].tolist()
    [0.0, 0.25, 0.75, 1.0]
    """

    rows: Tensor
    columns: Tensor
    roi: Tensor | None  # (h,w) bool, the pixels that count, see `RestrictedMap`; None: all

    def __init__(
        self, grid: tuple[int, int], image_shape: tuple[int, int], sigma: float = 4.0,
        offset: tuple[float, float] = (0.0, 0.0),
    ):  # fmt: skip
        super().__init__()
        if not 0 <= sigma <= max(image_shape):  # NaN fails too
            raise InputError(f"sigma={sigma}: must be between 0 (no blur) and the image's side")
        self.grid, self.image_shape = tuple(grid), tuple(image_shape)
        self.sigma, self.offset = sigma, offset
        self.register_buffer("roi", None, persistent=False)
        sides = zip(("rows", "columns"), image_shape, grid, offset, strict=True)
        for name, pixels, positions, far in sides:
            matrix = _blur(pixels, sigma) @ _upsample(positions, pixels, far)  # (h,H), then (w,W)
            self.register_buffer(name, matrix.float(), persistent=False)

    def forward(self, distances: Tensor) -> Tensor:
        """Return the map (B,h,w) of distances (B,P), in their unit."""
        return self.rows @ distances.unflatten(1, self.grid) @ self.columns.T

    def counted(self, distances: Tensor) -> Tensor:
        """Return those of (B,P,…) whose position counts: here all, see `RestrictedMap`."""
        return distances


#: Ways to make one score of an image's distances, see `image_score`.
IMAGE_SCORES = ("max", "topk", "contrast")
require_image_score = partial(require_choice, "image_score", allowed=IMAGE_SCORES)
# Share of the patches that "topk" averages, and of the median that "contrast" takes off.
TOP_SHARE, MEDIAN_SHARE = 0.02, 0.5


def image_score(distances: Tensor, anomaly_map: Tensor, how: str) -> Tensor:
    """Return one score an image, (B,), in the distances' unit.

    Args:
        distances: (B,P) Mahalanobis distances of the positions that count.
        anomaly_map: (B,h,w), made of them.
        how: "max", the maximum of the map (PaDiM §4.1.2); "topk", the mean of the highest 2 % of
            the distances, of one at least; "contrast", that less half of their median.

    >>> image_score(torch.tensor([[1.0, 3.0, 2.0]]), torch.ones(1, 4, 4), 'contrast').item()
    2.0
    """
    if how == "max":
        return anomaly_map.flatten(1).amax(dim=1)
    many, half = top_count(distances.shape[1]), distances.shape[1] // 2
    highest = distances.topk(many if how == "topk" else half + 1, dim=1).values
    top = highest[:, :many].mean(dim=1)
    return top if how == "topk" else top - MEDIAN_SHARE * highest[:, half]  # ONNX has no median


def top_count(positions: int) -> int:
    """Return how many of an image's distances "topk" averages.

    >>> top_count(784)
    16
    """
    return max(1, round(TOP_SHARE * positions))


def _upsample(positions: int, pixels: int, far: float) -> Tensor:
    """Return bilinear weights (pixels, positions) along one side, with half-pixel centres."""
    at = (torch.arange(pixels, dtype=torch.float64) + 0.5 + far) * positions / pixels - 0.5
    distance = at.clamp(0, positions - 1)[:, None] - torch.arange(positions)
    return (1 - distance.abs()).clamp(min=0)


def _blur(size: int, sigma: float) -> Tensor:
    """Return the weights (size, size) of a Gaussian blur along one side, reflected at its ends."""
    return torch.from_numpy(gaussian_filter1d(np.eye(size), sigma or 1e-9, axis=0))  # 0: none
