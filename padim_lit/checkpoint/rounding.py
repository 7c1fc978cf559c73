"""Packed triangles in eight bits: a quarter of float32, for slim checkpoints."""

import torch
from torch import Tensor

from padim_lit.model.triangular import Triangle

#: The largest integer, of either sign.
LARGEST_INTEGER = 127
#: bfloat16 has float32's range in half of its bits. Rounding the scales costs no precision, because
#: the integers are made with the rounded ones.
SCALE_DTYPE = torch.bfloat16


def to_int8(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row of each triangle as integers times a scale of its own.

    So a number is off by at most 1/254 of the largest in its row. Rows of W differ by orders of
    magnitude, and each gives one of the squares that add up to a squared distance: with one scale
    for all, small rows would be rounded away.

    Args:
        packed: G triangles of D rows, (G, D(D+1)/2), see `Triangle.pack`.

    Returns:
        Integers (G, D(D+1)/2) int8, and scales (G,D).

    >>> integers, scales = to_int8(torch.tensor([[-2.0, 0.01, 0.0]]))
    >>> integers.tolist(), scales.shape  # rows of one and of two numbers
    ([[-127, 127, 0]], torch.Size([1, 2]))
    """
    rows = _rows(packed)
    integers = torch.empty_like(packed, dtype=torch.int8)
    scales = packed.new_empty(len(packed), len(rows), dtype=SCALE_DTYPE)
    for row, into, scale in zip(rows, _rows(integers), scales.unbind(dim=1), strict=True):
        scale.copy_(row.abs().amax(dim=1) / LARGEST_INTEGER)
        step = torch.where(scale > 0, scale.float(), 1.0).unsqueeze(1)
        into.copy_((row / step).round_().clamp_(-LARGEST_INTEGER, LARGEST_INTEGER))
    return integers, scales


def from_int8(integers: Tensor, scales: Tensor) -> Triangle:
    """Return the triangles that `to_int8` rounded, in float32.

    >>> rounded = from_int8(torch.tensor([[100, -1, 0]]).to(torch.int8), torch.tensor([[0.5, 2.0]]))
    >>> rounded.pack().tolist()
    [[50.0, -2.0, 0.0]]
    """
    triangle = Triangle.unpack(integers, torch.float32)
    for rows, band in triangle:
        band *= scales[:, rows].unsqueeze(2).to(band.dtype)
    return triangle


def _rows(packed: Tensor) -> tuple[Tensor, ...]:
    """Return views: the first rows (G,1) of all triangles, the second rows (G,2), …"""
    dim = int((2 * packed.shape[1]) ** 0.5)
    return packed.split(list(range(1, dim + 1)), dim=1)
