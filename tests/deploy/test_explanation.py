"""Shares of layers and positions: exact, and right where the answer is known."""

import math

import pytest
import torch
from _helpers.paper import paper
from _helpers.tables import long_table

from padim_lit import JL, Backbone, Identity, Subset
from padim_lit.checkpoint.state import load_detector, save_detector
from padim_lit.deploy.explanation import Explanation, explain
from padim_lit.errors import InputError
from padim_lit.model.detector import Detector
from padim_lit.model.gaussian import factorize
from padim_lit.model.ridge import Ridge

SHAPE = (64, 48)


def _backbone():
    torch.manual_seed(0)
    return Backbone("resnet18", [1, 2, 3], weights="random").eval()


def _images(count, seed):
    return torch.rand(count, 3, *SHAPE, generator=torch.Generator().manual_seed(seed))


def _fitted(kind=JL, dim=12, **options):
    backbone = _backbone()
    projection = kind(backbone.embedding_dim, dim)
    model = Detector(backbone, projection, SHAPE, **paper(projection.dim, **options))
    model.set_state(_state(model, _images(20, 1)))
    return model


def _state(detector, images, step=7):
    state = detector.empty_state()
    for batch in images.split(step):
        state = detector.update_state(state, {"image": batch})
    return state


@long_table("kind", [JL, Subset], every=2)
@pytest.mark.parametrize("score", ["max", "topk", "contrast"])
@pytest.mark.parametrize("grid", [None, 6])
def test_shares_add_up_to_score_and_map(kind, score, grid):
    model = _fitted(kind, grid=grid, image_score=score)
    image = _images(1, 2)
    scores, maps = model(image)
    why = explain(model, image[0])
    assert why.score == pytest.approx(float(scores[0]), rel=1e-5)
    assert sum(why.layers.values()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(
        torch.from_numpy(why.layer_maps).sum(0), maps[0], rtol=1e-4, atol=1e-4
    )
    assert list(why.layers) == ["layer 1 (16×12)", "layer 2 (8×6)", "layer 3 (4×3)"]
    distances = model.distances(image)[0]
    for position in why.positions:
        index = position.row * model.map_grid[1] + position.column
        assert position.distance == pytest.approx(float(distances[index]), rel=1e-4)
    shares = [position.share for position in why.positions]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= (math.inf if score == "contrast" else 1 + 1e-6)


def test_a_layer_alone_is_found():
    model = _fitted(Subset, dim=24, sigma=0)
    image = _images(1, 3)
    clean = model.backbone(image)
    for layer in range(3):
        changed = [f.clone() for f in clean]
        changed[layer][:, :, 1, 1] += 100
        model.backbone.forward = lambda _, features=changed: features
        why = explain(model, image[0])
        assert max(why.layers, key=why.layers.get).startswith(f"layer {layer + 1}")
        assert max(why.layers.values()) > 0.9


def test_the_position_of_a_defect_is_found():
    model = _fitted(JL)
    features = [f.clone() for f in model.backbone(_images(1, 4))]
    features[0][:, :, 9, 4] += 50
    model.backbone.forward = lambda _: features
    why = explain(model, _images(1, 4)[0])
    first = why.positions[0]
    scale = model.map_grid[0] / 16
    assert (first.row, first.column) == (int(9 * scale), int(4 * scale))
    (left, top, right, bottom), (down, across) = first.box, model.anomaly_map.offset
    x, y = 4 * 4 + 2 - across, 9 * 4 + 2 - down  # where the map shows it
    assert left <= x < right and top <= y < bottom


def test_layer_means_are_those_of_all_images():
    model = _fitted(Identity)
    images = _images(20, 1)
    features = torch.cat([model.embed(batch) for batch in images.split(5)]).double()
    start = 0
    for number, width in enumerate((64, 128, 256)):
        rows = slice(start, start + width)
        expected = features.mean(0)
        torch.testing.assert_close(
            model.layer_means[number][:, rows].double(), expected[:, rows], rtol=1e-4, atol=1e-5
        )
        start += width
    torch.testing.assert_close(model.layer_means.sum(0).double(), model.mean, rtol=1e-4, atol=1e-5)


def test_layer_means_merge_and_subtract():
    model = _fitted()
    images = _images(23, 5)
    whole = _state(model, images)
    first, second = _state(model, images[:9]), _state(model, images[9:])
    torch.testing.assert_close(first.merge(second).layer_means, whole.layer_means)
    rest = whole.subtract(first, None, model.mean)
    torch.testing.assert_close(rest.layer_means, second.layer_means, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_keeps_them(tmp_path):
    model = _fitted()
    save_detector(model, tmp_path / "model.ckpt")
    image = _images(1, 6)[0]
    again = load_detector(tmp_path / "model.ckpt")
    assert explain(again, image).layers == explain(model, image).layers


def test_before_the_fit_there_is_nothing_to_explain():
    backbone = _backbone()
    with pytest.raises(InputError, match="fit it"):
        explain(Detector(backbone, JL(backbone.embedding_dim, 4), SHAPE), _images(1, 6)[0])


def test_against_float64():
    model = _fitted(eps=0.1)
    image = _images(1, 7)
    moments = model.fit_state.moments
    sigma = moments.scatter.to_dense(True, torch.float64) / (moments.counts[0] - 1)
    sigma += 0.1 * torch.eye(12)
    deviation = model.embed(image)[0].double() - model.mean
    squares = torch.einsum("pd,pde,pe->p", deviation, torch.linalg.inv(sigma), deviation)
    maps = model.anomaly_map(squares.sqrt().float()[None])[0]
    assert explain(model, image[0]).score == pytest.approx(float(maps.max()), rel=1e-4)
    assert factorize(moments, Ridge(0.1)).dim == 12


def test_layers_are_coloured_beside_the_map_and_told_in_words():
    maps = torch.zeros(3, 4, 4).numpy()
    why = Explanation(9.0, {"layer 1": 0.7, "layer 2": 0.4, "layer 3": -0.1}, [], maps)
    assert why.captions == [
        "layer 1: 70% of the score", "layer 2: 40% of the score", "layer 3: speaks against it",
    ]  # fmt: skip
    # A sound background of 6 on the map is 2 in each of three layers: the scale's dark end.
    assert why.layer_scale((6.0, 20.0)) == (2.0, 20.0)
