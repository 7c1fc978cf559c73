"""From feature maps to projected patch embeddings, without building the C-channel embedding.

Π acts on channels and upsampling on positions, so they commute: Πx = Σ_l up(Π_l f_l). Each layer
is projected on its own grid and added into the result (docs/method.md: project before upsampling).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from padim_lit.model.projection import Projection


class ProjectedLayer(NamedTuple):
    """One layer's share Π_l f_l of the embeddings, on the layer's own grid.

    Attributes:
        values: (B,H_l,W_l,D_l) float32.
        dims: which D_l of the D dimensions these are; in the others this layer's share is zero.
    """

    values: Tensor
    dims: slice


def project(
    features: Sequence[Tensor], projection: Projection, grid: tuple[int, int]
) -> list[ProjectedLayer]:
    """Project each layer on its own grid, first averaged down to `grid` where that is coarser.

    Args:
        features: the layers' maps (B,C_l,H_l,W_l).
        projection: Π with C = Σ C_l.
        grid: (H, W) of the embeddings.

    >>> from padim_lit import JL
    >>> features = [torch.rand(1, 2, 4, 4), torch.rand(1, 3, 2, 2)]
    >>> layers = project(features, JL(5, 2), (4, 4))
    >>> [tuple(layer.values.shape) for layer in layers]
    [(1, 4, 4, 2), (1, 2, 2, 2)]
    """
    layers, start = [], 0
    for layer in features:
        # Averaging before the projection keeps the product on the smaller grid.
        layer = average_down(layer, grid)
        layers.append(ProjectedLayer(*projection.project_layer(layer, start)))
        start += layer.shape[1]
    return layers


def add_up(
    layers: Sequence[ProjectedLayer], grid: tuple[int, int], dim: int, neighbourhood: int = 1
) -> Tensor:
    """Return Πx = Σ_l up(Π_l f_l): the layers' shares, each repeated to the grid, and added.

    Args:
        layers: from `project`; their values may be changed.
        grid: (H, W).
        dim: D.
        neighbourhood: side s, odd: each position becomes the mean of the s×s around it (as in
            PatchCore, Roth et al. 2022, §3.1). At a border only n of these lie on the grid, and
            their mean is multiplied by √(n/s²): it varies more than that of s² positions.

    Returns:
        (B,P,D) float32, positions row by row.

    >>> one, two = torch.ones(1, 2, 2, 3), torch.ones(1, 1, 1, 3)
    >>> add_up([ProjectedLayer(x, slice(0, 3)) for x in (one, two)], (2, 2), 3)[0, :, 0].tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    height, width = grid
    first, *others = layers
    batch = first.values.shape[0]  # len() would be a constant in an exported graph
    if first.values.shape[1:] == (height, width, dim):
        out = first.values.contiguous()  # the finest layer starts the sum itself
    else:
        out = first.values.new_zeros(batch, height, width, dim)
        others = list(layers)
    for layer in others:
        _add_upsampled(out[..., layer.dims], layer.values)
    if neighbourhood > 1:
        # A mean is linear, so it may follow Π, which leaves fewer numbers to average.
        window = neighbourhood, 1, neighbourhood // 2  # side, stride, zeros beyond the border
        share = F.avg_pool2d(out.new_ones(1, 1, height, width), *window)  # n/s²
        around = F.avg_pool2d(out.permute(0, 3, 1, 2), *window) / share.sqrt()  # √(n/s²) · mean
        out = around.permute(0, 2, 3, 1).contiguous()
    return out.view(batch, height * width, dim)


def embed(
    features: Sequence[Tensor], projection: Projection, grid: tuple[int, int],
    neighbourhood: int = 1,
) -> Tensor:  # fmt: skip
    """Return `add_up` of `project`: embeddings Πx (B,P,D) (PaDiM §3.1 and JL report, eq. 6).

    Equals: bring every layer to the grid (nearest neighbour up, average down), concatenate on
    channels to x (B,C,H,W), average over the neighbourhood, multiply by Π.

    >>> from padim_lit import JL
    >>> embed([torch.rand(2, 5, 4, 4)], JL(5, 2), (4, 4)).shape
    torch.Size([2, 16, 2])
    """
    return add_up(project(features, projection, grid), grid, projection.dim, neighbourhood)


def average_down(layer: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return (B,C_l,H_l,W_l) in float32, averaged down to `grid` where that is coarser.

    >>> average_down(torch.ones(1, 3, 8, 4), (4, 4)).shape
    torch.Size([1, 3, 4, 4])
    """
    layer = layer.float()  # means of bfloat16 numbers would be rounded to bfloat16
    size = (min(layer.shape[-2], grid[0]), min(layer.shape[-1], grid[1]))
    return layer if size == tuple(layer.shape[-2:]) else F.adaptive_avg_pool2d(layer, size)


def _add_upsampled(out: Tensor, layer: Tensor) -> None:
    """Repeat `layer` (B,h,w,D_l) to the grid of `out` (B,H,W,D_l), and add it into `out`."""
    (height, width), (h, w) = out.shape[1:3], layer.shape[1:3]
    if height % h == 0 and width % w == 0:
        # A view of `out` in blocks: the repeated tensor is never made.
        blocks = out.unflatten(2, (w, width // w)).unflatten(1, (h, height // h))
        blocks += layer[:, :, None, :, None]
    else:
        rows = torch.arange(height, device=out.device) * h // height
        columns = torch.arange(width, device=out.device) * w // width
        out += layer[:, rows][:, :, columns]
