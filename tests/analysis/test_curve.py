"""The fit of eq. 15: found again, its band, and what the points do not determine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from padim_lit.analysis.curve import fit_performance
from padim_lit.analysis.theory import performance
from padim_lit.errors import InputError

DIMS = np.array([25, 50, 75, 100, 150, 200, 300, 400, 550.0])


@pytest.mark.slow
@given(p=st.floats(0.02, 0.9), limit=st.floats(101, 149) | st.floats(601, 20_000))
def test_a_noiseless_curve_is_found_again(p, limit):
    k = 0.3
    fit = fit_performance(DIMS, 2 * p * k / (np.sqrt(limit * k**2 / DIMS) + k) + 1 - p)
    assert fit.p == pytest.approx(p, rel=1e-4)
    assert fit.limit == pytest.approx(limit, rel=1e-3)
    assert fit.rmse < 1e-6 and fit.r_squared == pytest.approx(1)
    low, high = fit.limit_interval
    assert low <= fit.limit <= high < 1.01 * low


@pytest.mark.slow
def test_the_band_covers_the_truth():
    rng = np.random.default_rng(0)
    truth = performance(DIMS, 0.3, 2, 0.05)
    inside = []
    for _ in range(200):
        low, high = fit_performance(DIMS, truth + 0.005 * rng.standard_normal(len(DIMS))).band(DIMS)
        inside.append((low <= truth) & (truth <= high))
    assert 0.90 < np.mean(inside) < 0.99


def test_a_flat_curve_is_called_unidentifiable():
    noise = 1e-3 * np.random.default_rng(1).standard_normal(len(DIMS))
    fit = fit_performance(DIMS, 0.95 + noise)
    assert fit.limit_interval is None
    np.testing.assert_allclose(fit(DIMS), 0.95, atol=5e-3)


@pytest.mark.parametrize("lowered", [[], [2], [3], [4]])
def test_a_saturated_curve_is_called_unidentifiable(lowered):
    """Flat at 1 or nearly so, where p is nearly 0 and any q/k² does."""
    y = np.ones(5)
    y[lowered] = 0.999
    assert fit_performance(DIMS[:5], y).limit_interval is None


def test_four_points_with_a_little_noise_do_not_say_where_the_curve_ends():
    """A standard deviation of ln(q/k²) below 1 is, times t = 4.3, a factor of up to 74."""
    noise = 0.013 * np.array([1, -1, -1, 1])
    fit = fit_performance(DIMS[:4], performance(DIMS[:4], 0.3, 2, 0.05) + noise)
    assert 0.6 < np.sqrt(fit.covariance[1, 1]) < 1
    assert fit.limit_interval is None


@pytest.mark.slow
def test_the_interval_covers_where_the_curve_ends():
    rng = np.random.default_rng(0)
    ends, noise = 2 / 0.05**2, rng.standard_normal((100, len(DIMS)))
    fits = [fit_performance(DIMS, performance(DIMS, 0.3, 2, 0.05) + 3e-3 * row) for row in noise]
    known = [fit.limit_interval for fit in fits if fit.limit_interval]
    assert len(known) > 90
    assert np.mean([low < ends < high for low, high in known]) > 0.9


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([25, 50, 100], [0.9] * 3, "3 dimensions: a fit of eq. 15 needs at least 4"),
        ([25, 25, 50, 100], [0.9] * 4, "3 dimensions"),
    ],
)
def test_points_that_cannot_be_fitted(x, y, message):
    with pytest.raises(InputError, match=message):
        fit_performance(x, y)
