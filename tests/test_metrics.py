"""Metrics on raw distances against scikit-learn and a naive AUPRO."""

import math
from datetime import timedelta

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from skimage.measure import label as label_regions
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from padim_lit import InputError
from padim_lit.analysis.bootstrap import PixelHistograms
from padim_lit.distance_histogram import BINS, bin_edge, distance_bins
from padim_lit.metrics import ImageMetrics, PixelMetrics


def distances(n, dim, shift, seed=0, side=96):
    """Maps of chi-distributed distances of `dim` degrees of freedom, larger inside the masks."""
    generator = torch.Generator().manual_seed(seed)
    chi = torch.randn(n, side, side, generator=generator) / 2**0.5 + dim**0.5
    mask = torch.zeros(n, side, side, dtype=torch.bool)
    for i in range(n // 2):
        mask[i, 10 : 20 + i, 30:50] = True
        mask[i, 60:64, 5 * i % 80 : 5 * i % 80 + 3] = True
    return (chi + shift * mask).abs(), mask


def naive_aupro(maps, masks, limit=0.3):
    """Per-region overlap by definition, at every distinct distance."""
    maps, masks = maps.double().numpy(), masks.numpy()
    regions = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        parts = label_regions(mask, connectivity=2)
        regions += [np.sort(anomaly_map[parts == r]) for r in range(1, parts.max() + 1)]
    good = np.sort(maps[~masks])
    thresholds = np.unique(maps)[::-1]
    fpr = 1 - np.searchsorted(good, thresholds) / len(good)
    pro = np.mean([1 - np.searchsorted(r, thresholds) / len(r) for r in regions], axis=0)
    fpr, pro = np.concatenate([[0], fpr]), np.concatenate([[0], pro])
    grid = np.append(fpr[fpr < limit], limit)
    return trapezoid(np.interp(grid, fpr, pro), grid) / limit


@pytest.mark.slow
@pytest.mark.parametrize("dim", [100, 550])
def test_pixel_metrics_match_scikit_learn_on_raw_distances(dim):
    maps, mask = distances(40, dim, shift=1.0)
    metric = PixelMetrics()
    for part in range(0, 40, 7):
        metric.update(maps[part : part + 7], mask[part : part + 7])
    ours = metric.compute()
    truth, score = mask.flatten().numpy(), maps.flatten().numpy()
    assert ours["pixel_auroc"] == pytest.approx(roc_auc_score(truth, score), abs=1e-6)
    assert ours["pixel_ap"] == pytest.approx(average_precision_score(truth, score), abs=5e-5)
    f1 = f1_score(truth, score >= ours["pixel_f1max_threshold"])
    others = [f1_score(truth, score >= t) for t in np.quantile(score, np.linspace(0.9, 0.999, 40))]
    assert f1 >= max(others) - 1e-4 and ours["pixel_f1max"] == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.7, 3.0])
def test_aupro_matches_the_definition(shift):
    maps, mask = distances(12, 100, shift, side=96)
    metric = PixelMetrics()
    metric.update(maps, mask)
    assert metric.compute()["pixel_aupro"] == pytest.approx(naive_aupro(maps, mask), abs=1e-4)


def test_what_is_found_at_the_limit_itself_is_no_area():
    """3 of 10 good pixels alarm before the second half of the defect does."""
    mask = torch.arange(14).reshape(1, 1, 14) >= 10
    metric = PixelMetrics()
    metric.update(torch.tensor([[[9.0, 9, 9, 1, 1, 1, 1, 1, 1, 1, 9, 9, 5, 5]]]), mask)
    # One trapezoid from (0, 0) to (0.3, 0.5).
    assert metric.compute()["pixel_aupro"] == pytest.approx(0.25)


def test_aupro_counts_diagonal_neighbours_as_one_region():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 1, 1] = mask[0, 2, 2] = mask[0, 6, 6] = True
    metric = PixelMetrics()
    metric.update(torch.ones(1, 8, 8), mask)
    assert int(metric.regions) == 2


def test_four_pixels_by_hand():
    metric = PixelMetrics()
    metric.update(torch.tensor([[[4.0, 3.0, 2.0, 1.0]]]), torch.tensor([[[1, 0, 1, 0]]]))
    found = metric.compute()
    assert found["pixel_auroc"] == 3 / 4 and found["pixel_ap"] == pytest.approx((1 + 2 / 3) / 2)
    assert (found["pixel_f1max"], found["pixel_f1max_threshold"]) == (pytest.approx(4 / 5), 2.0)


def test_perfect_and_useless_maps():
    mask = torch.zeros(2, 32, 32, dtype=torch.bool)
    mask[:, 4:9, 4:9] = True
    perfect = PixelMetrics()
    perfect.update(mask.float() + 1, mask)
    assert perfect.compute()["pixel_auroc"] == 1
    assert perfect.compute()["pixel_aupro"] == pytest.approx(1, abs=1e-6)
    flat = PixelMetrics()
    flat.update(torch.ones(2, 32, 32), mask)
    assert flat.compute()["pixel_auroc"] == 0.5
    assert flat.compute()["pixel_aupro"] == pytest.approx(0.15)  # FPR = PRO: area limit²/2 / limit


def test_pixel_states_add_up_over_ranks_and_do_not_grow():
    maps, mask = distances(10, 100, 1.0)
    whole, first, second = PixelMetrics(), PixelMetrics(), PixelMetrics()
    whole.update(maps, mask)
    first.update(maps[:3], mask[:3])
    second.update(maps[3:], mask[3:])
    for name in ("good", "bad", "bad_by_region", "regions"):
        total = getattr(first, name) + getattr(second, name)
        torch.testing.assert_close(total, getattr(whole, name), rtol=1e-12, atol=0)
        assert whole._reductions[name](torch.tensor([1, 2])) == 3
        assert getattr(whole, name).numel() <= BINS


def test_bins_keep_the_order_and_cover_what_distances_can_be():
    values = torch.tensor([0.0, 1e-9, 0.1, 1.0, 1.00002, 9.99, 10.0, 550.0, 1e5, 1e9])
    bins = distance_bins(values)
    assert bins.tolist() == sorted(bins.tolist())
    assert bins[0] == 0
    assert bins[-1] == BINS - 1
    assert torch.equal(distance_bins(values.double()), bins)
    inside = values[2:-1]
    edges = bin_edge(distance_bins(inside))
    assert bool((edges <= inside).all())
    torch.testing.assert_close(edges, inside, rtol=2e-5, atol=0)


@pytest.mark.parametrize("dim", [100, 550])
def test_image_metrics_match_scikit_learn_on_raw_distances(dim):
    generator = torch.Generator().manual_seed(dim)
    label = (torch.rand(300, generator=generator) < 0.4).long()
    score = torch.randn(300, generator=generator) + label + dim**0.5
    metric = ImageMetrics()
    for part in range(0, 300, 32):
        metric.update(score[part : part + 32], label[part : part + 32])
    ours = metric.compute()
    assert ours["image_auroc"] == pytest.approx(roc_auc_score(label, score), abs=1e-6)
    assert ours["image_ap"] == pytest.approx(average_precision_score(label, score), abs=1e-6)
    best = max(f1_score(label, score >= t) for t in score)
    assert ours["image_f1max"] == pytest.approx(best, abs=1e-9)
    assert f1_score(label, score >= ours["image_f1max_threshold"]) == pytest.approx(best)


def test_scores_in_double_precision_are_not_rounded():
    metric = ImageMetrics()
    score = torch.tensor([1.0, 1.0 + 1e-12, 1.0 + 2e-12], dtype=torch.float64)
    metric.update(score, torch.tensor([0, 0, 1]))
    found = metric.compute()
    assert found["image_auroc"] == found["image_f1max"] == 1.0
    assert found["image_f1max_threshold"] == float(score[2])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_has_no_rank_and_is_refused(value):
    score, label = torch.tensor([1.0, value]), torch.tensor([0, 1])
    maps, masks = torch.ones(1, 4, 4).index_fill(2, torch.tensor(0), value), torch.zeros(1, 4, 4)
    for update, given, what in (
        (ImageMetrics().update, (score, label), "image scores"),
        (PixelMetrics().update, (maps, masks), "distances"),
        (PixelHistograms().update, (maps, masks), "distances"),
    ):
        with pytest.raises(InputError, match=f"^{what} that are not finite have no order"):
            update(*given)


@pytest.mark.parametrize(
    ("score", "label", "said"),
    [
        (torch.rand(50), torch.ones(10), r"scores \(50,\) and labels \(10,\): both must be \(B,\)"),
        (torch.rand(50, 1), torch.ones(50, 1), r"scores \(50, 1\) and labels \(50, 1\)"),
        (
            torch.rand(2),
            torch.tensor([-1, 1]),
            r"label holds \[-1, 1\] of torch.int64; it must be 0",
        ),
        (torch.rand(2), torch.tensor([0.0, 0.5]), r"label holds \[0.0, 0.5\] of torch.float32"),
    ],
)
def test_scores_and_labels_that_are_no_pairs_are_one_line(score, label, said):
    with pytest.raises(InputError, match=said):
        ImageMetrics().update(score, label)
    ImageMetrics().update(torch.rand(3), torch.tensor([0.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("maps", "masks"), [((2, 1, 8, 8), (2, 1, 8, 8)), ((2, 8, 8), (2, 4, 4)), ((8, 8), (8, 8))]
)
def test_maps_and_masks_of_other_shapes_are_one_line(maps, masks):
    with pytest.raises(InputError, match=r"^maps \(.*\) and masks \(.*\): both must be \(B,h,w\)$"):
        PixelMetrics().update(torch.rand(maps), torch.zeros(masks))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_a_mask_of_numbers_is_a_mask(dtype):
    maps, mask = distances(3, 100, 1.0)
    whole, other = PixelMetrics(), PixelMetrics()
    whole.update(maps, mask)
    other.update(maps, mask.to(dtype))
    assert other.compute() == whole.compute()
    roi = maps[0] > maps[0].median()
    for metric, masks in ((whole, mask), (other, mask.to(dtype))):
        metric.reset()
        metric.update(maps, masks, roi)
    assert other.compute() == whole.compute()


def _rank(rank, folder):
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=30)
    )
    metric = ImageMetrics()
    if not rank:
        metric.update(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 1]))
    torch.save(metric.compute(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_a_rank_without_a_test_image_knows_the_others(tmp_path):
    torch.multiprocessing.spawn(_rank, (tmp_path,), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert found[0] == found[1] and found[0]["image_auroc"] == 1.0


def test_f1max_does_not_split_equal_scores():
    metric = ImageMetrics()
    metric.update(torch.tensor([5.0, 5.0, 5.0, 1.0]), torch.tensor([1, 1, 0, 0]))
    assert metric.compute()["image_f1max"] == pytest.approx(0.8)


@pytest.mark.parametrize(("label", "missing"), [(0, "defective"), (1, "good")])
def test_one_class_alone_gives_none_and_says_why(label, missing):
    metric = ImageMetrics()
    metric.update(torch.rand(3), torch.full((3,), label))
    out = metric.compute()
    assert out["image_auroc"] is out["image_ap"] is out["image_f1max"] is None
    assert out["why"]["image_auroc"] == f"no {missing} image in the test set"


def test_images_that_do_not_count_are_not_called_good():
    metric = ImageMetrics()
    metric.update(torch.rand(0), torch.zeros(0, dtype=torch.long))
    assert "no test image counts" in metric.compute()["why"]["image_auroc"]


def test_no_mask_gives_none_and_says_why():
    unknown = PixelMetrics()
    unknown.update(torch.zeros(0, 8, 8), torch.zeros(0, 8, 8, dtype=torch.bool))
    out = unknown.compute()
    assert out["pixel_auroc"] is out["pixel_aupro"] is None
    assert "mask" in out["why"]["pixel_aupro"]
    healthy = PixelMetrics()
    healthy.update(torch.rand(1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool))
    assert (
        healthy.compute()["why"]["pixel_auroc"] == "no defective pixel that counts in the test set"
    )


@pytest.mark.parametrize("distance", [1e-9, 1e9])
@pytest.mark.parametrize(("pixels", "told"), [(2, False), (3, True)])  # of 200
def test_distances_that_no_bin_tells_apart_give_no_metric(distance, pixels, told):
    metric, maps = PixelMetrics(), torch.ones(1, 10, 20)
    maps[0, 0, :pixels] = distance
    metric.update(maps, torch.arange(200).view(1, 10, 20) > 150)
    said = "below 2^-10 or above 2^20, where pixels are not told apart"
    assert (said in metric.compute()["why"].get("pixel_ap", "")) is told


def test_pixels_outside_of_a_region_of_interest_do_not_count():
    generator = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(3, 20, 30, generator=generator), torch.zeros(3, 20, 30, dtype=bool)
    masks[:, 4:9, 8:22] = True
    roi = torch.zeros(20, 30, dtype=torch.bool)
    roi[2:14, 5:15] = True
    restricted, cut = PixelMetrics(), PixelMetrics()
    restricted.update(maps, masks, roi)
    cut.update(maps[:, 2:14, 5:15], masks[:, 2:14, 5:15])
    assert restricted.compute() == cut.compute()
    inside = roc_auc_score(masks[:, roi].flatten(), maps[:, roi].flatten())
    assert restricted.compute()["pixel_auroc"] == pytest.approx(inside, abs=1e-6)
