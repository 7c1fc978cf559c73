"""Thresholds and p-values against what they promise."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from _helpers.fits import fitted_detector
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom, hypergeom

from padim_lit import InputError
from padim_lit.checkpoint.state import load_detector, save_detector
from padim_lit.deploy.calibration import (
    BY_HAND,
    CONFIDENCE,
    by_hand,
    calibrate,
    choose,
    contradicts,
    describe,
    expected_rate,
    highest,
    p_value,
    recalibrate,
    set_threshold,
)
from padim_lit.deploy.left_out import Measured
from padim_lit.system.console import percent, score_text


def known_by(scores, rate=0.01, unreliable=0):
    scores = torch.tensor(np.asarray(scores, dtype=np.float32))
    return calibrate(Measured(scores, scores, unreliable), rate)


def test_empirical_threshold_is_the_order_statistic_with_its_beta_interval():
    scores = np.random.default_rng(0).permutation(np.arange(1, 200, dtype=np.float32))
    chosen = choose(scores, 0.01)
    assert chosen.method == "empirical"
    # k = ⌈200 · 0.99⌉ = 198: that score is still good, whatever is higher is not.
    assert 198 < chosen.threshold < 198.001 and not np.float32(198) >= chosen.threshold
    law = beta(2, 198)
    assert chosen.interval == pytest.approx(law.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))


@given(st.integers(20, 400), st.sampled_from([0.01, 0.05, 0.1, 0.25]), st.integers(0, 2**31))
def test_decisions_and_p_values_agree(total, rate, seed):
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.gamma(4, size=total).astype(np.float32))
    known = known_by(rng.permutation(scores), rate)
    if known.method == "empirical":
        for score in (*scores[-5:], scores[0], scores[-1] + 1):
            assert (score >= known.threshold) == (p_value(score, known) <= rate + 1e-9)


def test_p_value_counts_itself_and_ties():
    known = known_by([1, 2, 2, 3])
    found = [p_value(s, known) for s in (0.5, 2.0, 2.5, 3.0, 9.0)]
    assert found == [1.0, 0.8, 0.4, 0.4, 0.2]


def test_a_p_value_takes_lower_bounds_for_high_scores():
    assert p_value(9.0, known_by([1, 2, 2, 3], unreliable=2)) == 0.6
    assert p_value(2.5, known_by([1, 2, 2, 3], unreliable=9)) == 1.0


@pytest.mark.parametrize(
    ("total", "rate", "said"),
    [(199, 0.01, "1.00%"), (256, 0.01, "0.78%"), (37, 0.05, "2.63%"), (9, 0.01, "10.00%")],
)
def test_the_rate_that_is_said_is_what_the_order_statistic_gives(total, rate, said):
    scores = torch.linspace(1, 3, total)
    known = calibrate(Measured(scores, scores), rate)
    assert f"which about {said} of good images reach" in describe(known)
    k = total + 1 - round(expected_rate(total, rate) * (total + 1))
    assert known.interval == pytest.approx(beta(total + 1 - k, k).ppf([0.025, 0.975]))


def test_a_threshold_is_said_with_all_of_its_digits():
    scores = torch.linspace(15.99866, 16.99866, 99)
    enough, few = (calibrate(Measured(scores[-n:], scores[-n:])) for n in (99, 98))
    end = "; the largest of these scores is 17.00"
    assert describe(enough).startswith("threshold 17.00, ") and describe(enough).endswith(end)
    end = "; just above the largest of these scores, because 1.00% takes 99 good images"
    assert describe(few).startswith("threshold 17.00, ") and describe(few).endswith(end)
    last = Measured(scores[-1:], scores[-1:], paths=["a.png"])
    assert highest(last, few.threshold).endswith("a.png 17.00")


@given(st.integers(1, 60), st.integers(0, 9), st.floats(0.5, 4.5))
def test_a_threshold_by_hand_says_what_the_scores_say_of_it(total, unreliable, threshold):
    scores = torch.from_numpy(np.random.default_rng(total).integers(1, 5, total)).float()
    known = calibrate(Measured(scores, 2 * scores, unreliable=min(unreliable, total)), 0.3)
    found = by_hand(known, threshold, "topk")
    assert (found.threshold, found.method) == (threshold, BY_HAND)
    assert torch.equal(found.scores, known.scores)
    higher = int((scores >= np.float32(threshold)).sum())
    most = min(total, max(higher, unreliable))
    assert found.false_alarm_rate == pytest.approx((1 + most) / (1 + total))
    # Clopper and Pearson's: at its ends so many, or so few, are found in 2.5 % of all cases.
    low, high = found.interval
    assert binom.sf(higher - 1, total, low) == pytest.approx(0.025 if higher else 1)
    assert binom.cdf(most, total, high) == pytest.approx(0.025 if most < total else 1)
    said = f"threshold {score_text(threshold)}, chosen by hand, which about "
    assert describe(found).startswith(said + percent((1 + most) / (1 + total), 2))


def test_a_threshold_by_hand_moves_the_maps_and_a_rate_takes_its_place():
    scores = torch.linspace(1, 3, 199)
    known = calibrate(Measured(scores, 2 * scores))
    found = by_hand(by_hand(known, 7.0, "topk"), 2.0, "topk")
    assert found.map_threshold == pytest.approx(known.map_threshold * 2 / known.threshold)
    assert by_hand(known, 2.0, "max").map_threshold == 2.0
    assert recalibrate(found, None) is found
    for rate in (0.01, found.false_alarm_rate):
        again = recalibrate(found, rate)
        assert again.threshold == calibrate(Measured(scores, scores), rate).threshold
        assert again.method == "empirical"


def test_photos_of_one_part_contradict_no_more_than_one_of_them():
    scores = torch.linspace(1, 3, 300)
    known = calibrate(Measured(scores, scores), 0.05)
    assert contradicts(known, alarms=24, good=150)
    assert not contradicts(known, alarms=24, good=150, parts=25)
    assert contradicts(known, alarms=60, good=150, parts=25)
    assert not contradicts(known, alarms=0, good=24, parts=4)


def test_what_to_do_with_a_bad_image_depends_on_whether_it_is_in_the_fit():
    scores = torch.tensor([3.0, 9.5])
    for unseen, todo in ((0, "mode=remove takes it out"), (2, "take it away and set")):
        measured = Measured(scores, scores, unseen=unseen, paths=["a.png", "b.png"])
        assert todo in highest(measured, None)


def test_the_one_image_that_sets_the_threshold_is_named():
    paths = [f"here/{i}.png" for i in range(300)]
    for total, alone in ((198, True), (199, False)):  # of 199 the second highest sets it
        scores = torch.linspace(1, 3, total)
        found = highest(
            Measured(scores, scores, paths=paths), calibrate(Measured(scores, scores)).threshold
        )
        assert found.startswith(f"the good image {total - 1}.png alone sets the") is alone
        assert "score highest, as a bad one" in found and f"here/{total - 1}.png 3.000, " in found
    twice = Measured(torch.tensor([3.0, 9.5, 9.5]), torch.ones(3), paths=paths)
    assert "alone" not in highest(twice, calibrate(twice).threshold)


@pytest.mark.parametrize(("total", "rate"), [(150, 0.01), (60, 0.01), (25, 0.05), (12, 0.3)])
def test_the_interval_holds_the_true_rate_as_often_as_it_says(total, rate):
    rng, rates, covered = np.random.default_rng(3), [], 0
    for _ in range(400):
        chosen = choose(rng.exponential(size=total), rate)
        rates.append(math.exp(-chosen.threshold))
        covered += chosen.interval[0] <= rates[-1] <= chosen.interval[1]
    mean = max(rate, 1 / (total + 1))
    assert 0.6 * mean < np.mean(rates) < 1.1 * mean
    assert 0.92 <= covered / 400 <= 0.98


def test_few_images_give_their_largest_score_and_say_which_rate_they_carry():
    scores = np.random.default_rng(0).gamma(4, size=60).astype(np.float32)
    chosen = choose(scores, 0.01)
    assert chosen.method == "largest"
    # Just above what was seen, however far a tail might go on.
    assert chosen.threshold == np.nextafter(scores.max(), np.float32(np.inf))
    assert chosen.interval == pytest.approx(beta(1, 60).ppf([0.025, 0.975]))
    said = describe(calibrate(Measured(*2 * [torch.tensor(scores)]), 0.01))
    assert "about 1.64% of good images" in said and "1.00% takes 99 good images" in said
    # One image fewer than 1/rate - 1 is too few, as many are not.
    assert [choose(np.arange(float(n)), 0.05).method for n in (18, 19)] == ["largest", "empirical"]


@pytest.mark.parametrize(("count", "why"), [(2, "at least 3 training images"), (3, "took 3 of 2")])
def test_two_images_or_a_fit_of_others_give_no_threshold(caplog, count, why):
    set_threshold(SimpleNamespace(count=count), ["an image"] * 2, 500, None, None)
    assert why in caplog.text


def test_no_image_gives_no_threshold():
    chosen = choose(np.empty(0), 0.01)
    assert (chosen.threshold, chosen.method, chosen.interval) == (None, None, None) and chosen.why


@pytest.mark.parametrize(
    ("alarms", "good", "against"),
    [(24, 260, True), (3, 260, False), (0, 260, False), (0, 0, False), (2, 9, True), (1, 9, False)],
)
def test_a_test_set_contradicts_the_interval_where_chance_does_not_explain_it(
    alarms, good, against
):
    scores = torch.linspace(1, 3, 199)  # 1 %: 0.12 % to 2.77 %
    assert contradicts(calibrate(Measured(scores, scores), 0.01), alarms, good) is against


@pytest.mark.parametrize(
    ("total", "good", "first"),
    [(60, 20, 3), (60, 40, 4), (60, 100, 8), (99, 100, 6), (256, 100, 4)],
)
def test_too_many_alarms_are_those_of_less_than_a_fortieth_of_all_cases(total, good, first):
    known = known_by(np.arange(float(total)))
    assert not contradicts(known, first - 1, good) and contradicts(known, first, good)
    # Of all K + n scores in a row any n may be the fresh ones: m of these alarm where as many are
    # among the highest m + K - k.
    above = round(expected_rate(total, 0.01) * (total + 1)) - 1
    for alarms, against in ((first - 1, False), (first, True)):
        law = hypergeom(total + good, good, alarms + above)
        assert bool(law.sf(alarms - 1) < 0.025) is against


@pytest.mark.parametrize(("total", "rate", "good"), [(99, 0.05, 400), (300, 0.05, 1000)])
def test_a_promise_that_holds_is_contradicted_in_a_fortieth_of_all_cases_a_side(total, rate, good):
    rng, counts = np.random.default_rng(0), Counter()
    for _ in range(2000):
        threshold = choose(rng.exponential(size=total), rate).threshold
        counts[int((rng.exponential(size=good) >= threshold).sum())] += 1
    known, found = known_by(np.arange(float(total)), rate), np.zeros(2)
    for alarms, times in counts.items():
        found[int(alarms < rate * good)] += times * contradicts(known, alarms, good)
    # 50 of each are expected, fewer as alarms are whole numbers; three standard errors are 20.
    assert (found >= 20).all() and (found <= 70).all(), found


def test_a_threshold_by_hand_is_judged_by_the_end_of_its_interval():
    known = by_hand(known_by(np.arange(60.0)), 59.5, "topk")  # 0 to 5.96 %
    assert [contradicts(known, alarms, 20) for alarms in (4, 5)] == [False, True]


@pytest.mark.parametrize("rate", [0, 1, -0.1, float("nan")])
def test_a_rate_that_is_none(rate):
    with pytest.raises(InputError, match="false_alarm_rate="):
        choose(np.arange(30.0), rate)


def test_a_calibration_survives_a_checkpoint_and_another_rate(tmp_path):
    scores = torch.rand(150, generator=torch.Generator().manual_seed(0))
    known = calibrate(Measured(scores, scores + 1), 0.1)
    assert known.map_threshold == pytest.approx(known.threshold + 1)  # of maps' maxima
    detector = fitted_detector()
    detector.calibration = known
    save_detector(detector, tmp_path / "a.ckpt")
    back = load_detector(tmp_path / "a.ckpt").calibration
    assert recalibrate(back, None).threshold == known.threshold
    assert recalibrate(back, 0.3).threshold < known.threshold
    assert torch.equal(back.scores, scores.sort().values)
    assert "about 9.93% of good images reach" in describe(back)
    assert "takes 99" in describe(calibrate(Measured(scores[:5], scores[:5])))
