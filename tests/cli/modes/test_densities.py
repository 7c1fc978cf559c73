"""A mixture, beside a Gaussian a position, of images that are turned, through every mode."""

import json
from types import SimpleNamespace

import pytest
import torch
from _helpers.cli import TINY
from _helpers.trees import build_tree, save_image

from padim_lit import JL, Backbone, Both, Detector
from padim_lit.checkpoint.state import load_detector
from padim_lit.cli import fit_notes
from padim_lit.cli.modes.fit import Fit
from padim_lit.data.datasets.folder import Folder
from padim_lit.viewer.content import build

BOTH = [
    "density=both",
    "density.components=6",
    "neighbourhood=3",
    "rotations=2",
    "image_score=topk",
]
IMAGES = 12


@pytest.fixture(scope="module")
def here(tmp_path_factory, zygote):
    here = tmp_path_factory.mktemp("both")
    build_tree(here / "data", train=IMAGES, test={"good": 3, "crack": 3})
    done = run(zygote, here, *TINY, *BOTH)
    assert "rotations 2" in done.out
    return here


def run(zygote, here, *args, code=0):
    done = zygote.run(list(args), here)
    assert done.code == code, done.err
    return done


def load(path):
    return load_detector(path)


def test_a_run_says_what_it_was_and_sets_a_threshold(here):
    metrics = json.loads((here / "run/metrics.json").read_text())
    assert metrics["density"] == "both" and metrics["density/components"] == 6
    assert (metrics["neighbourhood"], metrics["rotations"]) == (3, 2)
    known = load(here / "run/model.ckpt").calibration
    assert len(known.scores) == IMAGES and known.threshold > 0


@pytest.mark.slow
def test_photos_that_are_squeezed_before_they_are_turned_are_told(here, zygote):
    whole = ["crop_size=null", "rotations=4", "calibration=0", "hydra.run.dir=squeezed"]
    done = run(zygote, here, *(word for word in TINY if "crop_size" not in word), *whole)
    said = " ".join(done.out.split())
    assert "Photos are squeezed up to 1.25:1 (" in said and ", so turned ones are distort" in said
    metrics = json.loads((here / "run/metrics.json").read_text())
    assert not any("squeezed" in note for note in metrics["notes"])


@pytest.mark.slow
def test_long_photos_that_are_squeezed_to_squares_are_told(zygote, tmp_path):
    for n in range(8):
        folder = "train" if n < 6 else "test"
        save_image(tmp_path / "data" / folder / "good" / f"{n}.png", (240, 60), seed=n)
    whole = ["image_size=[64,64]", "calibration=0", "hydra.run.dir=long"]
    done = run(zygote, tmp_path, *TINY, "crop_size=null", *whole)
    said = "fit with image_size=[32,128], which nearly keeps"
    assert said in " ".join(done.out.split()) and "squeezed up to 4:1 (" in done.out
    # By these the pictures and the viewer undo it.
    metrics = json.loads((tmp_path / "long/metrics.json").read_text())
    assert metrics["stretch"] == 4.0 and metrics["map_colours"][0] < metrics["map_colours"][1]
    (shown,) = build([tmp_path / "long"])["runs"]
    assert shown["pictures"]["scale"] == metrics["map_colours"]
    advice = run(zygote, tmp_path, *TINY, "crop_size=null", "image_size=[32,128]", *whole[1:])
    assert "squeezed" not in advice.out
    cropped = run(zygote, tmp_path, *TINY, "crop_size=64", *whole)
    assert "image_size=[32,128] crop_size=null, which" in " ".join(cropped.out.split())
    save_image(tmp_path / "data/train/good/9.png", (60, 60), seed=9)  # no stretch is right for both
    run(zygote, tmp_path, *TINY, "crop_size=null", *whole)
    assert json.loads((tmp_path / "long/metrics.json").read_text())["stretch"] == 1.0


def test_photos_as_thin_as_a_line_have_a_stretch(tmp_path):
    for n in range(6):
        save_image(tmp_path / "train/good" / f"{n}.png", (240, 1), seed=n)
    data = Folder(tmp_path, image_size=[512, 512], crop_size=None, num_workers=0)
    detector = SimpleNamespace(map_grid=(64, 64), image_shape=(512, 512))
    assert fit_notes.patch_pixels(data, detector) == [0.0, 3.8]
    assert fit_notes.stretch(data, detector) == pytest.approx(240)


def test_predict_gives_the_scores_of_the_test(here, zygote):
    run(zygote, here, "mode=predict", "ckpt=run/model.ckpt", "images=data/test", "trainer=cpu",
        "hydra.run.dir=scored")  # fmt: skip
    lines = map(json.loads, (here / "scored/predictions.jsonl").read_text().splitlines())
    ours = sorted(line["score"] for line in lines)
    rows = (here / "run/predictions.csv").read_text().splitlines()
    column = rows[0].split(",").index("score")
    theirs = sorted(float(row.split(",")[column]) for row in rows[1:])
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
def test_images_are_removed_and_come_back(here, zygote):
    some = "images=data/train/good/00[0-4].png"
    done = run(zygote, here, "mode=remove", "ckpt=run/model.ckpt", some, "trainer=cpu",
               "hydra.run.dir=removed")  # fmt: skip
    assert "density=both learnt, maybe from them, stays: fit anew" in " ".join(done.out.split())
    assert load(here / "removed/model.ckpt").count < IMAGES
    run(zygote, here, "mode=update", "ckpt=removed/model.ckpt", some, "trainer=cpu",
        "repeats=count", "hydra.run.dir=back")  # fmt: skip
    ours, theirs = (load(here / name / "model.ckpt") for name in ("back", "run"))
    assert torch.equal(ours.fit_state.moments.counts, theirs.fit_state.moments.counts)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_fits_that_share_their_centroids_add_up(here, zygote):
    build_tree(here / "more", train=IMAGES + 5, test={"good": 1, "crack": 1})
    for file in sorted((here / "more/train/good").iterdir())[:IMAGES]:
        file.unlink()
    more = [*TINY, *BOTH, "data.root=more", "hydra.run.dir=other"]
    run(zygote, here, *more)
    merge = ["mode=merge", "ckpts=[run/model.ckpt,other/model.ckpt]", "hydra.run.dir=both"]
    assert "learnt another density=both" in run(zygote, here, *merge, code=1).err
    run(zygote, here, *more, "learnt_from=run/model.ckpt")
    run(zygote, here, *merge)
    assert load(here / "both/model.ckpt").count == IMAGES + 5


@pytest.mark.slow
def test_new_good_images_calibrate_it(here, zygote):
    run(zygote, here, "mode=calibrate", "ckpt=run/model.ckpt", "images=data/test/good",
        "false_alarm_rate=0.3", "trainer=cpu", "hydra.run.dir=calibrated")  # fmt: skip
    known = load(here / "calibrated/model.ckpt").calibration
    assert known.unseen == 3 and known.threshold > 0


@pytest.mark.slow
def test_a_checkpoint_of_it_is_tested_again(here, zygote):
    run(zygote, here, *TINY, *BOTH, "ckpt=run/model.ckpt", "hydra.run.dir=again")
    ours, theirs = (json.loads((here / f / "metrics.json").read_text()) for f in ("again", "run"))
    assert ours["test/image_auroc"] == theirs["test/image_auroc"]
    other = [*TINY, *BOTH, "density.components=7", "ckpt=run/model.ckpt", "hydra.run.dir=no"]
    assert "density.components is 6 there and 7 here" in run(zygote, here, *other, code=1).err


@pytest.mark.slow
def test_a_weight_that_is_given_is_one_of_the_models_options(here, zygote):
    given = [*TINY, *BOTH, "density.position_weight=0.7"]
    done = run(zygote, here, *given, "hydra.run.dir=given")
    said = " ".join(done.out.split())
    assert "a position's own distance counts 70% where a component is nearer" in said
    metrics = json.loads((here / "given/metrics.json").read_text())
    assert metrics["position_weight"] == metrics["density/position_weight"] == 0.7
    for there, here_, *words in (
        (0.7, None, *TINY, *BOTH, "ckpt=given/model.ckpt"),
        (None, 0.7, *given, "ckpt=run/model.ckpt"),
        (None, 0.7, *given, "learnt_from=run/model.ckpt"),
        (0.7, None, *TINY, *BOTH, "learnt_from=given/model.ckpt"),
        (0.7, None, "mode=merge", "ckpts=[run/model.ckpt,given/model.ckpt]"),
    ):
        err = run(zygote, here, *words, "hydra.run.dir=no", code=1).err
        assert f"density.position_weight is {there} there and {here_} here" in err


@pytest.mark.parametrize(
    ("side", "given", "said"), [(224, "null", False), (256, "null", True), (256, "0", False)]
)
def test_a_rule_that_was_set_on_a_coarser_grid_is_named(side, given, said):
    backbone = Backbone("test_resnet", weights="random")
    weight = None if given == "null" else float(given)
    density = Both(8, components=4, position_weight=weight)
    grid = {"image_shape": (side, side), "grid": side // 8}
    detector = Detector(backbone, JL(backbone.embedding_dim, 8), density=density, **grid)
    density.mixture.learn(torch.rand(3, detector.positions, 8))
    batch = {"image": torch.rand(2, 3, side, side)}
    detector.set_state(detector.update_state(detector.empty_state(), batch))
    notes = list(fit_notes.on_fit(Fit(), detector))
    assert any("28 x 28 patches" in note for note in notes) is said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("eps", "said"),
    [
        ("eps=1e-9 eps_unit=feature", "too small"),
        ("eps=1e6 eps_unit=feature", "larger than it"),
        ("eps=0.1", None),
    ],
)
def test_an_eps_that_these_features_make_strange_is_said(here, zygote, eps, said):
    done = run(zygote, here, *TINY, *eps.split(), "calibration=0", "hydra.run.dir=eps")
    assert (said in done.out) if said else ("times the mean variance" not in done.out)
