"""An anomaly map of a region of interest: what lies outside does not count."""

import torch
from torch import Tensor
from torch.nn import functional as F

from padim_lit.errors import InputError
from padim_lit.model.anomaly_map import AnomalyMap


class RestrictedMap(AnomalyMap):
    """`AnomalyMap` that is 0 outside of a region, whatever the distances there are.

    Inside, the blur is a mean over the positions that count alone, so that an edge of the region
    is not darker: A(w·M)/A(w), with A the whole map and w 1 for positions whose part of the image
    lies in the region, even in part, and 0 for others.

    Args:
        whole: the map of all of the image.
        roi: (h,w) bool.

    Raises:
        InputError: another shape, or nothing in it.

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
        # What would be taken from beyond the image is taken from its last positions.
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
    """Of the image's pixels, that count.

    >>> share(AnomalyMap((2, 2), (4, 4)))
    1.0
    """
    return 1.0 if map.roi is None else float(map.roi.float().mean())


def weights(map: AnomalyMap, row: int, column: int) -> Tensor:
    """w (P,) with map[row, column] = Σ_p w_p M_p.

    >>> weights(AnomalyMap((2, 2), (4, 4), sigma=0), 0, 0).tolist()
    [1.0, 0.0, 0.0, 0.0]
    """
    found = torch.outer(map.rows[row], map.columns[column]).flatten()
    if isinstance(map, RestrictedMap):
        found = found * map.inside * map.scale[row, column]
    return found
