"""Good images turned in several directions: for few images of parts that may lie any way."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from padim_lit.errors import InputError

#: The most directions: one every ten degrees.
MAX_ROTATIONS = 36


def require_rotations(rotations: int) -> None:
    """Raise InputError unless `rotations`, V, is from 1 to `MAX_ROTATIONS`.

    >>> require_rotations(0)
    Traceback (most recent call last):
    padim_lit.errors.InputError: rotations=0: must be from 1 (as the images are) to 36, as in ...
    """
    if not 1 <= rotations <= MAX_ROTATIONS:
        raise InputError(
            f"rotations={rotations}: must be from 1 (as the images are) to {MAX_ROTATIONS}, as in "
            "8 for every 45 degrees"
        )


def turned(images: Tensor, rotations: int) -> Iterator[Tensor]:
    """Yield images (B,3,h,w) V times, turned by 0, 1/V, …, (V−1)/V of a full turn to the left.

    Quarter turns of a square move pixels and change none. Other turns interpolate between pixels,
    and mirror the image where a corner would show what lies beyond its border.

    Args:
        images: (B,3,h,w) in [0, 1], turned about their centres.
        rotations: V.

    >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> [one.flatten().tolist() for one in turned(image, 2)]
    [[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]]
    """
    height, width = images.shape[-2:]
    yield images
    for part in range(1, rotations):
        quarters, between = divmod(4 * part, rotations)
        if not between and (height == width or quarters % 2 == 0):
            yield images.rot90(quarters, (-2, -1))
            continue
        angle = 2 * math.pi * part / rotations
        cos, sin, aspect = math.cos(angle), math.sin(angle), height / width
        # Coordinates are in half sides, which are of two lengths where the image is no square.
        turn = [[cos, -sin * aspect, 0.0], [sin / aspect, cos, 0.0]]
        theta = torch.tensor(turn, device=images.device, dtype=torch.float32)
        theta = theta.expand(len(images), 2, 3)
        # In float32: coordinates in bf16 would be off by almost a pixel.
        with torch.autocast(images.device.type, enabled=False):
            grid = F.affine_grid(theta, list(images.shape), False)
            found = F.grid_sample(images.float(), grid, "bicubic", "reflection", False)
        yield found.clamp(0, 1)
