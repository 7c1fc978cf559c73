"""Scores of left-out images against refits without them, of the Gaussians and of what is learnt."""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from _helpers.fits import fit_on_images
from _helpers.own_densities import own_densities
from _helpers.paper import paper
from hypothesis import given
from hypothesis import strategies as st

from padim_lit import (
    JL,
    NPCA,
    Backbone,
    Both,
    Detector,
    Fisher,
    InputError,
    Mixture,
    PerPosition,
)
from padim_lit.deploy.calibration import choose
from padim_lit.deploy.left_out import (
    FOLDS,
    MIN_UNSEEN,
    cross_fit,
    leave_one_out,
    measure,
    measure_training,
)
from padim_lit.deploy.over_images import Loop
from padim_lit.model.fit_state import subtract
from padim_lit.model.gaussian import factorize, mahalanobis
from padim_lit.model.moments import covariance, init, update
from padim_lit.model.region_of_interest import RestrictedMap
from padim_lit.model.ridge import Ridge, pooled
from padim_lit.model.warm_up import evenly_spaced, learn


def features(count: int, dim: int, positions: int = 3, decades: float = 4, top: float = 1e3):
    """(N,P,D) float64 whose variances span `decades`, beside a mean."""
    generator = torch.Generator().manual_seed(count * dim)
    spread = (top * torch.logspace(0, -decades, dim, dtype=torch.float64)).sqrt()
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    x = torch.randn(count, positions, dim, generator=generator, dtype=torch.float64)
    return (x * spread) @ turn + 5


def distances(x: torch.Tensor, others: torch.Tensor, eps: float) -> torch.Tensor:
    """(B,P) of `x` under the Gaussians of `others`, in float64, by a plain solve."""
    mean = others.mean(dim=0)
    y = others - mean
    sigma = torch.einsum("npd,npe->pde", y, y) / (len(others) - 1)
    sigma = sigma + eps * torch.eye(x.shape[2], dtype=x.dtype)
    z = (x - mean).unsqueeze(-1)
    return (z * torch.linalg.solve(sigma, z)).sum(dim=(2, 3)).sqrt()


def refits(x: torch.Tensor, eps: float, ways: int = 1) -> torch.Tensor:
    """Of each image's first patches, under the Gaussians of what is not that image's."""
    rest = [torch.cat([x[:i], x[i + ways :]]) for i in range(0, len(x), ways)]
    return torch.cat([distances(x[i * ways, None], rest[i], eps) for i in range(len(rest))])


def products(x: torch.Tensor, eps: float, ways: int = 1) -> torch.Tensor:
    """(N,P,V,V) y_vᵀΣ⁻¹y_w of all images (N·V,P,D), in float64, by a plain solve."""
    y = x - x.mean(dim=0)
    sigma = torch.einsum("npd,npe->pde", y, y) / (len(x) - 1)
    sigma = sigma + eps * torch.eye(x.shape[2], dtype=x.dtype)
    y = y.unflatten(0, (-1, ways)).movedim(2, 1)  # (N,P,V,D)
    return y @ torch.linalg.solve(sigma, y.mT)


def squared(distances: torch.Tensor) -> torch.Tensor:
    """Products of a single direction."""
    return distances.square()[..., None, None]


@pytest.mark.parametrize(
    ("count", "dim", "ways"),
    [(3, 5, 1), (10, 30, 1), (40, 12, 1), (200, 12, 1), (3, 9, 4), (10, 30, 2), (40, 12, 8)],
)
@pytest.mark.parametrize("eps", [0.01, 1.0])
def test_the_closed_form_is_the_refit_without_the_image(count, dim, ways, eps):
    x = features(count * ways, dim)
    found, reliable = leave_one_out(products(x, eps, ways), count)
    assert reliable.all() or count * ways <= dim
    shift = (count * ways - 1) / ((count - 1) * ways - 1)
    scaled = refits(x, eps * shift, ways)
    same = reliable.unsqueeze(1).expand_as(found)
    assert torch.allclose(found[same], scaled[same], rtol=1e-6, atol=0)
    ratio = refits(x, eps, ways)[same] / found[same]
    assert (ratio >= 1 - 1e-6).all() and (ratio <= math.sqrt(shift) + 1e-6).all()


@pytest.mark.parametrize(("count", "dim", "top"), [(40, 100, 1e3), (60, 100, 1e3), (120, 100, 1e4)])
def test_float32_carries_what_is_told(count, dim, top):
    x, eps = features(count, dim, top=top), 0.01
    moments = update(init(3, dim), x.float())
    ours = mahalanobis(x.float(), moments.mean, factorize(moments, Ridge(eps)))
    found, reliable = leave_one_out(squared(ours), count)
    assert reliable.any()
    expected = refits(x.float().double(), eps * (count - 1) / (count - 2))
    assert torch.allclose(found[reliable].double(), expected[reliable], rtol=0.01, atol=0)


def test_what_rounding_has_lost_is_told_and_gives_no_threshold():
    x, eps = features(40, 100), 1e-4
    moments = update(init(3, 100), x.float())
    found, reliable = leave_one_out(
        squared(mahalanobis(x.float(), moments.mean, factorize(moments, Ridge(eps)))), 40
    )
    assert not reliable.any() and found.isfinite().all()
    chosen = choose(found.amax(dim=1).numpy(), 0.2, unreliable=40)
    assert chosen.threshold is None and "rounding" in chosen.why


def test_two_images_cannot_be_left_out():
    with pytest.raises(InputError, match="at least 3"):
        leave_one_out(torch.ones(2, 4, 1, 1), 2)


@given(st.lists(st.integers(0, 5000), min_size=2, max_size=20), st.integers(30, 1000))
def test_leaving_out_never_lowers_a_distance_and_keeps_the_order(values, count):
    before = torch.tensor([sorted(values)], dtype=torch.float64) / 1000
    after, _ = leave_one_out(squared(before), count)
    assert (after >= before).all() and (after.diff() >= 0).all()


@pytest.fixture(scope="module")
def detector() -> Detector:
    backbone = Backbone("resnet18", [1, 2, 3], weights="random")
    model = Detector(
        backbone, JL(backbone.embedding_dim, 4), image_shape=(32, 32), **paper(4, sigma=1.0)
    )
    return model.eval()


def fit(model: Detector, images: torch.Tensor) -> None:
    fit_on_images(model, images, batch=len(images))


@pytest.mark.parametrize("how", ["max", "topk", "contrast"])
def test_scores_are_those_of_fits_without_the_image(detector, how):
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    detector.image_score = how
    expected, maxima = [], []
    for i in range(len(images)):
        fit(detector, torch.cat([images[:i], images[i + 1 :]]))
        score, map = detector(images[i : i + 1])
        expected.append(float(score))
        maxima.append(float(map.max()))
    fit(detector, images)
    found = measure(detector, [{"image": images[:5]}, {"image": images[5:]}])
    scores, tops, unreliable = found.scores, found.map_maxima, found.unreliable
    bound = math.sqrt(7 / 6)  # on the safe side
    assert unreliable == 0
    for found, wanted in ((scores, expected), (tops, maxima)):
        ratio = torch.tensor(wanted) / found
        assert (ratio > 1 / bound - 1e-4).all() and (ratio < 1 + 1e-4).all()
    # What the closed form is for: in the sample itself all look better than they are.
    assert (detector(images)[0] < scores).all()


def test_images_whose_scores_are_lost_in_rounding_are_counted(detector):
    model, images = deepcopy(detector), torch.rand(4, 3, 32, 32)  # no more of them than dimensions
    model.ridge = Ridge(eps=1e-5)
    fit(model, images)
    found = measure(model, [{"image": images[:1]}, {"image": images[1:]}])
    assert found.unreliable == 4 and found.scores.isfinite().all()


def test_a_backbone_in_bf16_does_not_round_the_scores(detector):
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    fit(detector, images)
    with torch.autocast("cpu", torch.bfloat16):
        found = measure(detector, [{"image": images}])
    for values in (found.scores, found.map_maxima):
        assert (values != values.bfloat16().float()).any()


def learnt(backbone: Backbone, kind: type, images: torch.Tensor, fit_images: int) -> Detector:
    """Fitted on `images`, its projection on as many of them as it wants, as a fit does it."""
    projection = kind(backbone.embedding_dim, 4, fit_images=fit_images)
    model = Detector(
        backbone, projection, image_shape=(32, 32), **paper(projection.dim, sigma=1.0)
    ).eval()
    learn(model, lambda n: [{"image": images[evenly_spaced(len(images), n)]}])
    fit(model, images)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Fisher, NPCA])
def test_no_image_is_scored_by_what_was_learnt_from_it(detector, kind):
    images = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = learnt(detector.backbone, kind, images, 6)
    matrix, mean = model.projection.matrix.clone(), model.mean.clone()
    names = [str(i) for i in range(12)]
    batches = [{"image": images[i], "path": names[i]} for i in (slice(5), slice(5, None))]
    found, whose, expected = cross_fit(model, batches), [], []
    for fold in range(FOLDS):  # the slow way: learn and fit anew for each image
        held = list(range(fold, 12, FOLDS))
        others = [i for i in range(12) if i not in held]
        other = learnt(detector.backbone, kind, images, 6)
        chosen = [others[i] for i in evenly_spaced(len(others), 6)]
        learn(other, lambda n, chosen=chosen: [{"image": images[chosen]}])
        for i in held:
            fit(other, torch.cat([images[:i], images[i + 1 :]]))
            expected.append(float(other(images[i : i + 1])[0]))
            whose.append(names[i])
    assert list(found.paths) == whose
    ratio = torch.tensor(expected) / found.scores
    # On the safe side.
    assert (ratio > math.sqrt(10 / 11) - 1e-3).all() and (ratio < 1 + 1e-3).all()
    assert torch.equal(model.projection.matrix, matrix) and torch.equal(model.mean, mean)
    assert len(found.map_maxima) == 12 and found.unreliable == 0


@pytest.mark.parametrize(
    ("count", "fit_images", "images", "scored"),
    [
        (12, 6, 500, 12),
        (12, 6, 4, 4),
        (MIN_UNSEEN + 6, 6, 500, MIN_UNSEEN),
        (MIN_UNSEEN + 6, 6, 50, 50),
    ],
)
def test_images_that_nothing_was_learnt_from_are_scored_alone_where_they_suffice(
    detector, count, fit_images, images, scored, caplog
):
    data = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = learnt(detector.backbone, Fisher, data, fit_images)
    loop = Loop(torch.device("cpu"), 64)
    with caplog.at_level("INFO"):
        found = measure_training(model, [{"image": image} for image in data], images, loop)
    assert len(found.scores) == scored
    said = f": {min(FOLDS, scored)} more fits, each of which scores images"
    assert (said in caplog.text) is (count < MIN_UNSEEN)
    assert "memory holds" not in caplog.text  # all of them
    if count > MIN_UNSEEN:
        seen = set(evenly_spaced(count, fit_images))
        unseen = [i for i in range(count) if i not in seen]
        chosen = [unseen[i] for i in evenly_spaced(len(unseen), images)]
        plain = measure(model, [{"image": data[chosen]}])
        torch.testing.assert_close(found.scores, plain.scores, rtol=1e-5, atol=0)


def test_where_nobody_knows_what_was_learnt_from_all_learn_again(detector):
    data = torch.rand(MIN_UNSEEN + 6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model, loop = learnt(detector.backbone, Fisher, data, 6), Loop(torch.device("cpu"), 64)
    samples = [{"image": image} for image in data.flip(0)]
    found = measure_training(model, samples, 500, loop, in_order=False)
    assert len(found.scores) == len(data)


def test_images_that_one_or_the_other_learnt_from_are_not_scored_alone(detector):
    data = torch.rand(MIN_UNSEEN + 15, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = learnt(detector.backbone, Fisher, data, 7)
    model.density.fit_images = 5
    seen = {*evenly_spaced(len(data), 7), *evenly_spaced(len(data), 5)}
    assert len(seen) > 7
    samples = [{"image": image} for image in data]
    found = measure_training(model, samples, 500, Loop(torch.device("cpu"), 64))
    assert len(found.scores) == len(data) - len(seen)


def test_without_the_memory_for_all_feature_maps_fewer_images_are_taken(
    detector, monkeypatch, caplog
):
    data = torch.rand(12, 3, 32, 32)
    model = learnt(detector.backbone, Fisher, data, 6)
    one = 4 * sum(x.numel() for x in detector.backbone(data[:1]))
    monkeypatch.setattr("padim_lit.deploy.left_out.available_bytes", lambda device: 2 * 7 * one)
    samples = [{"image": image} for image in data]
    assert len(measure_training(model, samples, 500, Loop(torch.device("cpu"), 4)).scores) == 7
    assert "the feature maps of 7 of 12 good images in 1 direction(s)" in caplog.text


@pytest.mark.parametrize(
    ("density", "formula", "error", "rotations"),
    [
        (Mixture(6, components=4), 100, 1e-4, 1),
        (Mixture(6, components=4), 0, 0.05, 1),
        (Both(6, components=4), 100, 1e-4, 1),
        (Both(6, components=4), 0, 0.065, 1),  # with ν = 3, √(10/9) from the positions' ε alone
        (Both(6, components=4), 0, 0.05, 3),
        (PerPosition(6), 0, 0.02, 4),
        (PerPosition(6), 100, 1e-4, 1),  # its ε is of the variance of all
        (Both(6, components=4), 100, 1e-4, 3),
        *((own(6), formula, 0.07, 1) for own in own_densities().values() for formula in (0, 100)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_an_image_is_left_out_by_a_fit_without_it(density, formula, error, rotations, monkeypatch):
    monkeypatch.setattr("padim_lit.deploy.left_out.FORMULA_IMAGES", formula)
    backbone = Backbone("test_resnet", weights="random")
    projection = JL(backbone.embedding_dim, 6)
    model = Detector(backbone, projection, (64, 64), deepcopy(density), rotations=rotations)
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    learn(model, lambda _: [{"image": images}])
    fit_on_images(model.eval(), images)
    found = measure(model, [{"image": images}])
    for i in range(8):
        other = deepcopy(model)
        fit_on_images(other, torch.cat([images[:i], images[i + 1 :]]))
        # Of many images, one does not change ε and the pooled covariance.
        expected = pytest.approx(float(found.scores[i]), rel=error)
        assert float(other(images[i : i + 1])[0]) == expected


@pytest.mark.parametrize(("dim", "components", "rotations"), [(6, 60, 1), (6, 60, 3), (12, 5, 1)])
def test_of_many_images_only_gaussians_with_patches_of_the_one_are_factored_anew(
    dim, components, rotations, monkeypatch
):
    monkeypatch.setattr("padim_lit.deploy.left_out.FORMULA_IMAGES", 0)
    backbone = Backbone("test_resnet", weights="random")
    density = Mixture(dim, components=components)
    projection = JL(backbone.embedding_dim, dim)
    how = {"rotations": rotations, "image_score": "max"}
    model = Detector(backbone, projection, (64, 64), density, **how)
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    x = model.embed_turned(images)
    density.learn(x.flatten(0, 1))
    fit_on_images(model.eval(), images)
    moments = model.require_state().moments
    ridge = replace(model.ridge, common=pooled(moments))
    found = measure(model, [{"image": images}]).map_maxima
    for i in range(8):
        one, empty = x[i], density.empty(model.positions, "cpu")
        image, _ = density.update_moments(empty, one, one[None], lambda every: every)
        rest = subtract(moments, image, empty.mean)
        eps, prior = density.shrinking(ridge).of(rest)
        sigma = covariance(rest, eps, prior=prior)
        away = one[0, :, None].double() - rest.mean
        squares = torch.einsum("pkd,kde,pke->pk", away, torch.linalg.inv(sigma), away)
        distances = squares.amin(dim=1).sqrt().float()
        expected = model.anomaly_map(distances[None]).max()
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("kind", "rotations"), [(Mixture, 1), (Mixture, 2), (Both, 1)])
def test_folds_of_a_mixture_learn_their_own_centroids(kind, rotations):
    backbone = Backbone("test_resnet", weights="random")
    density, projection = kind(6, components=4, fit_images=6), JL(backbone.embedding_dim, 6)
    for value in density.learnt:  # but no weights: scores are compared with the model's
        getattr(density, value).fill_(0.3)
    model = Detector(backbone, projection, (64, 64), density, rotations=rotations).eval()
    roi = torch.ones(64, 64, dtype=torch.bool)
    roi[:, 40:] = False
    model.anomaly_map = RestrictedMap(model.anomaly_map, roi)
    images = torch.rand(10, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = cross_fit(model, [{"image": images}])
    for i in range(10):
        fold, place = i % FOLDS, i // FOLDS
        others = [k for k in range(10) if k % FOLDS != fold]
        other = deepcopy(model)
        chosen = [others[k] for k in evenly_spaced(len(others), 6)]
        learn(other, lambda n, chosen=chosen: [{"image": images[chosen]}])
        for value in density.learnt:
            getattr(other.density, value).fill_(0.3)
        fit_on_images(other, torch.cat([images[:i], images[i + 1 :]]))
        score = float(other(images[i : i + 1])[0])
        assert float(found.scores[2 * fold + place]) == pytest.approx(score, rel=1e-3)


def test_images_that_are_not_in_the_fit_are_known_by_their_digests_or_refused(detector):
    data = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    digests = torch.arange(12, dtype=torch.uint8)[:, None].expand(-1, 16).contiguous()
    known = [{"image": data, "digest": digests}]
    model = Detector(
        detector.backbone, JL(detector.backbone.embedding_dim, 6), (32, 32), Both(6, components=3)
    )
    learn(model, lambda count: known)
    model.set_state(model.update_state(model.empty_state(), {"image": data[:8]}))
    with pytest.raises(InputError, match=r"not in the fit.*measure\(\.\.\., held=frozenset\(\)\)"):
        measure(model, [{"image": data[8:] / 20}])
    alone = measure(model, [{"image": data[8:]}], frozenset())
    assert alone.unseen == 4
    torch.testing.assert_close(alone.scores, model(data[8:])[0])
    some = {key: values[:8] for key, values in known[0].items()}
    model.set_state(model.update_state(model.empty_state(), some))
    found = measure(model, known)
    assert found.unseen == 4
    torch.testing.assert_close(found.scores[8:], alone.scores)
    with pytest.raises(InputError, match="without digest"):
        measure(model, [{"image": data}])
    # At the fit's end: a Dataset whose images are other ones each time.
    samples = [{"image": data[i], "digest": digests[i + 1]} for i in range(8)]
    model.projection.fit_images = model.density.fit_images = 0
    with pytest.raises(InputError, match="gives other pixels each time"):
        measure_training(model, samples, 500, Loop(torch.device("cpu"), 4))
