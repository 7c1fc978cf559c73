"""What a fit gathers is a sum of its images, whatever their order, batches and ranks."""

import pytest
import torch
from _helpers.ranks import all_ranks

from padim_lit.errors import InputError
from padim_lit.model.fit_state import FitState
from padim_lit.model.moments import init, update

P, D, L, N = 5, 4, 2, 24
EMPTY = torch.zeros(P, D, dtype=torch.float64)
SHARES = torch.tensor([0.25, 0.75])[:, None, None]


def images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, P, D, generator=generator) + 100
    return x, torch.randint(256, (N, 16), generator=generator).byte()


def with_batch(state, x, digests):
    state = state.update(update(state.moments, x), SHARES * x.mean(dim=0))
    return state.with_images(len(x), digests)


def fit(x, digests, size):
    state = FitState.empty(init(P, D), L)
    for part, known in zip(x.split(size), digests.split(size), strict=True):
        state = with_batch(state, part, known)
    return state


def assert_same(state, x, digests):
    """Against the naive float64 mean and scatter of just these images."""
    assert state.count == len(x)
    mean = x.double().mean(dim=0)
    torch.testing.assert_close(state.moments.mean, mean, rtol=0, atol=1e-5)
    scatter = torch.einsum("npd,npe->pde", x - mean, x - mean)
    ours = state.moments.scatter.to_dense(True, torch.float64)
    torch.testing.assert_close(ours, scatter, rtol=1e-4, atol=1e-3)
    shares = SHARES.double() * mean
    torch.testing.assert_close(state.layer_means.double(), shares, rtol=1e-6, atol=1e-4)
    assert sorted(map(tuple, state.digests.tolist())) == sorted(map(tuple, digests.tolist()))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.zeros(N, 16, dtype=torch.int64), r"torch.int64 \(24, 16\)"),
        (torch.zeros(N, 16), r"torch.float32 \(24, 16\)"),
        (torch.zeros(N, 8, dtype=torch.uint8), r"torch.uint8 \(24, 8\)"),
        (torch.zeros(N - 1, 16, dtype=torch.uint8), r"torch.uint8 \(23, 16\)"),
        (["a"] * N, "list"),
    ],
)
def test_digests_that_no_checkpoint_would_hold_are_refused_at_the_first_batch(wrong, said):
    said = rf"digest is {said}.*; it must be torch.uint8 \(24, 16\), see .* or be left out"
    with pytest.raises(InputError, match=said):
        with_batch(FitState.empty(init(P, D), L), images()[0], wrong)


@pytest.mark.parametrize("size", [1, 5, 7, N])
def test_batches_do_not_matter(size):
    x, digests = images()
    assert_same(fit(x, digests, size), x, digests)


def test_order_does_not_matter():
    x, digests = images()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    assert_same(fit(x[order], digests[order], 5), x, digests)


def test_two_states_add_and_one_is_taken_away_again():
    x, digests = images()
    first, second = fit(x[:9], digests[:9], 4), fit(x[9:], digests[9:], 4)
    whole = first.merge(second)
    assert_same(whole, x, digests)
    assert_same(whole.subtract(second, digests[:9], EMPTY), x[:9], digests[:9])
    assert_same(FitState.empty(init(P, D), L).merge(first), x[:9], digests[:9])


@pytest.mark.parametrize("split", [(12, 12), (1, 23), (0, 24), (7, 0, 17)])
def test_ranks_add_up(split):
    x, digests = images()
    parts = zip(x.split(split), digests.split(split), strict=True)
    states = [fit(a, b, 5) if len(a) else FitState.empty(init(P, D), L) for a, b in parts]
    for state in all_ranks(states, lambda state, total, gather: state.reduce(total, gather)):
        assert_same(state, x, digests)


def test_images_that_nobody_named_make_the_whole_unknown():
    x, digests = images()
    named = fit(x, digests, 5)
    unnamed = with_batch(FitState.empty(init(P, D), L), x, None)
    assert unnamed.digests is None
    assert named.merge(unnamed).digests is None and unnamed.merge(named).digests is None
    assert with_batch(unnamed, x, digests).digests is None
    ranks = all_ranks([named, unnamed], lambda state, total, gather: state.reduce(total, gather))
    assert [state.digests for state in ranks] == [None, None]


def test_too_few_do_not_stay():
    x, digests = images()
    with pytest.raises(InputError, match="cannot remove 23 of 24 images"):
        fit(x, digests, 5).subtract(fit(x[:23], digests[:23], 5), digests[23:], EMPTY)


def test_other_shapes_do_not_add():
    x = torch.cat([images()[0]] * 2, dim=2)
    other = with_batch(FitState.empty(init(P, 2 * D), L), x, None)
    with pytest.raises(InputError, match="do not combine"):
        fit(*images(), 5).merge(other)
