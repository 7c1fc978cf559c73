"""An anomaly map restricted to a region of interest: what lies outside does not count."""

import torch
from torch import Tensor
from torch.nn import functional as F

from padim_lit.errors import InputError
from padim_lit.model.anomaly_map import AnomalyMap


class RestrictedMap(AnomalyMap):
    """`AnomalyMap` that is 0 outside of a region, whatever the distances there are.

    Inside it is A(r·d)/A(r), with A the unrestricted map, d the distances, and r 1 for positions
    whose part of the image lies in the region, even in part, and 0 for others. Divided so, the blur
    is a mean over these positions only, and an edge of the region is not darker.

    Args:
        whole: A, the map of the whole image.
        roi: (h,w) bool, True in the region.

    Raises:
        InputError: another shape, or an empty region.

    >>> roi = torch.tensor([[True, True, False, False]] * 4)
    >>> found = RestrictedMap(AnomalyMap((2, 2), (4, 4), sigma=0), roi)
    >>> found(torch.tensor([[1.0, 9.0, 1.0, 9.0]]))[0, 0].tolist(), share(found)
    ([1.0, 1.0, 0.0, 0.0], 0.5)
    """

    roi: Tensor
    inside: Tensor
    kept: Tensor
    scale: Tensor

    def __init__(self, whole: AnomalyMap, roi: Tensor):
        super().__init__(whole.grid, whole.image_shape, whole.sigma, whole.offset)
        if tuple(roi.shape) != self.image_shape or not roi.any():
            raise InputError(
                f"a region of interest {tuple(roi.shape)} with {int(roi.sum())} pixels: must be "
                f"{self.image_shape}, what the model sees, with at least one"
            )
        roi = roi.cpu()
        rows, columns = (  # where the map takes its pixels from
            (torch.arange(side) - round(far)).clamp(0, side - 1)
            for side, far in zip(roi.shape, self.offset, strict=True)
        )
        drawn = roi[rows][:, columns].float()
        # Pixels that the offset would take from beyond the image take the nearest position.
        (height, width), (down, right) = roi.shape, map(round, self.offset)
        y, x = roi.nonzero().T
        drawn[(y + down).clamp(0, height - 1), (x + right).clamp(0, width - 1)] = 1
        inside = F.adaptive_max_pool2d(drawn[None], self.grid).flatten()
        reached = super().forward(inside[None])[0]
        buffers = {"roi": roi, "inside": inside, "kept": inside.nonzero().flatten()}
        buffers["scale"] = torch.where(roi, 1 / reached.clamp(min=1e-30), 0)
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)
        self.to(whole.rows.device)

    def forward(self, distances: Tensor) -> Tensor:
        return super().forward(distances * self.inside) * self.scale

    def counted(self, distances: Tensor) -> Tensor:
        return distances[:, self.kept]


def share(map: AnomalyMap) -> float:
    """Return the share of the image's pixels that count.

    >>> share(AnomalyMap((2, 2), (4, 4)))
    1.0
    """
    return 1.0 if map.roi is None else float(map.roi.float().mean())


def weights(map: AnomalyMap, row: int, column: int) -> Tensor:
    """Return how much each position's distance weighs in one pixel of the map, (P,).

    >>> weights(AnomalyMap((2, 2), (4, 4), sigma=0), 0, 0).tolist()
    [1.0, 0.0, 0.0, 0.0]
    """
    found = torch.outer(map.rows[row], map.columns[column]).flatten()
    if isinstance(map, RestrictedMap):
        found = found * map.inside * map.scale[row, column]
    return found
