"""Bootstrap AUROCs against scikit-learn, intervals against simulations whose truth is known."""

import math

import numpy as np
import pytest
import torch
from _helpers.sweeps import paired
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from padim_lit.analysis.bootstrap import (
    PixelHistograms,
    image_auroc,
    pooled_difference,
    resample_counts,
)
from padim_lit.errors import InputError


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def maps_and_masks(n, mean=12.0, sd=0.3, shift=0.4, side=40, seed=0):
    """Distances around `mean`, images apart from each other, half of them with a defect."""
    maps = mean + sd * (randn(n, side, side, seed=seed) + randn(n, 1, 1, seed=seed + 1))
    masks = torch.zeros(n, side, side, dtype=torch.bool)
    for i in range(n // 2):
        masks[i, 5 : 12 + i % 9, 8:20] = True
    return maps + shift * masks, masks


def weighted(labels, scores, weights):
    return roc_auc_score(labels.flatten(), scores.flatten(), sample_weight=weights.flatten())


# --- resampling -------------------------------------------------------------------------------


def test_strata_keep_their_sizes_and_every_image_its_chance():
    labels = torch.tensor([0, 1, 1, 0, 0, 1, 0, 0])
    counts = resample_counts(labels, 4000)
    assert counts.shape == (4000, 8)
    assert (counts[:, labels == 0].sum(1) == 5).all()
    assert (counts[:, labels == 1].sum(1) == 3).all()
    # A multinomial count has mean 1 and variance 1 - 1/n.
    assert counts.double().mean(0).sub(1).abs().max() < 0.06
    assert counts[:, 0].double().var() == pytest.approx(1 - 1 / 5, abs=0.08)
    assert counts[:, 1].double().var() == pytest.approx(1 - 1 / 3, abs=0.08)


def test_resamples_depend_on_labels_and_seed_alone():
    labels = torch.tensor([0, 0, 1, 1, 1])
    torch.manual_seed(1)
    first = resample_counts(labels, 20)
    torch.manual_seed(2)
    assert torch.equal(resample_counts(labels.bool(), 20), first)
    assert not torch.equal(resample_counts(labels, 20, seed=1), first)


def test_images_of_one_group_are_drawn_together():
    labels = torch.tensor([0, 0, 0, 1, 0, 1, 0, 1])
    groups = ["a", "a", "b", "c", "c", "d", 6, 7]
    counts = resample_counts(labels, 4000, groups=groups)
    for n, m in ((0, 1), (3, 4)):
        assert torch.equal(counts[:, n], counts[:, m])
    assert (counts[:, [0, 2, 6]].sum(1) == 3).all()  # a, b and 6 have no defective image
    assert (counts[:, [3, 5, 7]].sum(1) == 3).all()
    assert counts.double().mean(0).sub(1).abs().max() < 0.06
    assert torch.equal(resample_counts(labels, 9, groups=range(8)), resample_counts(labels, 9))


def test_an_interval_of_copies_is_as_wide_as_that_of_the_images_themselves():
    """Six photos of each part say no more than one."""
    scores, labels = randn(60) + 1, torch.arange(60) % 2
    alone = float(image_auroc(scores, labels, resample_counts(labels, 3000)).std())
    parts = torch.arange(60).repeat_interleave(6)
    scores, labels = scores[parts], labels[parts]
    drawn = resample_counts(labels, 3000, groups=parts.tolist())
    assert float(image_auroc(scores, labels, drawn).std()) == pytest.approx(alone, rel=0.05)
    naive = float(image_auroc(scores, labels, resample_counts(labels, 3000)).std())
    assert naive == pytest.approx(alone / 6**0.5, rel=0.1)


# --- image AUROC ------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    scores=st.lists(st.integers(0, 6), min_size=4, max_size=30),
    seed=st.integers(0, 1000),
)
def test_image_auroc_is_scikit_learns_with_weights_and_ties(scores, seed):
    scores = torch.tensor(scores) * 0.1 + 10
    labels = torch.arange(len(scores)) % 2
    counts = resample_counts(labels, 5, seed)
    ours = image_auroc(scores, labels, counts)
    for found, count in zip(ours, counts, strict=True):
        assert float(found) == pytest.approx(weighted(labels, scores, count), abs=1e-12)


def test_image_auroc_does_not_depend_on_the_order_of_the_images():
    scores, labels = randn(50), torch.arange(50) % 3 == 0
    counts, order = resample_counts(labels, 30), torch.randperm(50)
    torch.testing.assert_close(
        image_auroc(scores[order], labels[order], counts[:, order]),
        image_auroc(scores, labels, counts),
        rtol=0,
        atol=0,
    )


def test_image_auroc_without_a_class_is_nan_and_bad_input_is_refused():
    labels = torch.tensor([0, 0, 1])
    counts = torch.tensor([[1, 1, 0], [1, 1, 1]])
    out = image_auroc(torch.tensor([1.0, 2.0, 3.0]), labels, counts)
    assert out[0].isnan()
    assert out[1] == 1
    with pytest.raises(InputError, match="not finite"):
        image_auroc(torch.tensor([1.0, math.nan, 2.0]), labels, counts)


# --- pixel AUROC ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "sd", "shift"),
    [(12.0, 0.3, 0.3), (23.4, 0.05, 0.05), (300.0, 200.0, 100.0), (0.5, 0.1, 0.0)],
)
def test_pixel_auroc_is_scikit_learns_on_resampled_images(mean, sd, shift):
    maps, masks = maps_and_masks(20, mean, sd, shift)
    maps = maps.abs()
    histograms = PixelHistograms()
    for part in range(0, 20, 6):
        histograms.update(maps[part : part + 6], masks[part : part + 6])
    assert torch.equal(histograms.labels, torch.arange(20) < 10)
    counts = torch.cat([torch.ones(1, 20), resample_counts(histograms.labels, 4)])
    ours = histograms.auroc(counts)
    for found, count in zip(ours, counts, strict=True):
        weights = count[:, None, None].expand(masks.shape)
        assert float(found) == pytest.approx(weighted(masks, maps, weights), abs=2e-4)


def test_pixel_ties_count_half_and_perfect_maps_are_perfect():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :2] = True
    flat, perfect = PixelHistograms(), PixelHistograms()
    flat.update(torch.full((2, 8, 8), 9.0), masks)
    perfect.update(masks + 9.0, masks)
    assert flat.auroc(torch.ones(1, 2)).item() == 0.5
    assert perfect.auroc(torch.ones(1, 2)).item() == 1


def test_updates_after_a_result_count():
    maps, masks = maps_and_masks(8)
    whole, parts = PixelHistograms(), PixelHistograms()
    whole.update(maps, masks)
    parts.update(maps[:5], masks[:5])
    parts.auroc(torch.ones(1, 5))
    parts.update(maps[5:], masks[5:])
    counts = resample_counts(whole.labels, 10)
    assert torch.equal(parts.auroc(counts), whole.auroc(counts))


def test_pixel_auroc_is_nan_where_it_is_undefined():
    healthy = PixelHistograms()
    healthy.update(torch.rand(3, 8, 8) + 5, torch.zeros(3, 8, 8, dtype=torch.bool))
    assert healthy.auroc(torch.ones(2, 3)).isnan().all()
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, 0] = True
    outside = PixelHistograms()
    outside.update(torch.rand(2, 8, 8) * 1e-6, masks)
    assert outside.auroc(torch.ones(1, 2)).isnan().all()


# --- paired differences -----------------------------------------------------------------------


def simulate(seeds, rng, gap=0.35, spread_over_seeds=0.25, good=40, bad=40, resamples=300):
    """Two methods' binormal scores; seeds shift the class distance. Points, resamples and truth."""
    labels = torch.arange(good + bad) >= good
    counts = resample_counts(labels, resamples)
    common = rng.normal(size=good + bad)  # what both methods see in an image
    points, replicates = [], []
    for mean in (1.2 + gap, 1.2):
        for _ in range(seeds):
            shift = rng.normal(mean, spread_over_seeds)
            noise = rng.normal(size=good + bad)
            scores = torch.from_numpy(0.8 * common + 0.6 * noise) + shift * labels
            points.append(float(image_auroc(scores, labels, torch.ones(1, len(labels)))))
            replicates.append(image_auroc(scores, labels, counts).numpy())
    points, replicates = np.array(points), np.stack(replicates)
    # A defect's score minus a good one's is N(mean, 2 + spread²).
    up, down = (
        0.5 * (1 + math.erf(m / math.sqrt(2 * (2 + spread_over_seeds**2))))
        for m in (1.2 + gap, 1.2)
    )
    halves = points[:seeds], points[seeds:], replicates[:seeds], replicates[seeds:]
    return halves, up - down


@pytest.mark.parametrize(("seeds", "spread_over_seeds"), [(1, 0.0), (3, 0.25), (6, 0.25)])
def test_95_percent_intervals_cover_the_true_difference(seeds, spread_over_seeds):
    rng = np.random.default_rng(seeds)
    covered, widths = 0, []
    for _ in range(200):
        halves, truth = simulate(seeds, rng, spread_over_seeds=spread_over_seeds, resamples=200)
        found = paired(*halves)
        covered += found.low <= truth <= found.high
        widths.append(found.high - found.low)
    assert 0.90 <= covered / 200 <= 0.99
    assert np.mean(widths) < 0.35  # an interval that says everything covers too


def test_swapping_mirrors_and_the_mean_is_the_points():
    (a, b, x, y), _ = simulate(4, np.random.default_rng(0))
    one, other = paired(a, b, x, y), paired(b, a, y, x)
    assert one.value == pytest.approx((a - b).mean())
    assert one.low < one.value < one.high
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    assert one.seeds == other.seeds == 4
    assert one == paired(a, b, x, y)


def test_a_method_equals_itself_and_pairing_narrows():
    (a, b, x, y), _ = simulate(3, np.random.default_rng(1))
    same = paired(a, a, x, x)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    shuffled = y[:, np.random.default_rng(2).permutation(y.shape[1])]
    apart = paired(a[:1], b[:1], x[:1], shuffled[:1])
    together = paired(a[:1], b[:1], x[:1], y[:1])
    assert together.high - together.low < apart.high - apart.low


def test_intervals_are_centred_on_the_points_even_if_resamples_are_off():
    (a, b, x, y), _ = simulate(3, np.random.default_rng(3))
    one, off = paired(a, b, x, y), paired(a, b, x + 0.1, y)
    assert (one.low, one.high) == pytest.approx((off.low, off.high))


def test_undefined_resamples_leave_no_interval():
    (a, b, x, y), _ = simulate(2, np.random.default_rng(4), resamples=200)
    x[0, 10:12] = np.nan
    many = paired(a, b, x, y)
    assert many.low is many.high is None
    assert "at least one seed or resample" in many.why
    assert math.isfinite(many.value)
    none = paired(a, b, None, y)
    assert none.low is None
    assert "no resamples" in none.why
    undefined = paired([np.nan, 1], b, x[:, 12:], y[:, 12:])
    assert math.isnan(undefined.value)
    assert "undefined for at least one seed" in undefined.why


def test_a_mean_over_sweeps_takes_what_they_share_for_shared():
    """Three backbones on each of two data sets of as many images; seeds draw alike per backbone."""
    rng, covered, naive = np.random.default_rng(0), 0, 0
    for _ in range(200):
        drawn = rng.normal(size=(2, 400))  # what resample r does, alike in both data sets
        parts = []
        photographed, draw = rng.normal(size=2), rng.normal(size=5)
        for data in (0, 0, 0, 1, 1, 1):
            points = photographed[data] + draw + 0.1 * rng.normal(size=5)
            resamples = points[:, None] + drawn[data] + 0.1 * rng.normal(size=(5, 400))
            parts.append((points, resamples, data, (0, 1, 2, 3, 4)))
        found = pooled_difference(parts)
        covered += found.low <= 0 <= found.high
        apart = pooled_difference([(p, r, n, n) for n, (p, r, *_) in enumerate(parts)])
        naive += apart.low <= 0 <= apart.high
        assert found.value == apart.value
    assert 0.90 <= covered / 200 <= 0.995
    assert naive / 200 < 0.85


def test_of_one_sweep_the_mean_is_its_difference_and_equals_of_other_data_narrow_it():
    (a, b, x, y), _ = simulate(1, np.random.default_rng(0))
    one = paired(a, b, x, y)
    assert one == pooled_difference([(a - b, x - y, "data", (0,))])
    same, other = (
        pooled_difference([(a - b, x - y, data, (0,)) for data in names]) for names in ("aa", "ab")
    )
    assert (same.low, same.high) == pytest.approx((one.low, one.high))
    narrower = (other.high - other.low) / (one.high - one.low)
    assert narrower == pytest.approx(0.5**0.5, rel=0.1)
    # Where fewer resamples were kept, those that all have are used.
    fewer = pooled_difference([(a - b, x - y, "a", (0,)), (a - b, (x - y)[:, :90], "b", (0,))])
    assert fewer.low < one.value < fewer.high
