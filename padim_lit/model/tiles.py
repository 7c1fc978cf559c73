"""Large images as overlapping tiles: what a tile shows, and which of its features are kept."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from padim_lit.errors import InputError, as_pair

#: Pixels that a tile shows of its neighbours on each side, at least.
MARGIN = 32
MAX_TILES = 64


class Span(NamedTuple):
    """One tile along one side: pixels `start` to `stop`, of which `first` to `last` are its own."""

    start: int
    stop: int
    first: int
    last: int

    def seen(self) -> slice:
        """Return the pixels of the image that the tile shows."""
        return slice(self.start, self.stop)

    def own(self, stride: int) -> slice:
        """Return which of the tile's features, one every `stride` pixels, are kept."""
        return slice((self.first - self.start) // stride, (self.last - self.start) // stride)


def spans(side: int, tiles: int, step: int) -> list[Span]:
    """Return equal tiles of one side; those at the image's ends overlap more, and stay inside.

    Args:
        side: in pixels, a multiple of `tiles` times `step`.
        tiles: how many.
        step: in pixels; the edges of tiles are multiples of it.

    >>> spans(448, 2, 16)[1]
    Span(start=160, stop=448, first=224, last=448)
    """
    own, margin = side // tiles, math.ceil(MARGIN / step) * step
    size = min(own + 2 * margin, side)
    starts = [min(max(i * own - margin, 0), side - size) for i in range(tiles)]
    return [Span(at, at + size, i * own, (i + 1) * own) for i, at in enumerate(starts)]


def layout(
    shape: Sequence[int], tiles: Sequence[int], strides: Sequence[int]
) -> tuple[list[Span], list[Span]]:
    """Return the tiles along h and along w.

    Args:
        shape: (h, w) of the image.
        tiles: how many along h and w.
        strides: s_l of each layer, in pixels.

    Raises:
        InputError: h or w is no multiple of its tiles times the strides.

    >>> rows, columns = layout((896, 448), (4, 1), (4, 8, 16))
    >>> len(rows), columns
    (4, [Span(start=0, stop=448, first=0, last=448)])
    """
    step = math.lcm(*strides)
    near = [max(1, round(s / (n * step))) * n * step for s, n in zip(shape, tiles, strict=True)]
    if near != list(shape):
        given, todo = (str(list(sides)).replace(" ", "") for sides in (tiles, near))  # as typed
        raise InputError(
            f"tiles={given} of {shape[0]}×{shape[1]} pixels: each side must be a multiple of "
            f"its tiles times {step}, the backbone's stride; set image_size={todo} crop_size=null"
        )
    rows, columns = (spans(side, n, step) for side, n in zip(shape, tiles, strict=True))
    return rows, columns


def by_tiles(
    features: Callable[[Tensor], list[Tensor]],
    images: Tensor,
    tiles: Sequence[int],
    strides: Sequence[int],
) -> list[Tensor]:
    """Return feature maps of whole images, computed tile by tile and joined without overlap.

    Args:
        features: gives of tiles (B,3,t,u) one (B,C_l,t/s_l,u/s_l) a layer.
        images: (B,3,h,w).
        tiles: how many along h and w.
        strides: s_l of each layer, in pixels.

    Returns:
        One (B,C_l,h/s_l,w/s_l) a layer.

    Raises:
        InputError: see `layout`; maps of other sizes.

    >>> from torch.nn import functional as F
    >>> features = lambda x: [F.avg_pool2d(x, 4), F.avg_pool2d(x, 8)]
    >>> [tuple(maps.shape) for maps in by_tiles(features, torch.rand(1, 3, 64, 96), (2, 3), (4, 8))]
    [(1, 3, 16, 24), (1, 3, 8, 12)]
    """
    rows, columns = layout(images.shape[-2:], tiles, strides)
    joined: list[list[Tensor]] = [[] for _ in strides]
    for row in rows:
        found = [features(images[..., row.seen(), column.seen()]) for column in columns]
        height, given = row.stop - row.start, [maps.shape[-2] for maps in found[0]]
        if given != [height // stride for stride in strides]:
            raise InputError(
                f"tiles: a tile of {height} pixels gives maps of {given} rows, which do not join; "
                "leave tiles out with this backbone"
            )
        for layer, stride in enumerate(strides):
            own = [
                maps[layer][..., row.own(stride), column.own(stride)]
                for maps, column in zip(found, columns, strict=True)
            ]
            joined[layer].append(torch.cat(own, dim=-1))
    return [torch.cat(bands, dim=-2) for bands in joined]


def as_tiles(tiles: int | Sequence[int]) -> list[int]:
    """Return [rows, columns] of one number for both, or of two.

    Raises:
        InputError: something else, or beyond `MAX_TILES`.

    >>> as_tiles(4)
    [4, 4]
    """
    return as_pair("tiles", tiles, MAX_TILES)
