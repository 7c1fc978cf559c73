"""Eq. 1, 2 and 11 to 15 of the JL report, and what its lemma asks for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from sklearn.random_projection import johnson_lindenstrauss_min_dim

from padim_lit.analysis.theory import (
    distortion,
    jl_dimension,
    kept_between,
    performance,
    performance_at,
    promised,
    relative_gap,
    still_right,
    subspace_dimension,
    vector_dimension,
)
from padim_lit.errors import InputError

DIMS = np.array([25, 50, 75, 100, 150, 200, 300, 400, 550.0])
UNIT = st.floats(0.01, 0.99)


@given(p=UNIT, q=st.floats(1, 50), k=UNIT, share=UNIT)
def test_eq_15_is_its_steps_put_together_and_rises_to_one(p, q, k, share):
    x = q + share * (q / k**2 - q)
    y = performance(x, p, q, k)
    assert y == pytest.approx(performance_at(distortion(x, q), p, k))
    assert 1 - p * (1 - k) / (1 + k) - 1e-9 <= y <= 1 + 1e-9
    assert performance(x * (1 - 1e-3), p, q, k) < y or np.isnan(performance(x * 0.999, p, q, k))
    assert performance_at(k, p, k) == pytest.approx(1)


def test_eq_15_claims_nothing_outside_its_domain():
    assert np.isnan(performance([1.9, 2.0, 50, 60], 0.5, 2, 0.2)).all()
    assert np.isfinite(performance([2.1, 49], 0.5, 2, 0.2)).all()


@pytest.mark.parametrize("k", [0, 1])
def test_eq_15_without_a_domain_is_refused(k):
    with pytest.raises(InputError, match=f"^k={k}"):
        performance(10, p=0.5, q=2, k=k)


def test_q_and_k_cannot_be_told_apart():
    near = performance(DIMS, 0.2, 4.0, 0.05)
    far = performance(DIMS, 0.2, 16.0, 0.1)
    np.testing.assert_allclose(near, far)


@given(points=st.integers(2, 10**7), epsilon=UNIT)
def test_the_bound_is_scikit_learns(points, epsilon):
    assert jl_dimension(points, epsilon) == johnson_lindenstrauss_min_dim(points, eps=epsilon)


def test_the_bound_at_ten_thousand_points():
    assert jl_dimension(10**4, 0.1) == 7894


@pytest.mark.parametrize("epsilon", [0.1, 0.3, 0.7])
def test_eq_1_is_kept_by_normal_projections(epsilon):
    # ‖Πx‖²/‖x‖² of eq. 6's Π is χ² with m degrees of freedom over m, whatever x.
    m = vector_dimension(epsilon, 0.05)
    missed = chi2.cdf(m * (1 - epsilon), m) + chi2.sf(m * (1 + epsilon), m)
    assert 1e-4 < missed <= 0.05
    # More vectors ask for more, by their logarithm.
    assert vector_dimension(epsilon, 0.05, vectors=100) > m


def test_eq_2_is_kept_by_one_normal_projection_for_a_whole_subspace():
    d, epsilon, n = 8, 0.6, 40
    m = int(np.ceil(subspace_dimension(d, epsilon, 0.05)))
    rng = np.random.default_rng(0)
    worst = []
    for _ in range(50):
        basis = np.linalg.qr(rng.normal(size=(n, d)))[0]
        lengths = np.linalg.svd(rng.normal(size=(m, n)) / np.sqrt(m) @ basis, compute_uv=False) ** 2
        worst.append(np.abs(lengths - 1).max())
    assert np.mean(np.array(worst) <= epsilon) >= 0.95
    # It asks for more than the points' form, and for more than the subspace has dimensions.
    assert m > d and m > vector_dimension(epsilon, 0.05)


def test_what_the_lemma_promises_at_the_dimensions_in_use():
    dims = (50, 100, 150, 550, 1792)
    points = [promised(vector_dimension, m) for m in dims]
    assert points == sorted(points, reverse=True) and points[2] == pytest.approx(0.360, abs=1e-3)
    assert vector_dimension(points[0]) == pytest.approx(50, rel=1e-6)
    # The subspace form, with the 319 dimensions that screw's 320 good images can span.
    assert [promised(lambda e: subspace_dimension(319, e), m) for m in dims[:4]] == [None] * 4
    assert promised(lambda e: subspace_dimension(319, e), 3000) < 1


@given(good=st.floats(0.1, 10), ratio=st.floats(1.01, 5), epsilon=UNIT)
def test_eq_12_is_the_overlap_of_the_intervals_of_eq_11(good, ratio, epsilon):
    defective = good * ratio
    (low1, high1), (low2, high2) = (kept_between(x, epsilon) for x in (defective, good))
    k = relative_gap(defective, good)
    if abs(float(k) - epsilon) > 1e-9:
        assert (k < epsilon) == (high2 > low1)
    r = 1 - (high2 - low1) / (high1 - low2)
    assert still_right(epsilon, k) == pytest.approx(min(1, r))


def test_eq_11_is_wider_than_eq_1():
    for epsilon in (0.1, 0.5, 0.9):
        low, high = kept_between(1.0, epsilon)
        assert low <= np.sqrt(1 - epsilon) and np.sqrt(1 + epsilon) <= high
