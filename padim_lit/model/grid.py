"""The grid of positions: how many there are, and where on the image they look.

Position (i, j) of the grid is drawn on the i-th part of the image's height and the j-th of its
width. What the network looks at there lies beside it: strides, padding, and sides that are no
multiple of the strides shift what a layer sees, the coarsest layer most. By how much depends on the
trained weights, so it is measured: a spot of an image is changed, and the offset of the changed
features is taken.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from padim_lit.errors import InputError
from padim_lit.model.backbone import Backbone
from padim_lit.model.embedding import ProjectedLayer, add_up, average_down

#: Spots that are changed, one at a time, each at another place within the coarsest layer's stride,
#: or within a position's part of the image where that is larger.
SPOTS = 8
# Side of a spot in pixels, as of a small defect.
SPOT = 7


def resolve_grid(shapes: Sequence[Sequence[int]], grid: int | str | None) -> tuple[int, int]:
    """Return the grid (H, W) of the embeddings.

    Args:
        shapes: (H_l, W_l) of each layer.
        grid: positions along the longer side; "auto" takes the second finest layer's grid, None
            the finest layer's.

    Raises:
        InputError: `grid` is something else, below 1, or finer than every layer.

    >>> resolve_grid([(56, 56), (28, 28), (14, 14)], 'auto')
    (28, 28)
    """
    height, width = _finest(shapes)
    if grid is None:
        return height, width
    if grid == "auto":
        coarser = [s for s in shapes if tuple(s) != (height, width)]
        return _finest(coarser or shapes)
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

    >>> require_neighbourhood(2)
    Traceback (most recent call last):
    padim_lit.errors.InputError: neighbourhood=2: must be odd, as in 3 (1: each position alone)
    """
    if side < 1 or side % 2 == 0:
        raise InputError(f"neighbourhood={side}: must be odd, as in 3 (1: each position alone)")


def require_alignment(alignment: Any) -> None:
    """Raise InputError unless it is "auto", None or [down,right].

    >>> require_alignment("left")
    Traceback (most recent call last):
    padim_lit.errors.InputError: alignment=left: must be auto (measured), null (none) or ...
    """
    if alignment is None or (isinstance(alignment, str) and alignment == "auto"):
        return
    pair = isinstance(alignment, Sequence) and not isinstance(alignment, str)
    if not pair or len(alignment) != 2 or not all(type(n) in (int, float) for n in alignment):
        raise InputError(
            f"alignment={alignment}: must be auto (measured), null (none) or [down,right], pixels"
        )


def resolve_alignment(
    backbone: Backbone,
    image_shape: tuple[int, int],
    grid: tuple[int, int],
    alignment: str | Sequence[float] | None,
) -> tuple[float, float]:
    """Return (down, right): pixels by which positions are drawn too far that way.

    Args:
        backbone: whose features are looked at.
        image_shape: (h, w).
        grid: (H, W) of the embeddings.
        alignment: "auto" measures it, None is (0, 0), and two numbers are taken as they are.

    Raises:
        InputError: `alignment` is something else, or beyond half of the image.

    >>> backbone = Backbone('test_resnet', weights='random')
    >>> [round(pixels) for pixels in resolve_alignment(backbone, (64, 64), (8, 8), 'auto')]
    [1, 2]
    """
    require_alignment(alignment)
    if alignment == "auto":
        return _measured(backbone, image_shape, grid)
    down, right = (0.0, 0.0) if alignment is None else map(float, alignment)
    if not (abs(down) <= image_shape[0] / 2 and abs(right) <= image_shape[1] / 2):  # NaN fails too
        raise InputError(f"alignment={alignment}: must be at most half of the image, in pixels")
    return down, right


def _finest(shapes: Sequence[Sequence[int]]) -> tuple[int, int]:
    return max(s[0] for s in shapes), max(s[1] for s in shapes)


@torch.no_grad()
def _measured(
    backbone: Backbone, image_shape: tuple[int, int], grid: tuple[int, int]
) -> tuple[float, float]:
    device = backbone.pixel_mean.device
    random = torch.Generator().manual_seed(0)
    ground = 0.25 + 0.5 * torch.rand(1, 3, *image_shape, generator=random, dtype=torch.float32)
    before, stride = _features(backbone, ground.to(device), grid), max(backbone.strides)
    far = torch.zeros(len(before), 2, dtype=torch.float64)
    for spot in range(SPOTS):
        # Around the middle: near a border, part of what changes would lie outside.
        y, x = (
            int(side / 2 + ((turn % SPOTS + 0.5) / SPOTS - 0.5) * max(stride, side / positions))
            for side, positions, turn in zip(image_shape, grid, (spot, 3 * spot + 1), strict=True)
        )
        image = ground.clone()
        rows, columns = (slice(max(0, at - SPOT // 2), at + SPOT // 2 + 1) for at in (y, x))
        image[..., rows, columns] = spot % 2  # black or white, as results varied least so
        after = _features(backbone, image.to(device), grid)
        for layer, pair in enumerate(zip(before, after, strict=True)):
            parts = zip(_centre(*pair, grid), image_shape, (y, x), strict=True)
            off = [part * side - (at + 0.5) for part, side, at in parts]
            far[layer] += torch.tensor(off, dtype=torch.float64) / SPOTS
    # Layers weigh by their channels: in a Mahalanobis distance a channel's scale does not matter.
    share = torch.tensor(backbone.channels).double() / backbone.embedding_dim
    down, right = (share @ far.nan_to_num()).tolist()
    return round(down, 1), round(right, 1)


def _features(backbone: Backbone, image: Tensor, grid: tuple[int, int]) -> list[Tensor]:
    """Return each layer's features (C_l,H_l,W_l), averaged down where finer than the grid."""
    with torch.autocast(image.device.type, enabled=False):
        return [average_down(m, grid)[0].cpu().double() for m in backbone(image)]


def _centre(before: Tensor, after: Tensor, grid: tuple[int, int]) -> tuple[float, float]:
    """Return where on the grid a layer changed, as parts of its height and its width."""
    # Squared twice, so that the centre of what a layer sees counts more than its far ends.
    changed = (after - before).square().sum(dim=0).square()
    spread = add_up([ProjectedLayer(changed[None, ..., None], slice(0, 1))], grid, dim=1)
    share = spread.view(grid) / spread.sum()
    y, x = ((torch.arange(positions) + 0.5).double() / positions for positions in grid)
    return float(share.sum(dim=1) @ y), float(share.sum(dim=0) @ x)
