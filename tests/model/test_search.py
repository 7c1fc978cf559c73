"""A search is prepared once for a fit's Gaussians, and never outlives them."""

import copy
import gc
import pickle
import weakref

import pytest
import torch

from padim_lit import JL, Backbone, Both, Detector, Mixture
from padim_lit.model.search import Search

D, K = 6, 5


@pytest.fixture
def prepared(monkeypatch):
    """Every search that is prepared from now on; those that are forgotten go."""
    made, prepare = weakref.WeakSet(), Search.__init__

    def counting(self, *args):
        prepare(self, *args)
        made.add(self)

    monkeypatch.setattr(Search, "__init__", counting)
    gc.collect()
    return made


@pytest.fixture(params=[Mixture, Both])
def detector(request):
    backbone = Backbone("test_resnet", weights="random")
    density = request.param(D, components=K)
    found = Detector(backbone, JL(backbone.embedding_dim, D), (64, 64), density).eval()
    density.learn(found.embed(images(6)))
    fit(found, 0)
    return found


def images(n, seed=0):
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def fit(detector, seed):
    state = detector.update_state(detector.empty_state(), {"image": images(6, seed)})
    detector.set_state(state)


def exact(detector, x):
    """Distances of embeddings by all Gaussians, in float64."""
    deviation = x.double().unsqueeze(2) - detector.mean
    factor = detector.whitening.to_dense(symmetric=False).double()
    all_of_them = torch.einsum("gde,bpge->bpgd", factor, deviation).norm(dim=3)
    positions = detector.gaussians - K
    found = all_of_them[..., positions:].amin(dim=2)
    if positions:
        to_position = all_of_them[..., :positions].diagonal(dim1=1, dim2=2)
        found = torch.minimum(found, to_position)
        found += detector.density.position_weight * (to_position - found)
    return found


def check(detector):
    x = detector.embed(images(2, 9))
    found = detector.distances_of(x).double()
    torch.testing.assert_close(found, exact(detector, x), rtol=1e-4, atol=1e-5)


def test_it_is_prepared_once(detector, prepared):
    check(detector)
    check(detector)
    assert len(prepared) == 1


@pytest.mark.parametrize("inference", [False, True])
def test_another_fit_is_never_scored_with_it(detector, prepared, inference):
    check(detector)
    with torch.inference_mode(inference):
        fit(detector, seed=1)
        check(detector)
    assert len(prepared) == 1  # the first one went with its factors


def test_neither_are_gaussians_that_were_changed_in_place(detector):
    check(detector)
    detector.mean += 1
    check(detector)
    detector.whitening.bands[0].mul_(2)
    check(detector)
    detector.mean = detector.mean - 1
    check(detector)


def test_copies_and_moves_prepare_their_own(detector):
    check(detector)
    for other in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        other.whitening.bands[0].mul_(2)
        check(other)
    check(detector.to("cpu"))
    assert not any("search" in name for name in detector.state_dict())


def test_it_is_forgotten_with_the_fit(detector, prepared):
    check(detector)
    detector.reset()
    gc.collect()
    assert not prepared


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_patches_may_be_shared_by_threads(detector, monkeypatch, threads):
    monkeypatch.setattr("padim_lit.model.search.MIN_PATCHES", 8)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            check(detector)
    finally:
        torch.set_num_threads(before)
