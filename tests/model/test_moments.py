"""Running moments against float64 NumPy, and their invariances."""

import numpy as np
import pytest
import torch
from _helpers.ranks import all_ranks
from hypothesis import given, settings
from hypothesis import strategies as st

from padim_lit.errors import InputError
from padim_lit.model import fit_state, moments
from padim_lit.model.fit_state import merge, reduce, subtract
from padim_lit.model.moments import init, update

P, D = 5, 6
EMPTY = torch.zeros(P, D, dtype=torch.float64)


def images(n, offset=0.0, seed=0):
    """(n,P,D) correlated, with means `offset` times the spread and spreads from 0.1 to 10."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(P, D, D, generator=generator)
    spread = torch.logspace(-1, 1, D)
    x = torch.einsum("npd,pde->npe", torch.randn(n, P, D, generator=generator), mix) * spread
    return x + offset * x.std(dim=0, correction=0)


def fit(batches, dtype=torch.float32):
    state = init(P, D, dtype=dtype)
    for batch in batches:
        state = update(state, batch)
    return state


def reference(x):
    """Mean (P,D) and covariance (P,D,D) by NumPy in float64."""
    x = x.double().numpy()
    return x.mean(axis=0), np.stack([np.cov(x[:, p], rowvar=False) for p in range(P)])


def error(state, x):
    """Largest errors over the positions, in the norm: of the mean relative to the larger of mean
    and spread, of the covariance relative to itself."""
    mean, covariance = reference(x)
    ours = state.scatter.to_dense(symmetric=True).double().numpy() / (
        state.counts.numpy()[:, None, None] - 1
    )
    norm = np.linalg.norm
    spread = np.sqrt(np.trace(covariance, axis1=1, axis2=2))
    return (
        (norm(state.mean.numpy() - mean, axis=1) / np.maximum(norm(mean, axis=1), spread)).max(),
        (norm(ours - covariance, axis=(1, 2)) / norm(covariance, axis=(1, 2))).max(),
    )


@pytest.mark.parametrize("offset", [0, 1, 30, 1e3])
@pytest.mark.parametrize("batch", [1, 7, 32, 300])
def test_matches_numpy_in_float64_up_to_a_mean_of_1000_spreads(offset, batch):
    x = images(300, offset)
    mean, covariance = error(fit(x.split(batch)), x)
    # Below some spreads the centred rows are rounded; above, float32 holds them exactly.
    assert mean < (5e-8 if offset < 2 else 1e-14)
    assert covariance < 1e-6


def test_naive_sums_of_squares_would_fail_that_test():
    x = images(300, 1e3)
    naive = (torch.einsum("npd,npe->pde", x, x)) / 299
    naive -= torch.einsum("pd,pe->pde", x.mean(0), x.mean(0)) * 300 / 299
    _, covariance = reference(x)
    assert np.linalg.norm(naive.numpy() - covariance) / np.linalg.norm(covariance) > 1e-3


@given(
    cuts=st.lists(st.integers(1, 59), max_size=8, unique=True),
    order=st.integers(0, 2**32 - 1),
    offset=st.sampled_from([0.0, 1e3]),
)
@settings(max_examples=60, deadline=None)
def test_any_split_and_order(cuts, order, offset):
    x = images(60, offset)
    shuffled = x[torch.randperm(60, generator=torch.Generator().manual_seed(order))]
    batches = torch.tensor_split(shuffled, sorted(cuts))
    mean, covariance = error(fit(batches), x)
    assert mean < 1e-6
    assert covariance < 1e-6


def test_images_sorted_by_brightness_are_no_special_case():
    # The running mean then drifts all the way, the worst case for a fixed shift.
    x = images(300, 1e3)
    x = x[x.sum(dim=(1, 2)).argsort()]
    assert max(error(fit(x.split(10)), x)) < 1e-6


@given(first=st.integers(1, 59))
@settings(max_examples=20, deadline=None)
def test_merge_equals_one_fit(first):
    x = images(60, 1e3)
    both = merge(fit([x[:first]]), fit([x[first:]]))
    assert both.counts.tolist() == [60] * P
    assert max(error(both, x)) < 1e-6


def test_merge_with_nothing_and_in_either_order():
    x = images(40, 30)
    a, b = fit([x[:15]]), fit([x[15:]])
    one, other = merge(a, b).scatter, merge(b, a).scatter
    torch.testing.assert_close(one.bands, other.bands, rtol=1e-6, atol=1e-6)
    for state in (merge(init(P, D), a), merge(a, init(P, D))):
        assert state.counts.tolist() == [15] * P
        for ours, theirs in zip(state.scatter.bands, a.scatter.bands, strict=True):
            assert torch.equal(ours, theirs)
            assert ours.data_ptr() != theirs.data_ptr()


def test_subtract_undoes_merge():
    x = images(100, 1e3)
    left = subtract(fit([x]), fit([x[:30]]), EMPTY)
    assert left.counts.tolist() == [70] * P
    assert max(error(left, x[30:])) < 2e-6


def test_subtract_refuses_what_is_not_there():
    x = images(10)
    with pytest.raises(InputError, match="more patches of a Gaussian than it has"):
        subtract(fit([x[:9]]), fit([x]), EMPTY)


def test_subtract_leaves_nothing_of_what_is_gone():
    x = images(10, 1e3)
    left = subtract(fit([x]), fit([x.flip(0)]), EMPTY)
    assert not left.counts.any() and torch.equal(left.mean, EMPTY)
    assert not any(band.any() for band in left.scatter.bands)
    assert max(error(update(left, x), x)) < 1e-6


@pytest.mark.parametrize("sizes", [(20, 40), (1, 59), (0, 60), (25, 0, 35)])
def test_reduce_over_ranks_equals_one_device(sizes):
    x = images(60, 1e3)
    states = [fit([part]) for part in x.split(list(sizes))]
    # Every rank runs to its next sum, then all sums meet: what an all-reduce does, in threads.
    results = all_ranks(states, lambda state, total, _: reduce(state, total))
    for state in results:
        assert state.counts.tolist() == [60] * P
        assert max(error(state, x)) < 1e-6


def test_reduce_works_in_blocks(monkeypatch):
    monkeypatch.setattr(fit_state, "REDUCE_GAUSSIANS", 2)
    x = images(30)
    sizes = []

    def alone(tensor):
        sizes.append(tensor.shape[0])
        return tensor

    state = reduce(fit([x]), alone)
    assert sizes[-3:] == [2, 2, 1]
    assert max(error(state, x)) < 1e-6


def test_state_does_not_grow_with_the_images():
    few, many = fit(images(2).split(1)), fit(images(500).split(50))
    shapes = [[band.shape for band in state.scatter.bands] for state in (few, many)]
    assert shapes[0] == shapes[1]
    assert few.mean.dtype == many.mean.dtype == torch.float64


def test_covariance_adds_eps_and_divides_by_n_minus_one():
    x = images(50)
    _, expected = reference(x)
    ours = moments.covariance(fit([x]), 0.25).numpy()
    np.testing.assert_allclose(ours, expected + 0.25 * np.eye(D), rtol=1e-5, atol=1e-5)


def test_one_image_has_no_covariance():
    with pytest.raises(InputError, match="at least 2"):
        moments.covariance(fit([images(1)]), 0.01)
