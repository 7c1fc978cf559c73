"""Leave-one-out scores against refits without the image; thresholds against what they promise."""

import io
import math

import numpy as np
import pytest
import torch
from _helpers.fits import fit_on_images
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, genpareto

from padim_lit import JL, Backbone, Detector, InputError
from padim_lit.deploy.calibration import (
    LEVEL,
    Measured,
    _pareto,
    _quantile,
    _survival,
    calibrate,
    choose,
    describe,
    leave_one_out,
    measure,
    p_value,
    recalibrate,
)
from padim_lit.model.gaussian import mahalanobis, whiten
from padim_lit.model.moments import init, update
from padim_lit.model.ridge import Ridge


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


def refits(x: torch.Tensor, eps: float) -> torch.Tensor:
    rest = [torch.cat([x[:i], x[i + 1 :]]) for i in range(len(x))]
    return torch.cat([distances(x[i : i + 1], rest[i], eps) for i in range(len(x))])


@pytest.mark.parametrize(("count", "dim"), [(3, 5), (10, 30), (40, 12), (200, 12)])
@pytest.mark.parametrize("eps", [0.01, 1.0])
def test_the_closed_form_is_the_refit_without_the_image(count, dim, eps):
    x = features(count, dim)
    found, reliable = leave_one_out(distances(x, x, eps), count)
    assert reliable.all() or count <= dim
    scaled = refits(x, eps * (count - 1) / (count - 2))
    same = reliable.unsqueeze(1).expand_as(found)
    assert torch.allclose(found[same], scaled[same], rtol=1e-6, atol=0)
    ratio = refits(x, eps)[same] / found[same]
    assert (ratio >= 1 - 1e-6).all() and (
        ratio <= math.sqrt((count - 1) / (count - 2)) + 1e-6
    ).all()


@pytest.mark.parametrize(("count", "dim", "top"), [(40, 100, 1e3), (60, 100, 1e3), (120, 100, 1e4)])
def test_float32_carries_what_is_told(count, dim, top):
    x, eps = features(count, dim, top=top), 0.01
    moments = update(init(3, dim), x.float())
    ours = mahalanobis(x.float(), moments.mean, whiten(moments, Ridge(eps)))
    found, reliable = leave_one_out(ours, count)
    assert reliable.any()
    expected = refits(x.float().double(), eps * (count - 1) / (count - 2))
    assert torch.allclose(found[reliable].double(), expected[reliable], rtol=0.01, atol=0)


def test_what_rounding_has_lost_is_told_and_gives_no_threshold():
    x, eps = features(40, 100), 1e-4
    moments = update(init(3, 100), x.float())
    found, reliable = leave_one_out(
        mahalanobis(x.float(), moments.mean, whiten(moments, Ridge(eps))), 40
    )
    assert not reliable.any() and found.isfinite().all()
    chosen = choose(found.amax(dim=1).numpy(), 0.2, unreliable=40)
    assert chosen.value is None and "rounding" in chosen.why


def test_two_images_cannot_be_left_out():
    with pytest.raises(InputError, match="at least 3"):
        leave_one_out(torch.ones(2, 4), 2)


@given(st.lists(st.integers(0, 5000), min_size=2, max_size=20), st.integers(30, 1000))
def test_leaving_out_never_lowers_a_distance_and_keeps_the_order(values, count):
    before = torch.tensor([sorted(values)], dtype=torch.float64) / 1000
    after, _ = leave_one_out(before, count)
    assert (after >= before).all() and (after.diff() >= 0).all()


@pytest.fixture(scope="module")
def detector() -> Detector:
    backbone = Backbone("resnet18", [1, 2, 3], weights="random")
    model = Detector(backbone, JL(backbone.embedding_dim, 4), image_shape=(32, 32), sigma=1.0)
    return model.eval()


def fit(model: Detector, images: torch.Tensor) -> None:
    fit_on_images(model, images, batch=len(images))


@pytest.mark.parametrize("how", ["max", "topk"])
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
    scores, tops, unreliable = found.scores, found.maxima, found.unreliable
    bound = math.sqrt(7 / 6) - 1
    assert unreliable == 0
    for found, wanted in ((scores, expected), (tops, maxima)):
        ratio = torch.tensor(wanted) / found
        assert (ratio > 1 - 1e-4).all() and (ratio < 1 + bound + 1e-4).all()
    # What the closed form is for: in the sample itself all look better than they are.
    assert (detector(images)[0] < scores).all()


def test_a_backbone_in_bf16_does_not_round_the_scores(detector):
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    fit(detector, images)
    with torch.autocast("cpu", torch.bfloat16):
        found = measure(detector, [{"image": images}])
    for values in (found.scores, found.maxima):
        assert (values != values.bfloat16().float()).any()


def test_empirical_threshold_is_the_order_statistic_with_its_beta_interval():
    scores = np.random.default_rng(0).permutation(np.arange(1, 200, dtype=np.float32))
    chosen = choose(scores, 0.01)
    assert chosen.method == "empirical"
    # k = ⌈200 · 0.99⌉ = 198: that score is still good, whatever is higher is not.
    assert 198 < chosen.value < 198.001 and not np.float32(198) >= chosen.value
    law = beta(2, 198)
    assert chosen.interval == pytest.approx(law.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2]))


@given(st.integers(20, 400), st.sampled_from([0.01, 0.05, 0.1, 0.25]), st.integers(0, 2**31))
def test_decisions_and_p_values_agree(total, rate, seed):
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.gamma(4, size=total).astype(np.float32))
    chosen = choose(rng.permutation(scores), rate)
    if chosen.method == "empirical":
        for score in (*scores[-5:], scores[0], scores[-1] + 1):
            assert (score >= chosen.value) == (p_value(score, scores) <= rate + 1e-9)


def test_p_value_counts_itself_and_ties():
    scores = np.array([1, 2, 2, 3], dtype=np.float32)
    found = [p_value(s, scores) for s in (0.5, 2.0, 2.5, 3.0, 9.0)]
    assert found == [1.0, 0.8, 0.4, 0.4, 0.2]


@pytest.mark.parametrize(
    ("total", "rate", "method", "allowed"),
    [(150, 0.01, "empirical", 0.0105), (60, 0.01, "tail", 0.013), (25, 0.05, "empirical", 0.053)],
)
def test_the_rate_is_kept_on_the_average(total, rate, method, allowed):
    rng, rates, covered = np.random.default_rng(3), [], 0
    for _ in range(60):
        chosen = choose(rng.exponential(size=total), rate)
        rates.append(math.exp(-chosen.value))
        covered += chosen.interval[0] <= rates[-1] <= chosen.interval[1]
    assert chosen.method == method
    assert rate / 4 < np.mean(rates) < allowed and covered >= 48


@pytest.mark.parametrize("shape", [-1.2, -0.3, -1e-10, 0.0, 0.2, 1.5])
def test_pareto_law_is_scipys(shape):
    survival = np.geomspace(1e-6, 1, 50)
    x = _quantile(shape, 2.0, survival)
    assert np.allclose(x, genpareto.isf(survival, shape, scale=2), rtol=1e-12)
    x = np.linspace(0, 20, 50)  # beyond the end of a law that has one
    expected = genpareto.sf(x, shape, scale=2)
    assert np.allclose(_survival(shape, 2.0, x), expected, rtol=1e-9, atol=1e-12)


def test_pareto_fit_against_scipys_law():
    for shape in (-0.2, 0.1, 0.3):
        sample = genpareto(shape, scale=2).rvs(200_000, random_state=0)
        found = [float(v[0]) for v in _pareto(np.sort(sample)[None])]
        assert found == pytest.approx([shape, 2], abs=0.03)


def test_too_few_images_give_no_threshold_but_the_reason():
    chosen = choose(np.arange(15, dtype=np.float32), 0.01)
    assert (chosen.value, chosen.method, chosen.interval) == (None, None, None)
    assert "15 good images are too few" in chosen.why and "99" in chosen.why
    assert choose(np.ones(40, dtype=np.float32), 0.01).value is None


@pytest.mark.parametrize("rate", [0, 1, -0.1, float("nan")])
def test_a_rate_that_is_none(rate):
    with pytest.raises(InputError, match="false_alarm_rate="):
        choose(np.arange(30.0), rate)


def test_a_calibration_survives_a_checkpoint_and_another_rate():
    scores = torch.rand(150, generator=torch.Generator().manual_seed(0))
    known = calibrate(Measured(scores, scores + 1), 0.1)
    file = io.BytesIO()
    torch.save(known, file)
    file.seek(0)
    back = torch.load(file, weights_only=True)
    assert recalibrate(back, None)["threshold"] == known["threshold"]
    assert recalibrate(back, 0.3)["threshold"] < known["threshold"]
    assert torch.equal(back["scores"], scores.sort().values)
    assert "about 10.00% of good images reach" in describe(back)
    assert "too few" in describe(calibrate(Measured(scores[:5], scores[:5])))
