"""A map of a region of interest against float64, and what lies outside counts for nothing."""

import pytest
import torch
from _helpers.fits import fitted_detector

from padim_lit import JL, Backbone, Detector
from padim_lit.deploy.graph import Graph
from padim_lit.errors import InputError
from padim_lit.model.anomaly_map import AnomalyMap, image_score
from padim_lit.model.mixture import Mixture
from padim_lit.model.region_of_interest import RestrictedMap, weights
from padim_lit.model.warm_up import learn


def restricted(sigma: float = 2.0) -> tuple[RestrictedMap, torch.Tensor]:
    roi = torch.zeros(32, 48, dtype=torch.bool)
    roi[3:17, 5:29] = True
    roi[10:20, 20:40] = True
    return RestrictedMap(AnomalyMap((8, 12), (32, 48), sigma), roi), roi


def test_a_region_of_interest_is_blurred_with_itself_alone():
    maps, roi = restricted()
    distances = torch.rand(3, 96, generator=torch.Generator().manual_seed(0)) + 1
    found = maps(distances)
    # A mean over the positions that count, in float64, one after the other.
    plain = AnomalyMap((8, 12), (32, 48), 2.0)
    inside = roi.reshape(8, 4, 12, 4).any(dim=3).any(dim=1).flatten()
    assert torch.equal(maps.inside.bool(), inside) and 0 < inside.sum() < 96
    weighted, reached = (
        torch.einsum(
            "hi,bij,wj->bhw", plain.rows.double(), x.reshape(-1, 8, 12), plain.columns.double()
        )
        for x in (distances.double() * inside, inside[None].double())
    )
    expected = torch.where(roi, weighted / reached.clamp(min=1e-12), 0)
    assert torch.allclose(found.double(), expected, atol=1e-5)
    # So no edge of the region is darker.
    assert torch.allclose(maps(torch.ones(1, 96))[0][roi], torch.ones(int(roi.sum())), atol=1e-5)
    row, column = divmod(int(found[1].argmax()), 48)
    assert torch.allclose((weights(maps, row, column) * distances[1]).sum(), found[1].max())


def test_nothing_outside_of_a_region_of_interest_counts():
    maps, roi = restricted()
    distances = torch.rand(2, 96, generator=torch.Generator().manual_seed(1))
    other = torch.where(maps.inside.bool(), distances, 1000.0)
    assert torch.equal(maps(distances), maps(other)) and not maps(other)[:, ~roi].any()
    for how in ("max", "topk", "contrast"):
        first, second = (image_score(maps.counted(d), maps(d), how) for d in (distances, other))
        assert torch.equal(first, second) and first.max() < 2


@pytest.mark.parametrize("wrong", [torch.ones(32, 47, dtype=bool), torch.zeros(32, 48, dtype=bool)])
def test_a_wrong_region_of_interest_is_one_line(wrong):
    with pytest.raises(InputError, match="region of interest"):
        RestrictedMap(AnomalyMap((8, 12), (32, 48)), wrong)


def test_a_mixture_is_made_of_patches_inside_alone(monkeypatch):
    learning, seen = Mixture.learn, []

    def noted(density, x):
        seen.append(x.shape[1])
        learning(density, x)

    monkeypatch.setattr(Mixture, "learn", noted)
    backbone = Backbone("test_resnet", weights="random")
    projection = JL(backbone.embedding_dim, 4)
    detectors = [Detector(backbone, projection, (64, 64), Mixture(4, components=3)) for _ in "ab"]
    roi = torch.zeros(64, 64, dtype=torch.bool)
    roi[:32, :24] = True
    detectors[1].anomaly_map = RestrictedMap(detectors[1].anomaly_map, roi)
    batch, counts = {"image": torch.rand(5, 3, 64, 64)}, []
    for detector in detectors:
        learn(detector, lambda _: [batch])
        state = detector.update_state(detector.empty_state(), batch)
        counts.append(int(state.moments.counts.sum()))
    inside = len(detectors[1].anomaly_map.kept)
    assert seen == [detectors[0].positions, inside] and 0 < inside < 64
    assert counts == [5 * n for n in seen]


@pytest.mark.parametrize("how", ["max", "topk", "contrast"])
def test_an_exported_graph_has_it_too(how):
    detector = fitted_detector()
    detector.image_score = how
    roi = torch.zeros(64, 64, dtype=torch.bool)
    roi[10:40, 20:60] = True
    detector.anomaly_map = RestrictedMap(detector.anomaly_map, roi)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    score, maps = detector(images)
    found, drawn = Graph(detector)(images)
    assert torch.allclose(found, score, rtol=1e-5) and torch.allclose(drawn, maps, rtol=1e-4)
    assert not drawn[:, ~roi].any() and drawn[:, roi].all()
