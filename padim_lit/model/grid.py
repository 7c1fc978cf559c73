"""The grid of positions that embeddings live on."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from padim_lit.errors import InputError


def finest_grid(shapes: Sequence[Sequence[int]]) -> tuple[int, int]:
    """(H, W) of the finest layer.

    >>> finest_grid([(56, 56), (28, 28)])
    (56, 56)
    """
    return max(s[0] for s in shapes), max(s[1] for s in shapes)


def resolve_grid(shapes: Sequence[Sequence[int]], grid: int | str | None) -> tuple[int, int]:
    """The (H, W) that embeddings live on.

    Args:
        shapes: (H_l, W_l) of each layer.
        grid: positions along the longer side; "auto" takes the second finest layer's grid, None
            the finest layer's.

    Raises:
        InputError: `grid` is another word, below 1 or finer than every layer.

    >>> resolve_grid([(56, 56), (28, 28), (14, 14)], 'auto')
    (28, 28)
    """
    height, width = finest_grid(shapes)
    if grid is None:
        return height, width
    if grid == "auto":
        coarser = [s for s in shapes if tuple(s) != (height, width)]
        return finest_grid(coarser or shapes)
    if isinstance(grid, bool) or not isinstance(grid, int):
        raise InputError(f"grid={grid}: must be auto, null or a number of positions")
    if not 1 <= grid <= max(height, width):
        raise InputError(
            f"grid={grid}: must be between 1 and the finest layer's {max(height, width)} "
            f"(this backbone gives {height}×{width}); grid=null keeps that"
        )
    # The longer side gets `grid` positions, the shorter keeps the aspect.
    scale = grid / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def require_neighbourhood(side: int) -> None:
    """Raise InputError unless `side` is odd and above 0.

    >>> require_neighbourhood(3)
    """
    if side < 1 or side % 2 == 0:
        raise InputError(f"neighbourhood={side}: must be odd, as in 3 (1: each position alone)")


def average_down(layer: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B,C_l,H_l,W_l) in float32, averaged down to `grid` where that is coarser.

    >>> average_down(torch.ones(1, 3, 8, 4), (4, 4)).shape
    torch.Size([1, 3, 4, 4])
    """
    layer = layer.float()  # or means of bfloat16 numbers would be rounded to bfloat16
    size = (min(layer.shape[-2], grid[0]), min(layer.shape[-1], grid[1]))
    return layer if size == tuple(layer.shape[-2:]) else F.adaptive_avg_pool2d(layer, size)
