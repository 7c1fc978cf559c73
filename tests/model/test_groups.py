"""Patches of one group each, one group after the other and all together: a float64 reference."""

import pytest
import torch

from padim_lit.model.groups import Groups
from padim_lit.model.moments import init

G, D = 7, 70  # more than one band of rows
SIZES = {
    "all alike": [3] * G,
    "none, one and many": [0, 1, 40, 2, 0, 5, 0],
    "the last alone": [0] * (G - 1) + [9],
    "nearly all in one": [2, 0, 0, 90, 0, 0, 1],
    "nothing": [0] * G,
}


@pytest.fixture(params=[False, True], ids=["one by one", "together"])
def together(request):
    return request.param


def patches(sizes, seed=0, offset=50.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sum(sizes), D, generator=generator) + offset


def naive(parts):
    """Counts, means and scatters of lists of patches (n,D), in float64."""
    counts = torch.tensor([float(len(x)) for x in parts], dtype=torch.float64)
    means = torch.stack([x.double().mean(dim=0) if len(x) else torch.zeros(D) for x in parts])
    scatter = [(x - m).T @ (x - m) for x, m in zip((x.double() for x in parts), means, strict=True)]
    return counts, means, torch.stack(scatter)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_moments_equal_those_of_each_group_alone(sizes, together):
    moments, parts = init(G, D), [torch.empty(0, D)] * G
    for seed in range(3):  # the second and third time onto what is there
        x = patches(sizes, seed)
        parts = [torch.cat([a, b]) for a, b in zip(parts, x.split(sizes), strict=True)]
        owner = torch.arange(G).repeat_interleave(torch.tensor(sizes))
        mixed = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        moments = Groups(owner[mixed], G, together).update(moments, x[mixed])
    counts, means, scatter = naive(parts)
    assert torch.equal(moments.counts, counts)
    torch.testing.assert_close(moments.mean, means.double(), rtol=1e-8, atol=1e-7)
    found = moments.scatter.to_dense(symmetric=True, dtype=torch.float64)
    torch.testing.assert_close(found, scatter, rtol=1e-4, atol=1e-3)


def test_sums_are_those_of_each_group(together):
    owner = torch.tensor([4, 1, 1, 6, 4, 4])
    x = torch.randn(2, len(owner), D, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([x[:, owner == g].double().sum(dim=1) for g in range(G)], dim=1)
    found = Groups(owner, G, together).sums(x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_number_of_threads_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    x, owner = (
        torch.randn(500, 7, generator=generator),
        torch.randint(9, (500,), generator=generator),
    )
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 20):
            torch.set_num_threads(threads)
            found.append(Groups(owner, 10).update(init(10, 7), x))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert torch.equal(other.scatter.bands[0], found[0].scatter.bands[0])
        assert torch.equal(other.mean, found[0].mean)


def test_a_large_group_gives_the_others_no_more_room_than_twice_the_average():
    owner = torch.arange(G).repeat_interleave(torch.tensor(SIZES["nearly all in one"]))
    assert [len(rows.T) for rows in Groups(owner, G).steps] == [26] * 4  # of 90, 13 on the average
