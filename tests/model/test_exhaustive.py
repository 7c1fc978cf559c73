"""All of a mixture's distances: a float64 reference, and the search that leaves most out."""

from functools import partial

import pytest
import torch

from padim_lit.model import search
from padim_lit.model.search import Exhaustive, Search
from padim_lit.model.triangular import Triangle

K, D = 11, 70  # more than one band of rows


@pytest.fixture(scope="module")
def gaussians():
    generator = torch.Generator().manual_seed(0)
    mean = 3 * torch.randn(K, D, generator=generator) + 20
    factor = torch.randn(K, D, D, generator=generator).tril() / 8 + torch.eye(D)
    return mean, factor


@pytest.fixture(scope="module")
def x(gaussians):
    generator = torch.Generator().manual_seed(1)
    owner = torch.randint(K, (3, 40), generator=generator)
    return gaussians[0][owner] + torch.randn(3, 40, D, generator=generator)


@pytest.mark.parametrize("at_once", [None, 1, 4, K, 100])
def test_it_finds_what_a_naive_one_finds(gaussians, x, at_once):
    mean, factor = gaussians
    deviation = x.double().unsqueeze(2) - mean
    expected = torch.einsum("kde,bpke->bpkd", factor.double(), deviation).norm(dim=3).min(dim=2)
    distances, owner = Exhaustive(mean, Triangle.of(factor))(x, at_once=at_once)
    torch.testing.assert_close(distances.double(), expected.values, rtol=1e-5, atol=1e-5)
    assert torch.equal(owner, expected.indices)


def test_some_patches_at_a_time_are_all_of_them(gaussians, x, monkeypatch):
    finder = Exhaustive(gaussians[0], Triangle.of(gaussians[1]))
    expected = finder(x)
    monkeypatch.setattr(search, "GPU_NUMBERS", 7 * K * D)
    for found, one in zip(finder(x), expected, strict=True):
        torch.testing.assert_close(found, one)


@pytest.mark.parametrize("kind", [Exhaustive, partial(Search, white=torch.eye(D))])
def test_an_offset_that_all_share_costs_no_digits(gaussians, kind):
    mean, factor = gaussians[0].double() + 3000, gaussians[1]
    x = (mean[:, None] + torch.randn(K, 1, D, generator=torch.Generator().manual_seed(2))).float()
    deviation = x.double() - mean.unsqueeze(1)
    own = (deviation @ factor.double().mT).norm(dim=2)
    found, owner = kind(mean, Triangle.of(factor))(x)
    assert torch.equal(owner[:, 0], torch.arange(K))
    torch.testing.assert_close(found.double(), own, rtol=2e-5, atol=0)


def test_it_finds_what_the_search_finds(gaussians, x):
    mean, whitening = gaussians[0], Triangle.of(gaussians[1])
    distances, owner = Exhaustive(mean, whitening)(x)
    searched, of_search = Search(mean, whitening, white=torch.eye(D))(x)
    torch.testing.assert_close(distances, searched, rtol=1e-4, atol=1e-5)
    assert torch.equal(owner, of_search)
