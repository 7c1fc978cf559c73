"""Mixtures, alone and beside a Gaussian a position: a float64 reference; their fit is a sum."""

import math
from functools import partial

import pytest
import torch
from _helpers.own_densities import own_densities
from _helpers.ranks import all_ranks

from padim_lit import JL, Backbone, Both, Detector, InputError, Mixture, PerPosition
from padim_lit.checkpoint.state import load_detector, save_detector, slim_state, spec_of
from padim_lit.deploy.explanation import explain
from padim_lit.deploy.graph import Graph
from padim_lit.model.density import DENSITIES
from padim_lit.model.mixture import k_means
from padim_lit.model.ridge import pooled
from padim_lit.model.triangular import covariance_log_det
from padim_lit.model.warm_up import learn

K, D = 12, 40  # more dimensions than the first bounds see


@pytest.fixture(scope="module")
def backbone():
    return Backbone("test_resnet", weights="random")


def images(n, seed=0):
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def learnt(backbone, components=K, kind=Mixture):
    density = kind(D, components=components)
    jl = JL(backbone.embedding_dim, D)
    detector = Detector(backbone, jl, (64, 64), density, eps_unit="feature")
    density.learn(detector.embed(images(10)))
    return detector.eval()


@pytest.mark.parametrize("seed", range(4))
def test_patches_that_span_few_of_the_dimensions_belong_to_their_nearest_centroid(seed):
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator)
    x = draw(400, 1).exp() * (draw(400, 10) @ draw(10, D)) + 100  # few of them far out
    density = Mixture(D, components=20)
    density.learn(x[None])
    a, b = (one.double() @ density.white.double().T for one in (x, density.centroids))
    exact = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
    assert torch.equal(density.assign(x), exact)


def mixture(detector):
    return getattr(detector.density, "mixture", detector.density)


def state(detector, batch, split=4):
    digests = (batch.flatten(1)[:, :16] * 255).byte()
    found = detector.empty_state()
    for x, digest in zip(batch.split(split), digests.split(split), strict=True):
        found = detector.update_state(found, {"image": x, "digest": digest})
    return found


@pytest.fixture(scope="module", params=["Mixture", "Both", "Both 0.0", "Both 0.2", "Both 1"])
def fitted(backbone, request):
    kind, *weight = request.param.split()
    given = {"position_weight": float(*weight)} if weight else {}
    detector = learnt(backbone, kind=partial({"Mixture": Mixture, "Both": Both}[kind], **given))
    assert detector.density.learnt == pytest.approx(given or detector.density.learnt)
    detector.set_state(state(detector, images(10)))
    return detector


def naive(detector, train, test, eps=0.01):
    """Distances (B,P) in float64, each step written out: no sums, no factors, no bounds."""
    weight = D / 2 if detector.density.name == "both" else D
    x = detector.embed(train).flatten(0, 1).double()
    white, centroids = mixture(detector).white.double(), mixture(detector).centroids.double()
    near = torch.cdist(x @ white.T, centroids @ white.T).argmin(dim=1)
    groups = [x[near == k] for k in range(len(centroids))]
    own = [len(g) * torch.cov(g.T, correction=0) if len(g) else torch.zeros(D, D).double()
           for g in groups]  # fmt: skip
    pooled = sum(own) / (len(x) - sum(len(g) > 0 for g in groups))
    y, squares, of_components = detector.embed(test).flatten(0, 1).double(), [], []
    for k, group in enumerate(groups):
        mean = group.mean(dim=0) if len(group) else centroids[k]
        sigma = (own[k] + weight * pooled) / (max(len(group) - 1, 0) + weight)
        sigma += eps * torch.eye(D)
        of_components.append(torch.logdet(sigma))
        squares.append(((y - mean) @ torch.linalg.inv(sigma) * (y - mean)).sum(dim=1))
    distances = torch.stack(squares).amin(dim=0).sqrt().view(len(test), -1)
    if detector.density.name == "both":
        at_position = []
        both = (detector.embed(batch).double().unbind(1) for batch in (train, test))
        for x, y in zip(*both, strict=True):
            at_position.append((y - x.mean(dim=0), (len(x) - 1) * torch.cov(x.T)))
        pooled = sum(scatter for _, scatter in at_position) / (len(at_position) * (len(x) - 1))
        squares, of_positions = [], []
        for y, scatter in at_position:
            sigma = (scatter + weight * pooled) / (len(x) - 1 + weight) + eps * torch.eye(D)
            of_positions.append(torch.logdet(sigma))
            squares.append((y @ torch.linalg.inv(sigma) * y).sum(dim=1))
        volume = sum(of_positions) / len(of_positions) - sum(of_components) / len(of_components)
        at_position = torch.stack(squares, dim=1).sqrt() * (volume / D / 4).exp()
        w = float(detector.density.position_weight)
        distances = (1 - w) * torch.minimum(distances, at_position) + w * at_position
    return distances


def heard(density, x):
    """w of `Both` in float64, step by step: from how differently components at a position vary."""
    d, mixture = x.shape[2], density.mixture
    white, centroids = mixture.white.double(), mixture.centroids.double()
    z = x.double() @ white.T
    near = torch.cdist(z.flatten(0, 1), centroids @ white.T).argmin(dim=1)
    groups = [z.flatten(0, 1)[near == k] for k in range(len(centroids))]
    scatters = [len(g) * torch.cov(g.T, correction=0) if len(g) else torch.zeros(d, d).double()
                for g in groups]  # fmt: skip
    pooled = sum(scatters) / (len(near) - sum(len(g) > 0 for g in groups))
    variance = []
    for group, scatter in zip(groups, scatters, strict=True):
        sigma = (scatter + d / 2 * pooled) / (max(len(group) - 1, 0) + d / 2)
        variance.append(torch.logdet(sigma + 0.01 * torch.eye(d)) / d)
    found = torch.stack(variance)[near].view(x.shape[:2])
    spread = float((found - found.mean(dim=0)).square().mean().sqrt())
    return min(0.5, max(0.0, 0.5 * (0.17 - spread) / 0.02))


def at_positions(widths, dim=5):
    """Patches (B,P,D) of two components that lie apart; `widths` (B,P): standard deviations."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*widths.shape, dim, generator=generator) * widths.unsqueeze(2)
    return x + 20 * (widths > 1).unsqueeze(2)


@pytest.mark.parametrize("width", [1.01, 1.185, 1.5])
def test_a_position_is_heard_where_components_there_vary_alike(width, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    thrown = 1 + (width - 1) * torch.randint(0, 2, (40, 30), generator=generator)
    found = []
    for widths in (thrown, thrown[:1].expand(40, -1)):  # as they fall, and each at its position
        density, x = Both(5, components=2), at_positions(widths)
        density.learn(x)
        found.append(float(density.position_weight))
        assert found[-1] == pytest.approx(heard(density, x), abs=1e-4)
        # With the same components neither the order of images and positions nor what a patch is
        # measured in changes it. (Others may be found: k-means starts at patches that it draws.)
        again, turned = Both(5, components=2), 7 * torch.linalg.qr(torch.randn(5, 5)).Q
        again.mixture.white = density.mixture.white @ turned.inverse().T
        again.mixture.centroids = density.mixture.centroids @ turned
        monkeypatch.setattr(again.mixture, "learn", lambda x: None)
        again.learn(x.flip(0, 1) @ turned)
        assert float(again.position_weight) == pytest.approx(found[-1], abs=1e-3)
    assert found[1] == 0.5
    expected = {1.01: 0.5, 1.185: pytest.approx(0.25, abs=0.2), 1.5: 0}
    assert found[0] == expected[width]


def test_a_weight_that_is_given_is_not_learnt_and_is_an_option():
    given = Both(5, components=2, position_weight=0.3)
    given.learn(at_positions(torch.ones(40, 30)))  # would be 0.5
    assert given.learnt == {"position_weight": pytest.approx(0.3)}
    assert given.options["position_weight"] == 0.3
    # Checkpoints of one that is learnt stay what they were before it could be given.
    assert list(Both(5).options) == ["components", "fit_images", "shrinkage"]


@pytest.mark.parametrize("weight", [-0.1, 1.01, float("nan")])
def test_a_weight_beyond_0_and_1_is_refused(weight):
    with pytest.raises(InputError, match=f"density.position_weight={weight}: must be from 0 to 1"):
        Both(5, position_weight=weight)


def test_few_patches_tell_nothing_and_no_position_is_heard():
    x = torch.randn(20, 10, 5, generator=torch.Generator().manual_seed(0))
    found = []
    for components in (59, 61):  # 3.39 patches each, more than two thirds of D = 5, and 3.28
        density = Both(5, components=components)
        density.position_weight.fill_(0.4)  # of another time
        density.learn(x)
        found.append(float(density.position_weight))
    assert found[0] > 0 == found[1]


def test_what_else_shrinks_does_not_change_whether_a_position_is_heard():
    x = at_positions(1 + 0.185 * torch.randint(0, 2, (40, 30), generator=torch.manual_seed(1)))
    found = []
    for shrinkage in (None, 1000.0):
        density = Both(5, components=2, shrinkage=shrinkage)
        density.learn(x.double())
        found.append(float(density.position_weight))
    assert found[0] == found[1] and 0 < found[0] < 0.5


def test_distances_match_a_naive_reference_in_float64(fitted):
    test = images(5, seed=1)
    torch.testing.assert_close(
        fitted.distances(test).double(), naive(fitted, images(10), test), rtol=1e-4, atol=1e-4
    )


def test_a_position_goes_half_of_the_way_to_the_volume_of_a_component(backbone):
    detector = learnt(backbone, kind=Both)
    detector.set_state(state(detector, images(10)))
    parts = detector.density.parts(detector.positions)
    moments, ridge = detector.fit_state.moments, detector.ridge
    own = [
        float(covariance_log_det(part.factorize(moments.at(some), ridge)).mean())
        for part, some in parts
    ]
    position, component = (
        float(covariance_log_det(detector.whitening.at(some)).mean()) for _, some in parts
    )
    assert component == pytest.approx(own[1]) and position == pytest.approx(sum(own) / 2)
    assert abs(own[0] - own[1]) > 0.1  # or nothing would be seen
    expected = pytest.approx(detector.density.scales(own), rel=1e-5)
    assert detector.density.scales_in(detector.whitening) == expected


def test_an_empty_component_is_the_pooled_covariance_around_its_centroid(backbone):
    detector = learnt(backbone)
    centroids = detector.density.centroids
    centroids[3] += 100 * (centroids[0] - centroids[1])  # no patch comes near
    train = images(10)
    detector.set_state(state(detector, train))
    assert detector.fit_state.moments.counts[3] == 0
    torch.testing.assert_close(
        detector.distances(train).double(), naive(detector, train, train), rtol=1e-4, atol=1e-4
    )
    found = detector.density.nearest(
        detector.density.centroids[3].view(1, 1, D), detector.mean, detector.whitening
    )
    assert found[0] < 1e-2 and found[1] == 3
    factor = detector.whitening.to_dense(symmetric=False)[3].double()
    sigma = pooled(detector.fit_state.moments) + 0.01 * torch.eye(D)
    torch.testing.assert_close(factor.T @ factor, torch.linalg.inv(sigma), rtol=1e-3, atol=1e-3)


def test_more_components_than_a_covariance_needs_patches(backbone):
    detector = learnt(backbone, components=500)
    detector.set_state(state(detector, images(10)))
    assert detector.fit_state.moments.counts.max() < D
    image = images(1, seed=1)
    score = float(detector(image)[0])  # some patches are nearest to a component without patches
    assert explain(detector, image[0]).score == pytest.approx(score, rel=1e-4)


def test_a_patch_and_its_gaussian(backbone):
    fitted = learnt(backbone)
    fitted.set_state(state(fitted, images(10)))
    x = fitted.embed(images(3, seed=2))
    distances, owner = fitted.density.nearest(x, fitted.mean, fitted.whitening)
    factors = fitted.whitening.to_dense(symmetric=False)[owner]
    z = torch.einsum("bpde,bpe->bpd", factors, x - fitted.mean[owner].float())
    torch.testing.assert_close(z.norm(dim=2), distances, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [Mixture, Both])
def test_a_fit_is_a_sum(backbone, kind):
    detector, batch = learnt(backbone, components=60, kind=kind), images(10, seed=1)
    whole = state(detector, batch)
    for other in (state(detector, batch, split=1), state(detector, batch.flip(0), split=3)):
        same(other, whole)
    first, second = state(detector, batch[:2]), state(detector, batch[2:])
    same(first.merge(second), whole)
    assert ((first.moments.counts == 0) & (whole.moments.counts > 0)).any()  # some lose all
    same(whole.subtract(second, first.digests, detector.empty_state().moments.mean), first)


def test_the_ranks_of_a_fit_add_theirs(backbone):
    detector, batch = learnt(backbone, kind=Both), images(10)
    detector.density.mixture.centroids[3] += 100  # no patch comes near, and there it stays
    parts = [state(detector, part) for part in batch.split([3, 7])]
    for found in all_ranks(parts, lambda mine, total, gather: mine.reduce(total, gather)):
        same(found, state(detector, batch))


def same(ours, theirs):
    assert ours.count == theirs.count
    assert torch.equal(ours.moments.counts, theirs.moments.counts)
    used = theirs.moments.counts > 0
    torch.testing.assert_close(ours.moments.mean, theirs.moments.mean, rtol=1e-5, atol=1e-6)
    scatters = (one.moments.scatter.to_dense(True)[used] for one in (ours, theirs))
    torch.testing.assert_close(*scatters, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.layer_means, theirs.layer_means, rtol=1e-4, atol=1e-5)


def test_no_autocast_moves_a_patch_to_another_component(fitted):
    x = fitted.embed(images(8, seed=6)).flatten(0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        found, rounded = mixture(fitted).assign(x), x @ mixture(fitted).white.T
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(found, mixture(fitted).assign(x))


def test_layer_means_add_up_to_the_means(fitted):
    used = fitted.fit_state.moments.counts > 0
    total = fitted.layer_means.sum(dim=0)[used].double()
    torch.testing.assert_close(total, fitted.mean[used], rtol=1e-4, atol=1e-5)


def test_the_explanation_adds_up_to_score_and_map(fitted):
    image = images(1, seed=3)
    score, maps = fitted(image)
    why = explain(fitted, image[0])
    assert why.score == pytest.approx(float(score), rel=1e-4)
    assert sum(why.layers.values()) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(torch.from_numpy(why.layer_maps).sum(0), maps[0], rtol=1e-3,
                               atol=1e-3)  # fmt: skip


def test_a_graph_computes_all_components_and_finds_the_same(fitted):
    test = images(3, seed=4)
    for ours, theirs in zip(Graph(fitted)(test), fitted(test), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", own_densities())
def test_of_an_own_density_there_is_no_graph(backbone, name):
    jl = JL(backbone.embedding_dim, D)
    detector = Detector(backbone, jl, (64, 64), own_densities()[name](D)).eval()
    learn(detector, lambda _: [{"image": images(10)}])
    detector.set_state(state(detector, images(10)))
    with pytest.raises(InputError, match="format=torch"):
        Graph(detector)


def test_nothing_is_derived_from_both():
    with pytest.raises(InputError, match="Mine: no class can be derived from Both; derive it from"):
        type("Mine", (Both,), {"name": "mine"})


@pytest.mark.parametrize("slim", [False, True])
def test_a_checkpoint_keeps_it(fitted, tmp_path, slim):
    save_detector(fitted, tmp_path / "model.ckpt", slim_state(fitted) if slim else None)
    other, test = load_detector(tmp_path / "model.ckpt"), images(2, seed=5)
    assert torch.equal(other.embed(test), fitted.embed(test))
    assert torch.equal(other.mean, fitted.mean)
    assert all(map(torch.equal, other.whitening.bands, fitted.whitening.bands))
    # A product's last bit depends on where in memory its factors lie.
    torch.testing.assert_close(other(test)[0], fitted(test)[0], rtol=1e-6, atol=0)
    assert spec_of(other) == spec_of(fitted)
    if not slim:
        same(other.fit_state, fitted.fit_state)


def test_centroids_depend_on_the_seed_and_on_nothing_else():
    x = torch.randn(10, 40, 5, generator=torch.Generator().manual_seed(0))
    found = []
    for seed in (0, 0, 1):
        mixture = Mixture(5, seed, components=7)
        mixture.learn(x)
        found.append(mixture.centroids)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("kind", DENSITIES.values())
def test_a_density_says_whether_its_seed_draws_anything(kind):
    x = torch.randn(10, 40, 4, generator=torch.Generator().manual_seed(0))

    def learnt(seed):
        density = kind(4, seed)
        if density.fit_images:
            density.learn(x)
        return density.empty(6, "cpu").mean

    assert torch.equal(learnt(4), learnt(4))
    assert torch.equal(learnt(4), learnt(5)) != kind.seeded


def test_k_means_finds_what_lies_apart():
    centres = 100 * torch.eye(6)
    noise = torch.randn(50, 6, 6, generator=torch.Generator().manual_seed(0))
    found = k_means((centres + noise).flatten(0, 1), 6, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found[found.argmax(dim=1).argsort()], centres, rtol=0, atol=1)


@pytest.mark.parametrize("kind", [Mixture, Both])
def test_patches_that_are_all_alike_are_no_special_case(backbone, kind):
    detector = learnt(backbone, kind=kind)
    one = torch.rand(D, generator=torch.Generator().manual_seed(0))
    detector.density.learn(one.expand(20, 25, D))
    detector.set_state(state(detector, images(1).expand(4, -1, -1, -1)))
    assert detector.distances(images(2)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 0}, r"density.components=0: must be from 1 to 1048576"),
        ({"fit_images": 1}, r"density.fit_images=1: must be at least 2"),
        ({"shrinkage": 0.0}, r"density.shrinkage=0.0: must be above 0"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Mixture(D, **options)
    Mixture(D, components=1, fit_images=2)  # the least of each


@pytest.mark.parametrize("shrinkage", [-1.0, math.inf, math.nan])
def test_what_no_covariance_can_weigh_is_refused_before_the_fit(shrinkage):
    with pytest.raises(InputError, match=f"density.shrinkage={shrinkage}: must be finite and 0"):
        PerPosition(D, shrinkage=shrinkage)


def test_few_patches_make_fewer_components():
    mixture = Mixture(D, components=12)
    mixture.learn(torch.rand(4, 10, D, generator=torch.Generator().manual_seed(0)))
    assert len(mixture.centroids) == 12 and len(mixture.centroids.unique(dim=0)) == 5


def test_of_many_patches_a_sample_is_learnt_from_wherever_they_lie(monkeypatch):
    monkeypatch.setattr("padim_lit.model.mixture.MAX_SAMPLE", 40)
    mixture, x = Mixture(2, components=12), torch.rand(10, 40, 2)
    x[5:] += 100
    mixture.learn(x)
    found = mixture.centroids.unique(dim=0)  # one for each 8 patches of the sample
    assert len(found) == 5 and found.max() > 100 and found.min() < 1


@pytest.mark.parametrize("kind", [Mixture, Both])
def test_what_has_learnt_nothing_fits_nothing(kind):
    with pytest.raises(InputError, match="no centroids; learn them before the fit"):
        kind(D, components=K).empty(6, "cpu")


@pytest.mark.parametrize("kind", [Mixture, Both])
def test_one_patch_is_too_few_to_learn_from(kind):
    with pytest.raises(InputError, match="one patch is too few to learn from; add images"):
        kind(D, components=K).learn(torch.rand(1, 1, D))


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_a_mean_far_from_zero_moves_no_patch_to_another_component(mean):
    x = mean + torch.randn(20, 100, D, generator=torch.Generator().manual_seed(0))
    mixture = Mixture(D, components=K)
    mixture.learn(x)
    x, white, centroids = x.flatten(0, 1), mixture.white.double(), mixture.centroids.double()
    squares = torch.cdist(x.double() @ white.T, centroids @ white.T).square()
    found = squares.gather(1, mixture.assign(x)[:, None])[:, 0]
    torch.testing.assert_close(found, squares.amin(dim=1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", DENSITIES.values())
def test_another_default_precision_changes_no_score(backbone, kind, request):
    train, test = images(10), images(2, seed=7)

    def scores():
        detector = Detector(backbone, JL(backbone.embedding_dim, D), (64, 64), kind(D)).eval()
        if detector.density.fit_images:
            detector.density.learn(detector.embed(train))
        detector.set_state(state(detector, train))
        assert detector.layer_means.dtype == torch.float32
        return [detector(test)[0] for _ in range(2)]  # prepared for one call, and for more

    expected = scores()
    request.addfinalizer(partial(torch.set_default_dtype, torch.get_default_dtype()))
    torch.set_default_dtype(torch.float64)
    assert all(map(torch.equal, scores(), expected))
