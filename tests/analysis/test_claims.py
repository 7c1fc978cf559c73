"""Every claim on synthetic sweeps whose truth is known."""

import json
import math

import numpy as np
import pytest
from _helpers.sweeps import editing, write_rows

from padim_lit.analysis.claims import CLAIMS, judge
from padim_lit.analysis.sweep_results import OWN_SPLIT, read_sweeps

DIMS = (25, 50, 100, 150, 200, 300, 400, 550)
SPREAD = {"subset": 0.02, "jl": 0.001, "fisher": 0.001}
MS_BACKBONE = 10


def eq15(x, p=0.03, q=4.0, k=0.05):
    return 2 * p * k / (math.sqrt(q / x) + k) + 1 - p


def curve(proj, dim):
    """A world in which every claim is true: eq. 15 with selection far below."""
    return {"subset": -0.2, "jl": 0.0, "fisher": 0.03}[proj] + eq15(dim)


def cost(proj, dim):
    return 0.0002 * dim**2


def sweep(folder, truth=curve, projs=("subset", "jl", "fisher"), dims=DIMS, seeds=range(6), **more):
    """Write a sweep whose AUROCs are `truth(proj, dim)` plus seeds' and images' variation."""
    spread, ms, keep = more.pop("spread", SPREAD), more.pop("ms", cost), more.pop("keep", True)
    images = more.pop("images", 0.003)
    rng = np.random.default_rng(0)
    common = rng.normal(size=(2, 300))
    rows, resamples = [], {}
    for proj in projs:
        for seed in seeds:
            # The seeds' mean is the truth itself, so that no test hangs on luck.
            shift = spread[proj] * np.resize([-1.0, 1.0], max(2, len(seeds)))[seed]
            shift = shift if len(seeds) > 1 else 0
            for dim in dims:
                y = [truth(proj, dim) + shift] * 2
                row = {"proj": proj, "dim": dim, "seed": seed}
                row |= {"test/image_auroc": y[0], "test/pixel_auroc": y[1]}
                row |= {"state_bytes": 784 * dim * (4 * dim + 8)}
                row |= {"score/ms_per_image": ms(proj, dim), "backbone/ms_per_image": MS_BACKBONE}
                rows.append(row)
                own = rng.normal(size=(2, 300))
                noise = images * common + 0.3 * images * own
                resamples[f"{proj}-{dim}-{seed}"] = np.float32(np.array(y)[:, None] + noise)
    return write_rows(folder, rows, resamples if keep else None, **more)


def verdicts(path):
    found = {v.claim.key: v for v in judge(read_sweeps([path]))}
    # Plain values, and no NaN.
    json.dumps([v.evidence for v in found.values()], allow_nan=False)
    return found


def test_a_world_in_which_all_is_true(tmp_path):
    sweep(tmp_path / "a", data="screw", command=["data=mvtec"])
    sweep(tmp_path / "b", data="elpv", command=["data=elpv"])
    found = verdicts(tmp_path)
    assert list(found) == list(CLAIMS)
    said = {key: v.kind for key, v in found.items()}
    assert said == dict.fromkeys(CLAIMS, "holds"), found
    assert all(
        v.command == "python run.py data=mvtec\npython run.py data=elpv" for v in found.values()
    )
    rows = found["same-d-image"].evidence
    assert len(rows) == 2 * len(DIMS)
    for row in rows:
        assert row["difference"]["value"] == pytest.approx(0.2)
        assert 0 < row["difference"]["low"] < 0.2 < row["difference"]["high"]
        assert (row["seeds"], row["case"]) == (6, "yes")
        assert row["metric"] == "test/image_auroc"
    assert {row["sweep"] for row in rows} == {"screw, wide_resnet50", "elpv, wide_resnet50"}


def test_a_world_in_which_nothing_is_true(tmp_path):
    worse = {"subset": 0.0, "jl": -0.02, "fisher": -0.1}

    def truth(proj, dim):
        # Flat at first, then rising straight.
        return 0.7 + worse[proj] + 0.0004 * max(0, dim - 200)

    spread = {"subset": 0.001, "jl": 0.01, "fisher": 0.01}
    sweep(tmp_path, truth, spread=spread, ms=lambda proj, dim: 1.0)
    found = verdicts(tmp_path)
    savings = found.pop("savings")
    assert {key: v.kind for key, v in found.items()} == dict.fromkeys(found, "does not hold"), found
    # Memory is arithmetic; time is what was made equal here.
    assert savings.kind == "holds in part"
    assert savings.part == "mvtec/screw, wide_resnet50 (memory)"
    by_part = {row["part"]: row for row in savings.evidence}
    assert by_part["memory"]["ratio"]["value"] == pytest.approx(550 * 2208 / (150 * 608))
    assert by_part["scoring alone"]["ratio"]["value"] == 1
    assert all(row["case"] == "no" for row in found["same-d-image"].evidence)


def test_what_holds_somewhere_says_where(tmp_path):
    def truth(proj, dim):
        return (
            0.8 - 0.05 * (proj == "subset" and dim <= 100) + 0.05 * (proj == "subset" and dim > 100)
        )

    sweep(tmp_path / "a", truth, dims=(50, 100, 150), data="screw")
    found = verdicts(tmp_path)["same-d-image"]
    assert (found.kind, found.part) == ("holds in part", "screw, wide_resnet50 (D = 50, D = 100)")
    assert found.reason == "Of 3 comparisons 2 for it, 1 against, 0 open."
    # Of several sweeps the mean is judged, over those that have it.
    sweep(tmp_path / "b", dims=(50, 100), data="elpv")
    found = verdicts(tmp_path)["same-d-image"]
    assert (found.kind, found.part) == ("holds in part", "D = 50, D = 100")
    assert found.reason.startswith("Of 3 means over sweeps 2 for it, 1 against, 0 open. Of 5 ")
    assert [row["sweeps above 0"] for row in found.means] == ["2 of 2", "2 of 2", "0 of 1"]
    assert found.means[0]["difference"]["value"] == pytest.approx((0.05 + 0.2) / 2)


def test_a_mean_for_it_does_not_hide_a_sweep_against_it(tmp_path):
    def truth(gain):
        return lambda proj, dim: 0.8 + gain * (proj == "jl")

    how = {"dims": (50, 100), "spread": dict.fromkeys(SPREAD, 0.001)}
    sweep(tmp_path / "a", truth(0.05), data="screw", **how)
    sweep(tmp_path / "b", truth(-0.02), data="elpv", **how)
    found = verdicts(tmp_path)["same-d-image"]
    assert found.kind == "holds on average"
    row = found.means[0]
    assert (row["case"], row["sweeps above 0"]) == ("yes", "1 of 2")
    assert row["by their own intervals"] == "1 for it, 1 against, 0 open"


def test_planted_and_real_defects_have_a_mean_each_in_pixels(tmp_path):
    def truth(gain):
        return lambda proj, dim: 0.8 + gain * (proj == "jl")

    how = {"dims": (150, 550), "spread": dict.fromkeys(SPREAD, 0.0), "images": 0.001}
    for n in range(2):
        sweep(tmp_path / f"real{n}", truth(-0.02), data=f"real{n}", **how)
        made = {"pixel_truth": "planted defects", "data": f"made{n}"}
        sweep(tmp_path / f"made{n}", truth(0.02), **made, **how)
    found = verdicts(tmp_path)["150-for-550"]
    assert {row["part"]: (row["case"], row["sweeps above 0"]) for row in found.means} == {
        "image AUROC": ("yes", "2 of 4"),
        "pixel AUROC": ("no", "0 of 2"),
        "pixel AUROC, planted defects": ("yes", "2 of 2"),
    }
    masks = {row["sweep"]: row["masks"] for row in found.evidence if "pixel" in row["metric"]}
    assert [masks[name] for name in sorted(masks)] == ["planted defects"] * 2 + [""] * 2


def test_a_sweep_without_an_interval_is_not_averaged(tmp_path):
    sweep(tmp_path / "a", dims=(50, 100), data="screw")
    sweep(tmp_path / "b", dims=(50, 100), data="elpv", keep=False)
    found = verdicts(tmp_path)["same-d-image"]
    assert (found.kind, found.means[0]["sweeps above 0"]) == ("holds", "1 of 1")
    assert "Open because: no resamples" in found.reason
    (tmp_path / "a" / "resamples.npz").unlink()
    found = verdicts(tmp_path)["same-d-image"]
    assert (found.kind, found.means[0]["difference"]["value"]) == ("open", None)


def test_chance_hits_are_no_verdict(tmp_path):
    """Sweeps in which subset and jl are drawn alike; an ablation's D share a part of their draw."""
    rng, said = np.random.default_rng(0), []
    for number in range(40):
        rows, resamples = [], {}
        for proj, seed in [(proj, seed) for proj in ("subset", "jl") for seed in range(3)]:
            draw = rng.normal(size=2)
            for dim in (25, 50, 100, 150, 200, 300):
                image, pixel = 0.9 + 0.007 * (draw + rng.normal(size=2))
                row = {"proj": proj, "dim": dim, "seed": seed}
                rows.append(row | {"test/image_auroc": image, "test/pixel_auroc": pixel})
                noise = rng.normal(scale=0.004, size=(2, 100))
                resamples[f"{proj}-{dim}-{seed}"] = np.array([[image], [pixel]]) + noise
        found = verdicts(write_rows(tmp_path / str(number), rows, resamples))
        said += [found[key].kind for key in ("same-d-image", "same-d-pixel")]
    assert said.count("open") > 0.88 * len(said)


def test_more_than_chance_is_counted_for_each_side(tmp_path):
    def truth(gains):
        return lambda proj, dim: 0.8 + (gains.get(dim, 0.0) if proj == "jl" else 0.0)

    def judged(**gains):
        quiet = {"projs": ("subset", "jl"), "spread": dict.fromkeys(SPREAD, 0.0)}
        sweep(tmp_path, truth({int(dim[1:]): gain for dim, gain in gains.items()}), **quiet)
        return verdicts(tmp_path)["same-d-image"]

    one = judged(d50=0.05)
    assert one.kind == "open"
    assert "Of 8 comparisons 1 for it, 0 against, 7 open. 1 for it is no more" in one.reason
    assert judged(d50=0.05, d100=0.05).kind == "holds in part"
    assert judged(d50=-0.05).kind == "open"
    assert judged(d50=-0.05, d100=-0.05, d150=0.05).kind == "does not hold"
    both = judged(d50=-0.05, d100=-0.05, d150=0.05, d200=0.05)
    assert both.kind == "holds in part" and "2 against" in both.reason


def test_image_and_pixel_are_separate_verdicts(tmp_path):
    sweep(tmp_path, projs=("subset", "jl"))
    with editing(tmp_path) as rows:
        for row in rows:
            row["test/pixel_auroc"] = None if row["seed"] == 0 else row["test/pixel_auroc"]
    found = verdicts(tmp_path)
    assert found["same-d-image"].kind == "holds"
    assert found["same-d-pixel"].kind == "open"
    assert "undefined for at least one seed" in found["same-d-pixel"].reason
    assert found["same-d-pixel"].evidence[0]["difference"]["value"] is None


def test_a_claim_on_pixels_is_not_measured_without_masks(tmp_path):
    sweep(tmp_path, projs=("subset", "jl"))
    with editing(tmp_path) as rows:
        for row in rows:
            row["test/pixel_auroc"] = None
    found = verdicts(tmp_path)
    assert found["same-d-image"].kind == "holds"
    assert found["same-d-pixel"].kind == "not measured"
    assert "has no pixel AUROC" in found["same-d-pixel"].reason
    assert found["150-for-550"].kind == "holds in part"


def test_missing_dimensions_are_named_and_never_replaced(tmp_path):
    how = {"projs": ("subset", "jl"), "embedding_dim": 512}
    sweep(tmp_path, dims=(50, 100, 149, 151, 250, 500), **how)
    found = verdicts(tmp_path)
    for key in ("150-for-550", "savings", "steep-then-flat", "eq15", "challenger"):
        assert found[key].kind == "not measured", key
        assert found[key].evidence == []
        assert found[key].command.startswith("python run.py experiment=ablation projs=")
    assert "needs jl at 150 and subset at 550" in found["150-for-550"].reason
    assert "needs jl at 200 and jl at 550" in found["steep-then-flat"].reason
    assert "needs jl at D = 200" in found["eq15"].reason
    assert "needs jl and fisher at the same D ≤ 100" in found["challenger"].reason
    wide = "projs=[subset,jl] dims=[150,550] backbone=wide_resnet50 seeds=[0,1,2,3,4]"
    assert wide in found["150-for-550"].command  # D = 550 cannot be made from C = 512
    assert "backbone=" not in found["challenger"].command
    assert found["same-d-image"].kind == "holds"


def test_a_spread_over_splits_is_not_taken_for_one_over_draws(tmp_path):
    sweep(tmp_path, split_seed=OWN_SPLIT)
    found = verdicts(tmp_path)
    for key, claim in found.items():
        assert (claim.kind == "not measured") == (key == "eq15"), key
        assert ("give data.split_seed=0" in claim.reason) == (key == "eq15")


def test_what_one_sweep_lacks_does_not_silence_another(tmp_path):
    sweep(tmp_path / "a", dims=(150, 550), data="screw")
    sweep(tmp_path / "b", dims=(100, 150), data="elpv")
    found = verdicts(tmp_path)["150-for-550"]
    assert found.kind == "holds"
    assert "Left out: elpv, wide_resnet50 needs subset at 550." in found.reason
    assert {row["sweep"] for row in found.evidence} == {"screw, wide_resnet50"}


@pytest.mark.parametrize("changed", [{"seeds": range(1)}, {"keep": False}, {"images": 2.0}])
def test_too_little_is_not_called_a_result(tmp_path, changed):
    sweep(tmp_path, **changed)
    found = verdicts(tmp_path)
    for key in ("same-d-image", "150-for-550", "steep-then-flat", "challenger"):
        assert found[key].kind == "open", key
        assert {row["case"] for row in found[key].evidence} == {"open"}
        assert found[key].evidence[0]["difference"]["value"] is not None
    whys = {
        "keep": "experiment=ablation keeps them",
        "seeds": "one seed says nothing",
        "images": "0 against",
    }
    for key in ("same-d-image", "steep-then-flat"):
        assert whys[next(iter(changed))] in found[key].reason


@pytest.mark.parametrize(
    ("gap", "expected"), [(-0.002, "holds"), (-0.008, "does not hold"), (-0.005, "open")]
)
def test_as_good_is_within_the_margin(tmp_path, gap, expected):
    """The margin is .005: −.002 is inside for sure, −.008 outside, −.005 on the border."""

    def truth(proj, dim):
        return 0.9 + gap * (proj == "jl")

    sweep(tmp_path, truth, spread=dict.fromkeys(SPREAD, 0.0), images=0.001)
    assert verdicts(tmp_path)["150-for-550"].kind == expected


def test_a_late_gain_above_a_hundredth_is_not_flat(tmp_path):
    def truth(proj, dim):
        return 0.6 + 0.001 * min(dim, 200) + 0.0001 * max(0, dim - 200)

    sweep(tmp_path, truth)
    found = verdicts(tmp_path)["steep-then-flat"]
    assert found.kind == "does not hold"
    row = found.evidence[0]
    assert row["early_gain"]["value"] == pytest.approx(0.15)
    assert row["late_gain"]["value"] == pytest.approx(0.035)
    assert row["difference"]["value"] == pytest.approx(0.15 / 150 - 0.035 / 350)


@pytest.mark.parametrize(
    ("early", "late", "expected"),
    [(0.03, 0.005, "holds"), (0.0015, 0.007, "does not hold"), (-0.01, -0.1, "does not hold")],
)
def test_steep_means_a_gain_and_one_that_later_ones_do_not_reach(tmp_path, early, late, expected):
    def truth(proj, dim):
        return 0.8 + early * min(dim - 50, 150) / 150 + late * max(0, dim - 200) / 350

    sweep(tmp_path, truth, ("jl",), (50, 200, 550), images=0.0005)
    assert verdicts(tmp_path)["steep-then-flat"].kind == expected


@pytest.mark.parametrize(("ratio", "case"), [(2.3, "no"), (2.5, "yes"), (9, "yes")])
def test_three_times_is_met_from_twenty_percent_below(tmp_path, ratio, case):
    def ms(proj, dim):
        return MS_BACKBONE * (ratio if dim == 550 else 1)

    sweep(tmp_path, dims=(150, 550), ms=ms)
    rows = {row["part"]: row for row in verdicts(tmp_path)["savings"].evidence}
    alone, whole = rows["scoring alone"], rows["backbone + scoring"]
    assert (alone["case"], alone["ratio"]["value"]) == (case, pytest.approx(ratio))
    assert whole["ratio"]["value"] == pytest.approx((1 + ratio) / 2)


def test_eq15_has_to_beat_no_change_and_the_spread(tmp_path):
    def bump(proj, dim):
        return curve(proj, dim) if dim <= 200 else curve(proj, 200)

    sweep(tmp_path / "true", data="true")
    sweep(tmp_path / "flat", bump, data="flat")
    found = verdicts(tmp_path)["eq15"]
    true, flat = found.evidence[2], found.evidence[0]
    assert [row["sweep"].split(",")[0] for row in (true, flat)] == ["true", "flat"]
    assert true["rmse"] < 1e-4 < true["rmse_as_at_200"]
    ends = true["q_over_k2"]
    assert (true["p"], ends["value"]) == pytest.approx((0.03, 4 / 0.05**2), rel=1e-2)
    assert ends["low"] < ends["value"] < ends["high"]
    assert flat["q_over_k2"] is None or flat["q_over_k2"]["high"] < 100 * flat["q_over_k2"]["low"]
    assert true["sd_over_seeds"] == pytest.approx(SPREAD["jl"] * math.sqrt(6 / 5))
    assert flat["rmse_as_at_200"] == pytest.approx(0, abs=1e-9)
    assert flat["case"] == "no"
    assert found.kind == "holds in part"
    # A miss within a wide spread is still worse than having predicted no change.
    sweep(tmp_path / "wide", bump, data="wide", spread=dict.fromkeys(SPREAD, 0.02))
    row = verdicts(tmp_path / "wide")["eq15"].evidence[0]
    assert row["rmse_as_at_200"] < row["rmse"] < row["sd_over_seeds"]
    assert row["case"] == "no"


def test_eq15_predicts_nothing_where_it_has_reached_1(tmp_path):
    def truth(proj, dim):
        return eq15(min(dim, 300), p=0.2, q=300 * 0.05**2)

    sweep(tmp_path, truth, images=0.0)
    row = verdicts(tmp_path)["eq15"].evidence[0]
    assert (row["case"], row["rmse"]) == ("no", None)
    assert row["q_over_k2"]["value"] == pytest.approx(300, rel=1e-2)
    assert "ends below D = 550" in row["why"]


def test_the_challenger_is_judged_up_to_100(tmp_path):
    def truth(proj, dim):
        return 0.8 + (proj == "fisher") * (0.05 if dim <= 100 else -0.05)

    sweep(tmp_path, truth, dims=(50, 100, 150))
    found = verdicts(tmp_path)["challenger"]
    assert found.kind == "holds"
    assert {row["dim"] for row in found.evidence} == {50, 100}


def test_times_that_were_not_written_are_missed(tmp_path):
    sweep(tmp_path, dims=(150, 550))
    with editing(tmp_path) as rows:
        for row in rows:
            del row["backbone/ms_per_image"]
    found = verdicts(tmp_path)["savings"]
    row = next(row for row in found.evidence if row["part"] == "backbone + scoring")
    assert (row["case"], row["ratio"]["value"]) == ("open", None)
    assert "no backbone/ms_per_image" in found.reason
    assert found.kind == "holds in part"


def test_random_weights_say_nothing_about_detection(tmp_path):
    sweep(tmp_path, weights="random (seed 0)")
    found = verdicts(tmp_path)
    assert found["savings"].kind == "holds"
    assert {v.kind for k, v in found.items() if k != "savings"} == {"not measured"}
    assert "random backbone weights" in found["eq15"].reason
    sweep(tmp_path / "trained", data="elpv")
    found = verdicts(tmp_path)["same-d-image"]
    assert found.kind == "holds"
    assert {row["sweep"] for row in found.evidence} == {"elpv, wide_resnet50"}
    assert "Left out: mvtec/screw, wide_resnet50 has random backbone weights" in found.reason


def test_nothing_at_all():
    assert {v.kind for v in judge([])} == {"not measured"}
