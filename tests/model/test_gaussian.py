"""Whitening and distances against float64."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis as scipy_mahalanobis

from padim_lit.errors import InputError
from padim_lit.model import gaussian
from padim_lit.model.gaussian import factorize, mahalanobis
from padim_lit.model.moments import init, update
from padim_lit.model.ridge import Ridge


def fitted(n, p, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(p, d, d, generator=generator) * torch.logspace(-1, 0, d)
    x = torch.einsum("npd,pde->npe", torch.randn(n, p, d, generator=generator), mix) + 5
    return x, update(init(p, d), x)


@pytest.mark.parametrize(("n", "d"), [(200, 12), (10, 30)])
def test_distances_match_scipy_in_float64(n, d):
    x, state = fitted(n, 4, d)
    query = x[:3] + torch.randn(3, 4, d, generator=torch.Generator().manual_seed(9))
    ours = mahalanobis(query, state.mean, factorize(state, Ridge(0.01)))
    samples = x.double().numpy()
    for p in range(4):
        inverse = np.linalg.inv(np.cov(samples[:, p], rowvar=False) + 0.01 * np.eye(d))
        mean = samples[:, p].mean(axis=0)
        for b in range(3):
            expected = scipy_mahalanobis(query[b, p].double().numpy(), mean, inverse)
            assert float(ours[b, p]) == pytest.approx(expected, rel=1e-4)


def test_the_factor_is_lower_triangular_and_whitens():
    x, state = fitted(400, 3, 8)
    factor = factorize(state, Ridge(0)).to_dense(symmetric=False).double()
    assert torch.equal(factor, factor.tril())
    z = torch.einsum("pde,npe->npd", factor, x.double() - state.mean)
    covariance = torch.einsum("npd,npe->pde", z, z) / 399
    torch.testing.assert_close(covariance, torch.eye(8).double().expand(3, 8, 8), atol=1e-3, rtol=0)


def test_blocks_change_nothing(monkeypatch):
    _, state = fitted(50, 7, 5)
    whole = factorize(state, Ridge(0.01))
    monkeypatch.setattr(gaussian, "CACHED_NUMBERS", 2 * 25)
    assert torch.equal(whole.pack(), factorize(state, Ridge(0.01)).pack())


def test_the_mean_itself_has_distance_zero_and_scores_do_not_depend_on_the_batch():
    x, state = fitted(50, 4, 6)
    factor = factorize(state, Ridge(0.01))
    assert mahalanobis(state.mean.float()[None], state.mean, factor).max() < 1e-4
    together = mahalanobis(x, state.mean, factor)
    alone = torch.cat([mahalanobis(image[None], state.mean, factor) for image in x])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_leading_dimensions_nest():
    # One factor at D serves every d < D for a fixed ε: what a whole sweep in one pass rests on.
    x, state = fitted(60, 2, 6)
    factor = factorize(state, Ridge(0.01))
    for d in (1, 3, 6):
        part = update(init(2, d), x[..., :d])
        torch.testing.assert_close(
            factorize(part, Ridge(0.01)).to_dense(symmetric=False),
            factor.to_dense(symmetric=False)[:, :d, :d],
            rtol=1e-4,
            atol=1e-4,
        )


@pytest.mark.parametrize("ridge", [Ridge(0.01), Ridge(0.5, "variance", shrinkage=3.0)])
def test_factors_of_some_scaled_dimensions_are_those_of_a_fit_on_them(ridge):
    x, state = fitted(60, 3, 9)
    rows = torch.tensor([0, 2, 3, 7])
    part = update(init(3, 4), x[..., rows] * 1.7)
    torch.testing.assert_close(
        factorize(state, ridge, rows, 1.7).pack(),
        factorize(part, ridge).pack(),
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_singular_covariance_is_refused_with_advice():
    _, state = fitted(5, 2, 10)
    with pytest.raises(InputError, match=r"eps=0.*singular one; set a larger eps"):
        factorize(state, Ridge(0.0))


def test_one_image_is_refused():
    _, state = fitted(1, 2, 3)
    with pytest.raises(InputError, match="at least 2"):
        factorize(state, Ridge(0.01))
