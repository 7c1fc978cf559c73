"""Bounds are never above the distances, computed in float64, and the search stays exact."""

import pytest
import torch

from padim_lit.model.bounds import ROWS, LowerBounds
from padim_lit.model.mixture import WHOLE_DIM, Mixture
from padim_lit.model.triangular import Triangle

K, N = 12, 300


def gaussians(dim, scales, apart=3.0):
    """Means, factors and patches of components that are up to `scales` times apart in size."""
    generator = torch.Generator().manual_seed(dim)
    size = torch.logspace(0, scales, dim)[torch.randperm(dim, generator=generator)]
    mean = apart * size * torch.randn(K, dim, generator=generator)
    factor = torch.randn(K, dim, dim, generator=generator).tril() / dim**0.5
    factor.diagonal(dim1=1, dim2=2).abs_().add_(1)
    owner = torch.randint(K, (N,), generator=generator)
    x = mean[owner] + size * torch.randn(N, dim, generator=generator)
    return x, mean, factor / size, torch.diag(1 / size)


def distances(x, mean, factor):
    """Squared, (K,n)."""
    deviation = x.double() - mean.double().unsqueeze(1)
    return (deviation @ factor.double().mT).square().sum(dim=2)


@pytest.mark.parametrize("dim", [1, 7, ROWS, 100, WHOLE_DIM + 10])
@pytest.mark.parametrize("scales", [0, 4])
def test_a_bound_is_never_above_its_distance_and_uses_its_rows(dim, scales):
    x, mean, factor, white = gaussians(dim, scales)
    whitening = Triangle.of(factor)
    rows = min(ROWS, whitening.bands[0].shape[1])
    bounds = LowerBounds(mean, whitening, white)(x).double()
    assert (bounds <= distances(x, mean, factor)).all()
    leading = distances(x[:, :rows], mean[:, :rows], factor[:, :rows, :rows])
    assert (bounds <= leading).all()
    assert (leading - bounds).median() < 1e-2 * leading.median()


@pytest.mark.parametrize("dim", [7, 100, WHOLE_DIM + 10])
@pytest.mark.parametrize("apart", [0.1, 3.0])
def test_the_nearest_is_exact(dim, apart):
    x, mean, factor, white = gaussians(dim, 2, apart)
    mixture = Mixture(dim, components=K)
    mixture.white = white
    found, owner = mixture.nearest(x[None], mean, Triangle.of(factor))
    expected, whose = distances(x, mean, factor).min(dim=0)
    torch.testing.assert_close(found[0].double(), expected.sqrt(), rtol=1e-5, atol=0)
    assert (owner[0] == whose).all()
