"""From patch distances to an anomaly map at image size, and to one score an image."""

import math

import torch
from torch import Tensor, nn

from padim_lit.errors import InputError


class AnomalyMap(nn.Module):
    """Bilinear upsampling and Gaussian blur as one separable linear map: A_h · M · A_wᵀ.

    Both steps are linear and act on rows and columns apart, so each side has one small matrix,
    made once. Equals ``F.interpolate(mode="bilinear", align_corners=False)`` followed by SciPy's
    ``gaussian_filter(sigma)`` (reflected borders, cut at 4σ), PaDiM's reference behaviour.

    Args:
        grid: (H, W) of the distances.
        image_shape: (h, w) of the map, in pixels.
        sigma: σ of the blur in pixels; 0 leaves it out.

    Raises:
        InputError: σ below 0 or beyond the image.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, grid: tuple[int, int], image_shape: tuple[int, int], sigma: float = 4.0):
        super().__init__()
        if not 0 <= sigma <= max(image_shape):  # NaN fails too
            raise InputError(
                f"sigma={sigma}: must be between 0 (no blur) and the image's side, in pixels"
            )
        self.grid, self.image_shape, self.sigma = tuple(grid), tuple(image_shape), sigma
        for name, inside, outside in zip(("rows", "columns"), grid, image_shape, strict=True):
            matrix = _blur(outside, sigma) @ _upsample(inside, outside)
            self.register_buffer(name, matrix.float(), persistent=False)

    def forward(self, distances: Tensor) -> Tensor:
        """(B,P) distances → (B,h,w) map, in the same unit."""
        return self.rows @ distances.unflatten(1, self.grid) @ self.columns.T


#: Ways to make one score of an image's distances.
IMAGE_SCORES = ("max", "topk")
# Share of the patches that "topk" averages.
TOP_SHARE = 0.02


def require_image_score(how: str) -> None:
    """Raise InputError unless `how` is one of `IMAGE_SCORES`."""
    if how not in IMAGE_SCORES:
        raise InputError(f"image_score={how}: unknown; allowed: {', '.join(IMAGE_SCORES)}")


def image_score(distances: Tensor, anomaly_map: Tensor, how: str = "max") -> Tensor:
    """One score an image, (B,), in the distances' unit.

    Args:
        distances: (B,P) Mahalanobis distances.
        anomaly_map: (B,h,w), made of them.
        how: "max", the maximum of the map (PaDiM §4.1.2), or "topk", the mean of the top 2 % of
            the distances, at least one.
    """
    if how == "max":
        return anomaly_map.flatten(1).amax(dim=1)
    return distances.topk(top_count(distances.shape[1]), dim=1).values.mean(dim=1)


def top_count(positions: int) -> int:
    """How many distances "topk" averages."""
    return max(1, round(TOP_SHARE * positions))


def _upsample(inside: int, outside: int) -> Tensor:
    """(outside, inside) weights of bilinear interpolation along one side, half-pixel centres."""
    centre = ((torch.arange(outside, dtype=torch.float64) + 0.5) * inside / outside - 0.5).clamp(0)
    low = centre.floor().long().clamp(max=inside - 1)
    high = (low + 1).clamp(max=inside - 1)
    share = centre - low
    matrix = torch.zeros(outside, inside, dtype=torch.float64)
    index = torch.arange(outside)
    matrix.index_put_((index, low), 1 - share, accumulate=True)
    matrix.index_put_((index, high), share, accumulate=True)
    return matrix


def _blur(size: int, sigma: float) -> Tensor:
    """(size, size) weights of a Gaussian blur along one side, reflected at its ends (dcba|abcd)."""
    if sigma == 0:
        return torch.eye(size, dtype=torch.float64)
    radius = math.floor(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel /= kernel.sum()
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for row in range(size):
        folded = (row + offsets) % (2 * size)
        source = torch.where(folded < size, folded, 2 * size - 1 - folded)
        matrix[row].index_add_(0, source, kernel)
    return matrix
