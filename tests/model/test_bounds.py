"""Bounds are never above the distances, computed in float64, and the search stays exact."""

import pytest
import torch

from padim_lit.model.bounds import LowerBounds
from padim_lit.model.search import COARSE, FINE, WHOLE_DIM, Search
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


def along(basis, x, mean, factor):
    """`distances` as seen along the directions of `basis` (r,D)."""
    basis, sigma = basis.double(), torch.linalg.inv(factor.double())
    precision = torch.linalg.inv(basis @ sigma @ sigma.mT @ basis.T)
    y = x.double() @ basis.T - (mean.double() @ basis.T).unsqueeze(1)
    return (y @ precision * y).sum(dim=2)


@pytest.mark.parametrize("dim", [1, 7, COARSE, 100, WHOLE_DIM + 10])
@pytest.mark.parametrize("scales", [0, 4])
def test_a_bound_is_never_above_its_distance_and_uses_its_directions(dim, scales):
    x, mean, factor, white = gaussians(dim, scales)
    fine = LowerBounds.of(mean, Triangle.of(factor), white, FINE)
    for bounds in (fine, fine.leading(COARSE)):
        found, seen = bounds(x).double(), along(bounds.basis, x, mean, factor)
        assert (found <= distances(x, mean, factor)).all()
        assert (found <= seen * (1 + 1e-6)).all()
        assert (seen - found).median() < 1e-2 * seen.median()


@pytest.mark.parametrize("dim", [7, 100, WHOLE_DIM + 10])
@pytest.mark.parametrize("apart", [0.1, 3.0])  # 0.1: most patches are left many components
@pytest.mark.parametrize("limited", [False, True])
def test_the_nearest_is_exact(dim, apart, limited):
    x, mean, factor, white = gaussians(dim, 2, apart)
    expected, whose = distances(x, mean, factor).min(dim=0)
    expected = expected.sqrt()
    at_most = expected * torch.linspace(0.5, 3, N) if limited else torch.full((N,), torch.inf)
    search = Search(mean, Triangle.of(factor), white)
    found, owner = search(x[None], at_most[None].float() if limited else None)
    below = expected < at_most
    assert below.all() or (limited and below.any() and (found[0] >= expected * (1 - 1e-5)).all())
    torch.testing.assert_close(found[0].double()[below], expected[below], rtol=1e-5, atol=0)
    assert (owner[0] == whose)[below].all()
