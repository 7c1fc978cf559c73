"""Projecting before upsampling equals concatenating first."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from padim_lit.errors import InputError
from padim_lit.model.embedding import embed
from padim_lit.model.grid import require_neighbourhood, resolve_grid
from padim_lit.model.projection import PROJECTIONS, Identity

WIDTHS = (6, 5, 9)


def maps(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, c, *s, generator=generator) for c, s in zip(WIDTHS, shapes, strict=True)]


def concatenated(features, matrix, grid, side=1):
    """PaDiM's own way, in float64: all to the grid, concatenate, average around, multiply."""
    full = [max(s) for s in zip(*(f.shape[-2:] for f in features), strict=True)]
    up = [F.interpolate(f.double(), size=full, mode="nearest") for f in features]
    x = F.adaptive_avg_pool2d(torch.cat(up, dim=1), grid or tuple(full))
    padded = F.pad(x, [side // 2] * 4, value=torch.nan)  # nothing lies beyond the grid
    around = padded.unfold(2, side, 1).unfold(3, side, 1)
    share = around.isfinite().double().mean(dim=(4, 5))
    x = around.nanmean(dim=(4, 5)) * share.sqrt()
    return torch.einsum("dc,bchw->bhwd", matrix.double(), x).flatten(1, 2)


def embedded(features, projection, grid=None, side=1):
    """On the finest layer's grid, unless another is given."""
    shapes = [layer.shape[-2:] for layer in features]
    return embed(features, projection, grid or resolve_grid(shapes, None), side)


@pytest.mark.parametrize("kind", PROJECTIONS.values())
@pytest.mark.parametrize("grid", [None, (4, 4), (8, 8), (2, 2)])
def test_equals_concatenate_then_project(kind, grid):
    features = maps((8, 8), (4, 4), (2, 2))
    projection = kind(sum(WIDTHS), 7, seed=1)
    expected = concatenated(features, projection.matrix, grid)
    torch.testing.assert_close(
        embedded(features, projection, grid).double(), expected, atol=2e-6, rtol=2e-6
    )


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize(
    "shapes",
    [((7, 5), (4, 3), (2, 2)), ((8, 5), (4, 3), (2, 2)), ((8, 4), (8, 4), (8, 4))],
)
def test_sizes_that_do_not_divide_and_oblong_ones(shapes, side):
    features = maps(*shapes)
    projection = PROJECTIONS["jl"](sum(WIDTHS), 4)
    expected = concatenated(features, projection.matrix, None, side)
    out = embedded(features, projection, side=side).double()
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=2e-6)


def test_patches_at_the_border_vary_as_others_do():
    x = embedded([torch.randn(4000, 2, 5, 4)], Identity(2), side=3)
    torch.testing.assert_close(x.std(dim=0), torch.full((20, 2), 1 / 3), rtol=0.06, atol=0)


def test_the_finest_layer_need_not_be_the_first():
    features = maps((2, 2), (8, 8), (4, 4))
    expected = concatenated(features, torch.eye(sum(WIDTHS)), None)
    out = embedded(features, Identity(sum(WIDTHS)))
    assert out.shape == (2, 64, sum(WIDTHS))
    torch.testing.assert_close(out.double(), expected)


def test_half_precision_features_are_projected_in_float32():
    features = [f.bfloat16() for f in maps((4, 4), (2, 2), (2, 2))]
    out = embedded(features, PROJECTIONS["jl"](sum(WIDTHS), 3))
    assert out.dtype == torch.float32


class Sizes(TorchDispatchMode):
    """Records how many numbers each result holds."""

    def __init__(self):
        super().__init__()
        self.numbers = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numbers.append(out.numel())
        return out


def test_half_precision_features_are_averaged_in_float32():
    features = [m.bfloat16() for m in maps((8, 8), (4, 4), (2, 2))]
    pi = PROJECTIONS["jl"](sum(WIDTHS), 4)
    assert torch.equal(
        embedded(features, pi, (2, 2)), embedded([m.float() for m in features], pi, (2, 2))
    )


def test_the_full_embedding_is_never_built():
    features = maps((8, 8), (4, 4), (2, 2))
    with Sizes() as sizes:
        embedded(features, PROJECTIONS["jl"](sum(WIDTHS), 3))
    full = 2 * sum(WIDTHS) * 64
    assert 0 < max(sizes.numbers) < full


@pytest.mark.parametrize("grid", [7.5, 28.0, True, "fine"])
def test_a_grid_is_a_whole_number(grid):
    with pytest.raises(InputError, match=f"grid={grid}"):
        resolve_grid([(56, 56), (28, 28)], grid)


def test_grid_resolution():
    assert resolve_grid([(56, 56), (28, 28)], None) == (56, 56)
    assert resolve_grid([(56, 56), (28, 28)], 28) == (28, 28)
    assert resolve_grid([(56, 28), (28, 14)], 28) == (28, 14)
    assert resolve_grid([(5, 3)], 3) == (3, 2) and resolve_grid([(3, 5)], 3) == (2, 3)
    assert resolve_grid([(14, 14), (56, 56), (28, 28)], "auto") == (28, 28)
    assert resolve_grid([(14, 14), (14, 14)], "auto") == (14, 14)
    for side in (0, 2):
        with pytest.raises(InputError, match=f"neighbourhood={side}: must be odd"):
            require_neighbourhood(side)
    with pytest.raises(InputError, match="grid=fine: must be auto, null or a number"):
        resolve_grid([(56, 56)], "fine")
    for bad in (0, 57):
        with pytest.raises(InputError, match=f"grid={bad}: must be between 1 and"):
            resolve_grid([(56, 56)], bad)
