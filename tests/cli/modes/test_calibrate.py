"""mode=calibrate: thresholds from new good images and from those that a checkpoint holds."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from _helpers.cli import TINY
from _helpers.outcome import require_one_clear_line
from _helpers.tables import long_table
from _helpers.trees import build_tree
from PIL import Image

import padim_lit
from padim_lit.checkpoint.format import sha256_of
from padim_lit.checkpoint.state import load_detector, save_detector
from padim_lit.deploy.calibration import recalibrate
from padim_lit.system.console import score_text

HELD, FRESH = 12, 9
RATE = "false_alarm_rate=0.2"


@pytest.fixture(scope="module")
def here(tmp_path_factory, zygote):
    """`run`: fitted on `data/train/good`; `fresh`: more good images; `both`: all of them."""
    here = tmp_path_factory.mktemp("calibrate")
    build_tree(here / "data", train=HELD + FRESH, test={"good": 1, "crack": 1})
    files = sorted((here / "data/train/good").iterdir())
    shutil.copytree(here / "data/train/good", here / "both")
    (here / "fresh").mkdir()
    for file in files[HELD:]:
        file.rename(here / "fresh" / file.name)
    # What learns from images has seen them; here nothing does.
    result = zygote.run([*TINY, "density=position", RATE], here)
    assert result.code == 0, result.err
    return here


@pytest.fixture
def calibrated(here, zygote):
    def run(images, folder, *more, ckpt="run/model.ckpt"):
        args = ["mode=calibrate", f"ckpt={ckpt}", f"images={images}", "trainer=cpu", *more]
        result = zygote.run([*args, f"hydra.run.dir={folder}"], here)
        assert result.code == 0, result.err
        return load_detector(here / folder / "model.ckpt").calibration, result

    return run


def test_a_fit_ends_by_naming_the_image_that_alone_sets_the_threshold(here, zygote):
    result = zygote.run([*TINY, "density=position", "hydra.run.dir=strict"], here)
    note = result.out.rpartition("Note: ")[2]
    assert re.match(r"The good image \d+\.png alone sets the threshold; look at those", note)
    # 12 are too few for the other rates, too: these have one row.
    assert "0.005 to 0.1" in result.out and "199 to 9" in result.out


def test_images_of_the_fit_give_the_fits_own_threshold(here, calibrated):
    fitted = load_detector(here / "run/model.ckpt").calibration
    again, result = calibrated("data/train", "again")
    assert again.unseen == fitted.unseen == 0
    torch.testing.assert_close(again.scores, fitted.scores, rtol=1e-5, atol=0)
    assert again.threshold == pytest.approx(fitted.threshold, rel=1e-5)
    assert again.false_alarm_rate == 0.2, "the checkpoint's, where none is given"
    assert "12 good training images, each scored as if left out" in result.out
    assert f"replaces  threshold {score_text(fitted.threshold)}" in result.out


@pytest.mark.slow
def test_new_images_count_as_they_are_scored(here, calibrated):
    known, result = calibrated("fresh", "fresh_run")
    predictor = padim_lit.load(here / "run/model.ckpt")
    plain = sorted(predictor(path).score for path in sorted((here / "fresh").iterdir()))
    assert known.unseen == FRESH
    assert known.scores.tolist() == pytest.approx(plain, rel=1e-5)
    assert f"{FRESH} good images that the model was not fitted on" in result.out


def test_a_rate_or_a_threshold_alone_is_kept(here, zygote):
    def alone(key, ckpt, folder):
        args = ["mode=calibrate", f"ckpt={ckpt}/model.ckpt", key, "trainer=cpu"]
        result = zygote.run([*args, f"hydra.run.dir={folder}"], here)
        assert result.code == 0, result.err
        return load_detector(here / folder / "model.ckpt"), result.out

    fitted = load_detector(here / "run/model.ckpt")
    known = fitted.calibration
    other, out = alone("false_alarm_rate=0.4", "run", "alone")
    loose = other.calibration
    assert loose.threshold == recalibrate(known, 0.4).threshold < known.threshold
    assert f"replaces  threshold {score_text(known.threshold)}" in out
    assert torch.equal(other.mean, fitted.mean) and torch.equal(loose.scores, known.scores)
    other, out = alone("threshold=2.5", "alone", "by_hand")
    assert "threshold 2.500, chosen by hand, which about" in out
    assert f"replaces  threshold {score_text(loose.threshold)}" in out
    for word in ("threshold 2.500, chosen by hand", str(HELD)):
        assert word in (here / "by_hand/model_card.md").read_text()
    predictor, given = (
        padim_lit.load(here / folder / "model.ckpt", device="cpu", threshold=threshold)
        for folder, threshold in (("by_hand", None), ("alone", 2.5))
    )
    assert (predictor.threshold, predictor.map_threshold) == (2.5, given.map_threshold)
    assert predictor.threshold_source == given.threshold_source
    facts = json.loads((here / "by_hand/calibrate.json").read_text())
    assert (facts["threshold"], facts["method"], facts["images"]) == (2.5, "by hand", HELD)
    assert facts["new_model_sha256"] == sha256_of(here / "by_hand/model.ckpt")
    before = json.loads((here / "alone/calibrate.json").read_text())  # the file that this one read
    assert facts["model_sha256"] == before["new_model_sha256"] != before["model_sha256"]
    assert other.provenance["history"][-1]["threshold"] == 2.5
    # Images that set another take the rate that was asked for before.
    assert other.provenance["false_alarm_rate"] == 0.4


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ([], "false_alarm_rate=NUMBER or threshold=NUMBER needs neither"),
        (["threshold=3", "false_alarm_rate=0.1"], "give one of them"),
        (["threshold=3", "images=fresh"], "threshold=3 is kept as it is: give no images"),
        (["threshold=-3"], "must be above 0"),
        (["threshold=3", "ckpt=bare.ckpt"], "ckpt=bare.ckpt holds no scores of good images"),
    ],
)
def test_what_cannot_be_kept_is_one_line(here, zygote, args, line):
    bare = load_detector(here / "run/model.ckpt")
    bare.calibration = None
    save_detector(bare, here / "bare.ckpt")
    base = ["mode=calibrate", "ckpt=run/model.ckpt", "trainer=cpu", "hydra.run.dir=refused"]
    require_one_clear_line(zygote.run([*base, *args], here), (line,))
    assert not (here / "refused/model.ckpt").exists()


def test_nearly_black_images_are_told_of(here, calibrated):
    (here / "dark").mkdir()
    for n in range(FRESH):
        values = np.random.default_rng(n).integers(0, 4096, (32, 40), dtype=np.uint16)
        Image.fromarray(values).save(here / f"dark/{n}.png")
    _, result = calibrated("dark", "dark_run")
    assert "Good images are nearly black: the highest value in 5 of them is 4095" in result.out


def test_what_is_not_seen_of_photos_is_told_at_the_end(here, calibrated, zygote):
    _, result = calibrated("fresh", "cropped")
    file = sorted((here / "fresh").iterdir())[0]
    said = f"note      The model sees 80% of an image (fresh/{file.name}, 40×32 pixels)"
    assert result.out.count(said) == 1
    for mode, ckpt, images in (("update", "run", "fresh"), ("remove", "seen_update", "fresh")):
        args = [f"mode={mode}", f"ckpt={ckpt}/model.ckpt", f"images={images}", "trainer=cpu"]
        out = zygote.run([*args, f"hydra.run.dir=seen_{mode}"], here).out
        assert out.count("The model sees 80% of an image") == 1
        notes = json.loads((here / f"seen_{mode}/{mode}.json").read_text())["notes"]
        assert sum("The model sees 80% of an image" in note for note in notes) == 1


@pytest.mark.slow
def test_old_and_new_images_are_told_apart_by_their_content(here, calibrated):
    parts = [calibrated(name, f"part_{i}")[0] for i, name in enumerate(("data/train", "fresh"))]
    both, result = calibrated("both", "both_run", "batch_size=4")
    expected = torch.cat([part.scores for part in parts]).sort().values
    torch.testing.assert_close(both.scores, expected, rtol=1e-5, atol=0)
    assert both.unseen == FRESH and "of which 12 are in the fit and were left out" in result.out
    facts = json.loads((here / "both_run/calibrate.json").read_text())
    assert facts["images"] == HELD + FRESH and facts["threshold"] == both.threshold


@pytest.mark.slow
def test_a_picture_that_comes_twice_counts_once(here, calibrated):
    once, _ = calibrated("fresh", "once")
    shutil.copytree(here / "fresh", here / "thrice")
    for file in list((here / "thrice").iterdir()):
        for copy in "xy":
            shutil.copy(file, file.with_name(f"{copy}{file.name}"))
    known, result = calibrated("thrice", "thrice_run", "batch_size=5")
    torch.testing.assert_close(known.scores, once.scores, rtol=1e-5, atol=0)
    assert f"not counted: {2 * FRESH} images with the same picture" in result.out


@pytest.mark.slow
def test_an_update_takes_the_threshold_and_this_brings_it_back(here, zygote, calibrated):
    args = ["mode=update", "ckpt=run/model.ckpt", "images=fresh", "trainer=cpu"]
    result = zygote.run([*args, "hydra.run.dir=updated"], here)
    assert result.code == 0 and "or from all that it holds" in result.out, result.err
    predict = ["mode=predict", "ckpt=updated/model.ckpt", "images=data/test", "trainer=cpu"]
    undecided = zygote.run([*predict, "hydra.run.dir=undecided"], here)
    assert "not calibrated (mode=calibrate does it)" in undecided.out + undecided.err
    known, _ = calibrated("both", "with_threshold", RATE, ckpt="updated/model.ckpt")
    assert known.threshold is not None and known.unseen == 0
    decided = zygote.run(
        ["mode=predict", "ckpt=with_threshold/model.ckpt", *predict[2:], "hydra.run.dir=decided"],
        here,
    )
    assert json.loads((here / "decided/predict.json").read_text())["threshold"] == pytest.approx(
        known.threshold
    ), decided.err


@pytest.mark.slow
def test_images_that_were_taken_out_set_no_threshold_and_the_rate_stays(here, zygote, calibrated):
    out = here / "out"
    out.mkdir()
    for file in sorted((here / "data/train").rglob("*.png"))[:3]:
        shutil.copy(file, out)
    args = ["mode=remove", "ckpt=run/model.ckpt", "images=out", "hydra.run.dir=less"]
    assert zygote.run(args, here).code == 0
    known, _ = calibrated("fresh", "less_fresh", ckpt="less/model.ckpt")
    assert known.false_alarm_rate == 0.2
    args = ["mode=calibrate", "ckpt=less_fresh/model.ckpt", "images=out", "trainer=cpu"]
    result = zygote.run([*args, "hydra.run.dir=less_fresh"], here)
    assert result.code == 1 and "all 3 images were taken out by mode=remove" in result.err
    assert load_detector(here / "less_fresh/model.ckpt").calibration is not None


@pytest.mark.slow
def test_copies_of_some_are_not_all_that_the_fit_holds(here, zygote, calibrated):
    """Their own copies would stay in when they are left out."""
    assert zygote.run([*TINY, RATE, "density=mixture", "hydra.run.dir=mixture"], here).code == 0
    files = sorted((here / "data/train/good").iterdir())
    for copy in ("a", "b"):
        for folder, some in (("half", files[: HELD // 2]), ("twice", files)):
            (here / folder / copy).mkdir(parents=True)
            for file in some:
                shutil.copy(file, here / folder / copy)
    args = ["mode=calibrate", "ckpt=mixture/model.ckpt", "images=half", "trainer=cpu"]
    result = zygote.run([*args, "hydra.run.dir=mixture_half"], here)
    assert result.code == 1 and f"holds {HELD // 2} of the {HELD} images" in result.err
    once, _ = calibrated("data/train", "mixture_once", ckpt="mixture/model.ckpt")
    twice, _ = calibrated("twice", "mixture_twice", ckpt="mixture/model.ckpt")
    assert torch.equal(once.scores, twice.scores) and len(once.scores) == HELD


@pytest.mark.slow
def test_what_has_learnt_from_images_is_judged_by_others_or_learns_again(here, zygote, calibrated):
    fisher = [*TINY, RATE, "proj=fisher", "hydra.run.dir=fisher"]
    assert zygote.run(fisher, here).code == 0
    fitted = load_detector(here / "fisher/model.ckpt").calibration
    again, _ = calibrated("data/train", "fisher_again", ckpt="fisher/model.ckpt")
    torch.testing.assert_close(again.scores, fitted.scores, rtol=1e-4, atol=0)
    both, result = calibrated("both", "fisher_both", ckpt="fisher/model.ckpt")
    assert both.unseen == len(both.scores) == FRESH
    assert f"not counted: {HELD} images that the model holds" in result.out
    (here / "some").mkdir()
    shutil.copy(next((here / "data/train/good").iterdir()), here / "some")
    args = ["mode=calibrate", "ckpt=fisher/model.ckpt", "images=some", "trainer=cpu"]
    result = zygote.run([*args, "hydra.run.dir=fisher_some"], here)
    said = f"images=some holds 1 of the {HELD} images that the model holds, from which proj=fisher"
    # Those that mode=update added are among them, and nothing learnt from these.
    assert result.code == 1 and f"{said} and density=both may have learnt; give" in result.err


@long_table(
    ("args", "line"),
    [
        (["ckpt=null"], "ckpt=null: null is no value of it; give ckpt=VALUE"),
        (["false_alarm_rate=2"], "false_alarm_rate=2.0: must be a number between 0 and 1"),
        (["batch_size=0"], "batch_size=0: must be at least 1"),
        (["images=nowhere"], "nowhere"),
        (["ckpt=slim.ckpt"], "slim checkpoint"),
    ],
    every=3,
)
def test_bad_input_is_one_line_and_writes_nothing(here, zygote, args, line):
    if args == ["ckpt=slim.ckpt"]:
        export = ["mode=export", "ckpt=run/model.ckpt", "format=torch", "output=slim.ckpt"]
        assert zygote.run([*export, "hydra.run.dir=exported"], here).code == 0
    base = ["mode=calibrate", "ckpt=run/model.ckpt", "images=fresh", "trainer=cpu"]
    result = zygote.run([*base, *args, "hydra.run.dir=bad"], here)
    assert result.code == 1 and line in result.err, result.err
    assert "Traceback" not in result.err and len(result.err.strip().splitlines()) == 1
    assert not (here / "bad/model.ckpt").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["mode=calibrate", "images=data/test"],
        ["mode=update", "images='data/test/*/*.png'"],
        ["mode=export", "precision=int8", "format=onnx", "good=data/test"],
    ],
)
def test_images_that_folders_call_good_and_others_are_not_taken_for_good(here, zygote, words):
    device = [] if "mode=export" in words else ["trainer=cpu"]
    result = zygote.run([*words, *device, "ckpt=run/model.ckpt", "hydra.run.dir=mixed"], here)
    said = (
        "1 of 2 images lie in folders not named good, ok, normal, such as data/test/crack/000.png"
    )
    require_one_clear_line(result, (said, "give good ones alone, as in data/test/good"))
    assert not (here / "mixed/model.ckpt").exists()


def test_images_may_be_several_and_what_was_done_to_a_model_is_kept(here, zygote, calibrated):
    def change(mode, ckpt, images, folder):
        args = [f"mode={mode}", f"ckpt={ckpt}/model.ckpt", f"images={images}", "trainer=cpu"]
        result = zygote.run([*args, f"hydra.run.dir={folder}"], here)
        assert result.code == 0, result.err
        return json.loads((here / folder / f"{mode}.json").read_text()), result.out

    first = load_detector(here / "run/model.ckpt").threshold
    new = [f"fresh/{path.name}" for path in sorted((here / "fresh").iterdir())]
    told, _ = change("update", "run", f"[{','.join(new[:2])},fresh]", "joined")
    assert told["files"] == new and told["images"] == FRESH, "each file once"
    known, result = calibrated("[data/train,fresh]", "set", ckpt="joined/model.ckpt")
    assert len(known.scores) == HELD + FRESH and known.unseen == 0
    assert f"before   threshold {score_text(first)}, until" in result.out
    assert "threshold_before" not in load_detector(here / "set/model.ckpt").provenance
    _, result = calibrated("[data/train,fresh]", "set_again", ckpt="set/model.ckpt")
    assert "before  " not in result.out and "replaces " in result.out
    told, out = change("remove", "set", f"[{new[0]},{new[3]}]", "left")
    assert told["files"] == [new[0], new[3]] and "move the files away" in out
    rows = (here / "left/model_card.md").read_text().partition("## Changes since the fit")[2]
    rows = [row.split(" | ") for row in rows.splitlines() if row.startswith("| ")]
    assert [row[0].strip("| ") for row in rows[2:5]] == ["update", "calibrate", "remove"]
    assert rows[3][2] == "images=[data/train,fresh]" and rows[4][1] == "2"
    assert rows[4][3].strip(" |") == sha256_of(here / "set/model.ckpt")


@pytest.mark.parametrize("images", ["null", "[]", "[fresh,null]", "{a:b}"])
def test_images_that_are_no_names_are_one_line(here, zygote, images):
    args = ["mode=remove", "ckpt=run/model.ckpt", f"images={images}", "hydra.run.dir=refused"]
    require_one_clear_line(zygote.run(args, here), ("images=", "as in images=[first,second]"))
