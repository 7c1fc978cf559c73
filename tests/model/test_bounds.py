"""Bounds are never above the distances, computed in float64, and the search stays exact."""

import pytest
import torch

from padim_lit.model.bounds import COARSE_DIM, FINE_DIM, PAIR_NUMBERS, SPAN_DIM, LowerBounds, Pairs
from padim_lit.model.search import WHOLE_DIM, Search
from padim_lit.model.triangular import Triangle

K, N = 12, 300


def gaussians(dim, scales, apart=3.0, count=K):
    """Patches, means and factors of components whose dimensions are up to 10^scales apart in size.

    And what makes the patches white.
    """
    generator = torch.Generator().manual_seed(dim)
    size = torch.logspace(0, scales, dim)[torch.randperm(dim, generator=generator)]
    mean = apart * size * torch.randn(count, dim, generator=generator)
    factor = torch.randn(count, dim, dim, generator=generator).tril() / dim**0.5
    factor.diagonal(dim1=1, dim2=2).abs_().add_(1)
    owner = torch.randint(count, (N,), generator=generator)
    x = mean[owner] + size * torch.randn(N, dim, generator=generator)
    covariance = torch.cov(x.T.double()).view(dim, dim)
    covariance.diagonal().mul_(1 + 1e-6)
    white = torch.linalg.inv(torch.linalg.cholesky(covariance)).float()
    return x, mean, factor / size, white


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


def every_pair():
    """All components with all patches, component by component."""
    return torch.arange(K).repeat_interleave(N), torch.arange(N).repeat(K)


@pytest.mark.parametrize("dim", [1, 7, COARSE_DIM, FINE_DIM, 100, SPAN_DIM + 10])
@pytest.mark.parametrize("scales", [0, 4])
@pytest.mark.parametrize("make", [LowerBounds.of, LowerBounds.of_first])
def test_a_bound_is_never_above_its_distance_and_uses_its_directions(dim, scales, make):
    x, mean, factor, white = gaussians(dim, scales)
    bounds = make(mean, Triangle.of(factor), white)
    if make == LowerBounds.of:
        assert len(bounds.basis) == min(dim, FINE_DIM)
    else:  # along the first band of a factor
        assert min(dim, COARSE_DIM) <= len(bounds.basis) <= min(dim, FINE_DIM)
    y = bounds.along(x)
    coarse = bounds(y).double()
    tighter = coarse + bounds.further(y, *every_pair()).view(K, N)
    fine = bounds(y, fine=True).double()
    exact = distances(x, mean, factor)
    assert all((found <= exact).all() for found in (coarse, tighter, fine))
    of = (coarse, bounds.basis[:COARSE_DIM]), (tighter, bounds.basis), (fine, bounds.basis)
    for found, some in of:
        seen = along(some, x, mean, factor)
        assert (found <= seen * (1 + 1e-6)).all()
        assert (seen - found).median() < 1e-2 * seen.median()


def test_the_first_directions_are_those_that_tell_near_components_apart():
    # Ten dimensions in which components lie apart, among many in which none does.
    generator = torch.Generator().manual_seed(0)
    mean = torch.zeros(K, 100)
    apart = torch.randperm(100, generator=generator)[:10]
    mean[:, apart] = 10 * torch.randn(K, 10, generator=generator)
    bounds = LowerBounds.of(mean, Triangle.of(torch.eye(100).expand(K, -1, -1)), torch.eye(100))
    found = bounds.basis[:10, apart].square().sum()
    assert found == pytest.approx(10, abs=1e-3)


def test_products_are_made_of_few_numbers_of_patches(monkeypatch):
    """What oneDNN compiles for each number it keeps."""
    x, mean, factor, white = gaussians(40, 1)
    bounds, widths = LowerBounds.of(mean, Triangle.of(factor), white), set()

    def counting(x, weight):
        widths.add(len(x))
        return x @ weight.T

    y = bounds.along(x)
    monkeypatch.setattr("padim_lit.model.bounds.product", counting)
    whole = bounds(y, fine=True)
    for count in range(N):
        torch.testing.assert_close(bounds(y[:count], fine=True), whole[:, :count])
    assert len(widths) <= -(-N // 32) + 1


@pytest.mark.parametrize("dim", [COARSE_DIM, FINE_DIM])
@pytest.mark.parametrize("make", [LowerBounds.of, LowerBounds.of_first])
def test_no_rounding_lifts_a_bound_above_its_distance(dim, make):
    # As tight as they can be, and components a thousand standard deviations apart.
    x, mean, factor, white = gaussians(dim, scales=4, apart=1000.0)
    x, mean = x - mean.mean(dim=0), mean - mean.mean(dim=0)
    x[: N // 2] *= 1e-3  # half of the patches lie far from all
    bounds = make(mean, Triangle.of(factor), white)
    y = bounds.along(x)
    tighter = bounds(y) + bounds.further(y, *every_pair()).view(K, N)
    for found in (tighter, bounds(y, fine=True)):
        assert (found <= distances(x, mean, factor)).all()


def test_pairs_are_what_a_sum_in_float64_finds():
    x, mean, factor, _ = gaussians(40, 1)
    component, patch = every_pair()
    some = torch.rand(K * N, generator=torch.Generator().manual_seed(0)) < 0.5
    some &= component != 3  # one has none
    component, patch = (ids[some].repeat_interleave(12) for ids in (component, patch))
    assert len(component) * 40 > 2 * PAIR_NUMBERS
    expected = distances(x, mean, factor)[component, patch]
    for bands in ([factor], list(Triangle.of(factor).bands), [factor[:, :15, :15], factor[:, 15:]]):
        found = Pairs(mean, bands)(x, component, patch)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    assert not Pairs(mean, [])(x, component, patch).any()


@pytest.mark.parametrize("dim", [7, 100, WHOLE_DIM + 10])
@pytest.mark.parametrize("apart", [0.1, 3.0, 20.0])  # many components are left, some, few
@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("count", [1, 2, K])
def test_the_nearest_is_exact(dim, apart, limited, once, count):
    x, mean, factor, white = gaussians(dim, 2, apart, count)
    expected, whose = distances(x, mean, factor).min(dim=0)
    expected = expected.sqrt()
    at_most = expected * torch.linspace(0.5, 3, N) if limited else torch.full((N,), torch.inf)
    search = Search(mean, Triangle.of(factor), white, once)
    found, owner = search(x[None], at_most[None].float() if limited else None)
    below = expected < at_most
    assert below.all() or (limited and below.any() and (found[0] >= expected * (1 - 1e-5)).all())
    torch.testing.assert_close(found[0].double()[below], expected[below], rtol=1e-5, atol=0)
    assert (owner[0] == whose)[below].all()


@pytest.mark.parametrize("limited", [False, True])
def test_it_does_not_matter_how_many_patches_are_searched_at_once(limited, monkeypatch):
    x, mean, factor, white = gaussians(50, 1)
    search = Search(mean, Triangle.of(factor), white)
    at_most = distances(x, mean, factor).amin(dim=0).sqrt().float()[None] * 1.1 if limited else None
    whole, owner = search(x[None], at_most)
    monkeypatch.setattr("padim_lit.model.search.MAX_PATCHES", 7)
    found, whose = search(x[None], at_most)
    torch.testing.assert_close(found, whole)
    assert torch.equal(whose, owner)


@pytest.mark.parametrize("apart", [0.5, 20.0])
@pytest.mark.parametrize("limited", [False, True])
def test_few_distances_are_computed(apart, limited):
    x, mean, factor, white = gaussians(60, 1, apart)
    search, computed = Search(mean, Triangle.of(factor), white), []
    at_most = distances(x, mean, factor).amin(dim=0).sqrt().float()[None] * 5 if limited else None
    every = search.squares

    def counting(x, component, patch):
        computed.append(len(patch))
        return every(x, component, patch)

    search.squares = counting
    search(x[None], at_most)
    # Each patch's nearest and hardly any more: all directions are seen, and the first distance
    # rules out others.
    assert N <= sum(computed) < 2 * N


def test_no_patch_is_none():
    _, mean, factor, white = gaussians(10, 1)
    found, owner = Search(mean, Triangle.of(factor), white)(torch.empty(0, 4, 10))
    assert found.shape == owner.shape == (0, 4)
