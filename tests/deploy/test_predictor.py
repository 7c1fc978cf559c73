"""A model in memory: the same pixels give the same score, however they come; nothing else loads."""

import csv
import itertools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from _helpers.cli import TINY, environment
from _helpers.fits import fit_on_images
from _helpers.paper import paper
from _helpers.trees import build_tree
from PIL import Image

import padim_lit
from padim_lit import JL, Backbone, Detector, InputError, Predictor
from padim_lit.checkpoint.state import load_detector, save_detector
from padim_lit.deploy.calibration import calibrate, p_value
from padim_lit.deploy.left_out import Measured
from padim_lit.deploy.regions import spread


@pytest.fixture(scope="module")
def here(tmp_path_factory, zygote) -> Path:
    """data/ and run/model.ckpt, with a threshold for 20 % false alarms."""
    folder = tmp_path_factory.mktemp("here")
    build_tree(folder / "data", train=24, test={"good": 4, "crack": 3})
    result = zygote.run(
        [*TINY, "image_score=max", "image_size=[72,80]", "false_alarm_rate=0.2"], folder
    )
    assert result.code == 0, result.err
    return folder


@pytest.fixture(scope="module")
def predictor(here) -> Predictor:
    return padim_lit.load(here / "run" / "model.ckpt", device="cpu")


@pytest.fixture(scope="module")
def picture(here) -> Path:
    return here / "data" / "test" / "crack" / "001.png"


@pytest.fixture
def one_thread():
    # As the run had it: more threads add in another order.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_scores_are_the_test_runs_bit_for_bit(here, one_thread):
    with (here / "run" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    model = padim_lit.load(here / "run" / "model.ckpt", device="cpu", batch_size=32)
    found = model([here / row["path"] for row in rows])
    assert [p.score for p in found] == [float(row["score"]) for row in rows]
    which = json.loads((here / "run" / "metrics.json").read_text())["model_sha256"]
    assert repr(model).endswith(f", model_sha256={which})")
    alone = padim_lit.load(here / "run" / "model.ckpt", device="cpu")
    for row, p in zip(rows, found, strict=True):
        assert alone(here / row["path"]).score == pytest.approx(float(row["score"]), rel=1e-5)
        assert p.path == str(here / row["path"])


def test_the_same_pixels_give_the_same_score_however_they_come(predictor, picture):
    grey = np.asarray(Image.open(picture))
    rgb = np.repeat(grey[..., None], 3, axis=2)
    seen = predictor.resize_crop.image(Image.open(picture).convert("RGB"))
    floats = np.asarray(seen).astype(np.float32) / 255
    first = predictor(picture)
    for same in (
        str(picture), Image.open(picture), grey, grey[..., None], rgb, grey.astype(np.uint16) * 257,
        rgb.astype(np.uint16) * 257, torch.from_numpy(rgb).permute(2, 0, 1), floats,
        torch.from_numpy(grey.copy())[None],
        torch.from_numpy(floats).permute(2, 0, 1), floats.astype(np.float64),
    ):  # fmt: skip
        found = predictor(same)
        assert found.score == first.score
        assert np.array_equal(found.map, first.map)
    batch = np.stack([rgb, rgb])
    assert [p.score for p in predictor(batch)] == [p.score for p in predictor.stream(batch)]
    assert predictor(batch)[1].score == first.score
    assert first.map.shape == (64, 64) and first.map.dtype == np.float32
    assert first.score == first.map.max()


def test_floats_may_leave_0_to_1_by_rounding(predictor):
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    image[:, 0, 0], image[:, 1, 1] = 1.0, 0.0
    expected = predictor(image).score
    image[:, 0, 0], image[:, 1, 1] = 1.0000001, -0.0009
    assert predictor(image).score == expected
    image[:, 1, 1] = -0.002
    with pytest.raises(InputError, match=r"floating-point image .* from -0\.002 to 1"):
        predictor(image)


@pytest.mark.parametrize("mode", ["RGBA", "1", "I"])
def test_an_array_scores_as_the_file_that_pillow_makes_of_it(predictor, picture, tmp_path, mode):
    grey = Image.open(picture)
    if mode == "RGBA":
        image = grey.convert("RGB")
        image.putalpha(grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    elif mode == "1":
        image = grey.convert(mode)
    else:
        image = Image.fromarray(np.asarray(grey).astype(np.int32) * 257)
    file = tmp_path / ("a.tif" if mode == "I" else "a.png")
    image.save(file)
    values = np.asarray(image)
    assert values.dtype == {"RGBA": np.uint8, "1": np.bool_, "I": np.int32}[mode]
    assert predictor(values).score == predictor(file).score
    if mode == "RGBA":
        planes = torch.from_numpy(values.copy()).permute(2, 0, 1)
        assert [p.score for p in predictor(planes[None])] == [predictor(file).score]


def test_8_bits_in_32_are_not_taken_for_16(predictor, picture, tmp_path):
    values = np.asarray(Image.open(picture)).astype(np.int32)
    black = np.zeros_like(values)
    tensor = torch.from_numpy(values)
    for given in (values, Image.fromarray(values), Image.open(picture).convert("I"), tensor, black):
        with pytest.raises(InputError, match="looks like 8-bit; convert it to uint8, or scale it"):
            predictor(given)
    assert predictor(values * 257).score == predictor(picture).score
    # A file's 16 bits may be dark, and so may be what Pillow opens of it.
    Image.fromarray(black).save(tmp_path / "black.tif")
    Image.fromarray(black.astype(np.uint16)).save(tmp_path / "black.png")
    for name in ("black.tif", "black.png"):
        with Image.open(tmp_path / name) as opened:
            assert predictor(opened).score == predictor(tmp_path / name).score
    assert predictor(black.astype(np.uint16)).score == predictor(tmp_path / "black.png").score


LOCATIONS = [
    ("tf_efficientnet_lite0", "expansion"),
    ("tf_efficientnet_lite0", "bottleneck"),
    ("resnet18", None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "location"), LOCATIONS)
def test_threads_share_a_predictor(model, location, one_thread):
    backbone = Backbone(model, weights="random", feature_location=location)
    detector = Detector(backbone, JL(backbone.embedding_dim, 4), (64, 64), **paper(4, eps=1.0))
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    fit_on_images(detector, images)
    shared = Predictor(detector, image_size=[64, 64], device="cpu")
    expected = [shared(image).score for image in images]
    assert len(set(expected)) == len(images)
    order = [n % len(images) for n in range(96)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: shared(images[n]).score, order))
    assert found == pytest.approx([expected[n] for n in order], rel=1e-4)


def test_positions_are_boxes_in_the_pictures_own_pixels(predictor, picture):
    with Image.open(picture) as image:
        photo = image.resize((400, 360))
    left, top, right, bottom = predictor(photo).view.box
    rows, columns = predictor.detector.map_grid
    x, y = (right - left) / columns, (bottom - top) / rows
    assert right > 64 < bottom  # what the model sees
    (h, w), offset = predictor.detector.image_shape, predictor.detector.anomaly_map.offset
    down, across = offset[0] * (bottom - top) / h, offset[1] * (right - left) / w
    assert down > 0 < across
    for one in predictor.explain(photo).positions:
        corner = left + one.column * x - across, top + one.row * y - down
        expected = np.array([*corner, corner[0] + x, corner[1] + y])
        inside = np.clip(expected, (left, top) * 2, (right, bottom) * 2)
        back = (inside - expected).reshape(2, 2).sum(axis=0)  # those at an edge stay whole
        assert one.box == pytest.approx(expected + np.array([*back, *back]))


def test_maps_and_masks_are_as_large_as_the_picture(predictor, picture):
    with Image.open(picture) as image:
        found = predictor(image.resize((400, 360)))
    whole, mask = found.full_map(), found.mask()
    assert whole.shape == mask.shape == (360, 400)
    assert whole.dtype == np.float32 and mask.dtype == bool and mask.any()
    assert np.array_equal(whole, spread(found.map, found.view), equal_nan=True)
    assert not mask[np.isnan(whole)].any()
    left, top, right, bottom = found.regions[0].box
    assert mask[int(top) : int(bottom) + 1, int(left) : int(right) + 1].any()
    with pytest.raises(InputError, match="no mask without a threshold"):
        replace(found, map_threshold=None).mask()


def test_what_is_printed_is_one_line_without_the_arrays(predictor, picture):
    found, why = predictor(picture), predictor.explain(picture)
    assert found.regions
    for shown in (predictor, predictor.see(picture), found, why):
        assert "\n" not in repr(shown) and "array(" not in repr(shown)
    assert repr(found).startswith(f"Prediction(score={found.score}, ")


def test_one_gives_one_and_several_give_a_list(predictor, picture):
    batch = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    several = predictor(batch)
    assert [p.score for p in several] == [predictor(image).score for image in batch]
    mixed = predictor([picture, np.asarray(Image.open(picture)), batch[0]])
    assert mixed[0].score == mixed[1].score and mixed[2].score == several[0].score
    assert predictor([]) == [] and len(predictor((picture,))) == 1
    with pytest.raises(AttributeError):
        several[0].score = 1.0


def test_a_folder_and_a_pattern_give_a_list_of_their_images(predictor, picture):
    expected = [predictor(file) for file in sorted(picture.parent.glob("*.png"))]
    assert len(expected) == 3
    above = picture.parent.parent
    patterns = (f"{picture.parent}/*.png", f"{above}/{picture.parent.name[0]}*/00[0-9].p?g")
    for given in (picture.parent, str(picture.parent), *patterns):
        for found in (predictor(given), list(predictor.stream(given))):
            assert [(p.path, p.score) for p in found] == [(p.path, p.score) for p in expected]
    (alone,) = predictor.stream(str(picture))
    assert alone.score == predictor(picture).score


def test_decisions_and_p_values_come_from_the_training_images(here, predictor, picture):
    known = load_detector(here / "run" / "model.ckpt").calibration
    found = predictor(picture)
    assert found.threshold == predictor.threshold == known.threshold
    assert found.is_anomalous is (found.score >= known.threshold)
    assert found.p_value == p_value(found.score, known)
    strict = padim_lit.load(here / "run" / "model.ckpt", false_alarm_rate=0.05, device="cpu")
    assert strict.threshold > predictor.threshold
    given = padim_lit.load(here / "run" / "model.ckpt", threshold=found.score, device="cpu")
    assert given(picture).is_anomalous is True
    assert "chosen by hand" in given.threshold_source


@pytest.mark.slow
def test_a_threshold_that_is_given_moves_the_regions_too(here, predictor, picture):
    found, load = predictor(picture), partial(padim_lit.load, here / "run/model.ckpt", device="cpu")
    later = load()
    for factor in (0.01, 0.8, 1.25):
        given = load(threshold=factor * found.threshold)
        assert given.map_threshold == pytest.approx(factor * predictor.map_threshold)
        above = (found.map >= given.map_threshold).any() or found.score >= given.threshold
        assert bool(given(picture).regions) == above
        later.threshold = given.threshold
        assert later.map_threshold == given.map_threshold
        with pytest.raises(InputError, match="nan"):
            later.threshold = float("nan")
        assert (later.threshold, later.map_threshold) == (given.threshold, given.map_threshold)
    assert load(threshold=0.01 * found.threshold)(picture).regions


def test_a_threshold_can_be_given_where_none_could_be_chosen(here, picture):
    detector = load_detector(here / "run" / "model.ckpt")
    known = detector.calibration
    # Of scores that are all lost in rounding, as with too small an eps.
    lost = Measured(known.scores, known.map_maxima, unreliable=len(known.scores))
    detector.calibration, detector.image_score = calibrate(lost), "topk"
    predictor = Predictor(detector, device="cpu", threshold=3.0)
    found = predictor(picture)
    assert found.threshold == 3.0 and found.is_anomalous is (found.score >= 3.0)
    assert bool(found.regions) is found.is_anomalous
    assert Predictor(detector, device="cpu").threshold is None


@pytest.mark.parametrize("kind", [torch.tensor, np.float32, np.array])
def test_a_threshold_may_be_any_kind_of_number(here, picture, kind):
    load = partial(padim_lit.load, here / "run" / "model.ckpt", device="cpu")
    expected, later = load(threshold=3.0)(picture).numbers(), load()
    later.threshold = kind(3.0)
    for made in (later, load(threshold=kind(3.0))):
        assert made(picture).numbers() == expected
    assert load(false_alarm_rate=kind(0.25)).threshold == load(false_alarm_rate=0.25).threshold


def test_a_device_without_float64_is_one_line(here, monkeypatch):
    detector = load_detector(here / "run" / "model.ckpt")

    def empty(*_, dtype=None, **__):
        if dtype is torch.float64:
            raise TypeError("the MPS framework doesn't support float64")

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(InputError, match=r"device=mps: not to be had .*float64\); use cpu"):
        Predictor(detector, device="mps")


def test_a_model_that_is_not_calibrated_says_where_the_defect_is(here, picture):
    detector = load_detector(here / "run" / "model.ckpt")
    detector.calibration, detector.image_score = None, "topk"
    score = Predictor(detector, device="cpu")(picture).score
    below, above = (Predictor(detector, device="cpu", threshold=t) for t in (score / 2, 2 * score))
    found, good = below(picture), above(picture)
    assert found.is_anomalous and found.regions
    assert not good.is_anomalous and not good.regions


def test_what_is_called_defective_has_a_region(here, predictor, picture):
    found = predictor(picture)
    given = padim_lit.load(here / "run/model.ckpt", threshold=found.score, device="cpu")
    given.map_threshold = 2 * float(found.map.max())
    shown = given(picture)
    assert shown.is_anomalous and shown.map_threshold <= shown.map.max() < given.map_threshold
    pixels = (shown.map >= shown.map_threshold).sum()
    assert 0.02 <= pixels / shown.map.size < 0.021
    left, top, right, bottom = shown.view.box
    area = (right - left) * (bottom - top) * pixels / shown.map.size
    assert sum(region.area for region in shown.regions) == pytest.approx(area, rel=0.5)
    given.threshold, given.map_threshold = 1.001 * found.score, given.map_threshold
    good = given(picture)
    assert not good.is_anomalous and not good.regions and good.map_threshold == given.map_threshold


def test_a_picture_may_be_there_twice(predictor, tmp_path):
    noise = torch.randint(256, (600, 600, 3), generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.byte().numpy()).save(tmp_path / "a.png")
    for _ in range(3):
        opened = Image.open(tmp_path / "a.png")
        first, second, third = predictor([opened, opened, tmp_path / "a.png"])
        assert first.score == second.score == third.score


def test_sizes_of_the_fit_may_be_given_in_another_form(here):
    made = padim_lit.load(here / "run" / "model.ckpt", device="cpu", image_size=(72, 80))
    assert made.detector.provenance["image_size"] == [72, 80]


def test_a_stream_reads_no_further_than_it_must(predictor, picture, monkeypatch):
    taken = []

    def camera():
        for i in itertools.count():
            taken.append(i)
            yield picture

    monkeypatch.setattr(predictor, "batch_size", 16)  # as on a GPU, where none is given
    found = list(itertools.islice(predictor.stream(camera()), 3))
    assert len(found) == 3 and len(taken) == 3


@pytest.mark.parametrize("form", ["array", "grey", "tensor", "picture", "floats", "path"])
def test_a_stream_of_one_image_is_that_image(predictor, picture, form):
    grey = np.asarray(Image.open(picture))
    rgb = np.repeat(grey[..., None], 3, axis=2)
    one = {
        **{"array": rgb, "grey": grey, "tensor": torch.from_numpy(rgb).permute(2, 0, 1)},
        **{"picture": Image.fromarray(grey), "floats": np.full((64, 64, 3), 0.5), "path": picture},
    }[form]
    assert [p.score for p in predictor.stream(one)] == [predictor(one).score]


def test_a_stream_of_an_array_of_several_is_each_of_them(predictor, picture):
    score = predictor(picture).score
    rgb = np.repeat(np.asarray(Image.open(picture))[..., None], 3, axis=2)
    grey = rgb[..., 0]
    for several in (np.stack([rgb, rgb]), np.array([str(picture)] * 2), np.stack([grey, grey])):
        assert [p.score for p in predictor.stream(several)] == [score, score]


def test_a_stream_can_go_on_after_a_bad_image(predictor, picture, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(picture.read_bytes()[:200])
    refused = []
    images = [picture, bad, picture, tmp_path / "none.png"]
    found = list(predictor.stream(images, lambda image, error: refused.append((image, str(error)))))
    assert len(found) == 2 and [image for image, _ in refused] == [bad, tmp_path / "none.png"]
    with pytest.raises(InputError, match=r"bad\.png"):
        list(predictor.stream(images))


def test_batches_change_scores_by_rounding_alone(here, predictor, picture):
    files = sorted((here / "data").rglob("train/good/*.png"))
    alone = [p.score for p in predictor(files)]
    together = padim_lit.load(here / "run" / "model.ckpt", device="cpu", batch_size=np.int64(7))(
        files
    )
    assert [p.score for p in together] == pytest.approx(alone, rel=1e-5)


WRONG = {
    "a number": 3,
    "nothing": None,
    "no such file": "missing.png",
    "bool in colour": np.zeros((8, 8, 3), bool),
    "int64": np.zeros((8, 8), int),
    "negative": np.full((8, 8), -1, np.int32),
    "beyond 16 bit": np.full((8, 8), 65536, np.int32),
    "four channels of 16 bit": np.zeros((8, 8, 4), np.uint16),
    "five channels": np.zeros((8, 8, 5), np.uint8),
    "empty": np.zeros((0, 8), np.uint8),
    "planes first": np.zeros((3, 8, 8), np.uint8),
    "floats of another size": np.zeros((8, 8, 3), np.float32),
    "floats above 1": np.full((64, 64, 3), 255, np.float32),
    "not a number": np.full((64, 64, 3), np.nan, np.float32),
    "a tensor without channels": torch.zeros(64, 64),
    "channels last": torch.zeros(64, 64, 3),
    "five dimensions": torch.zeros(1, 1, 3, 64, 64),
    "a list in a list": [[np.zeros((8, 8), np.uint8)]],
    "float picture": Image.new("F", (8, 8)),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_image_is_one_line(predictor, what):
    with pytest.raises(InputError) as caught:
        predictor(WRONG[what])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (str(Path(__file__).parent), "no image there; give a file, a folder or a quoted pattern"),
        ((path for path in ["a.png"]), "generator is no image; give .* to predictor.stream"),
        (np.zeros((8, 8, 2), np.uint8), r"\(h, w, 1\) and \(h, w, 3\) .* \(h, w, 4\) of uint8"),
        (torch.zeros(2, 8, 8).byte(), r"\(8, 8, 2\) of uint8 is no picture; .* \(h, w, 3\)"),
        (torch.zeros(1, 8, 8), r"floating-point image \(8, 8, 1\) .* \(64, 64, 3\) from 0 to 1"),
    ],
)
def test_what_is_no_image_is_told_what_to_give(predictor, given, said):
    with pytest.raises(InputError, match=said):
        predictor(given)


@pytest.mark.slow
def test_a_plain_trainers_checkpoint_needs_the_sizes(here, predictor, picture, tmp_path):
    bare = load_detector(here / "run" / "model.ckpt")
    bare.provenance, bare.calibration = {}, None
    save_detector(bare, tmp_path / "plain.ckpt")
    with pytest.raises(
        InputError, match=r"plain\.ckpt: .*detector.provenance \|= .*give image_size"
    ):
        padim_lit.load(tmp_path / "plain.ckpt")
    model = padim_lit.load(tmp_path / "plain.ckpt", image_size=[72, 80], crop_size=64, device="cpu")
    found = model(picture)
    assert found.score == predictor(picture).score
    assert (found.p_value, found.is_anomalous, found.threshold) == (None, None, None)
    for wrong in ({"image_size": 100}, {"image_size": 72, "crop_size": 60}):
        with pytest.raises(InputError, match="fitted on"):
            padim_lit.load(tmp_path / "plain.ckpt", **wrong)
    with pytest.raises(InputError, match="no scores of good images"):
        padim_lit.load(tmp_path / "plain.ckpt", image_size=72, crop_size=64, false_alarm_rate=0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_size": 100}, "leave them out"),
        ({"crop_size": 32}, "leave them out"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"threshold": 0.0}, "threshold=0.0: must be a finite score above 0"),
        ({"false_alarm_rate": 2}, r"false_alarm_rate=2\.0"),
        ({"threshold": 20, "false_alarm_rate": 0.05}, "give one of them"),
        ({"device": "toaster"}, "device=toaster"),
    ],
)
def test_wrong_arguments_are_one_line(here, wrong, message):
    with pytest.raises(InputError, match=message) as caught:
        padim_lit.load(here / "run" / "model.ckpt", **wrong)
    assert "\n" not in str(caught.value)


PROBE = """
import sys
import padim_lit
model = padim_lit.load("run/model.ckpt", device="cpu")
model("data/test/crack/001.png")
heavy = ("hydra", "omegaconf", "wandb", "lightning", "torchmetrics", "matplotlib", "scipy.stats")
print(*(name for name in heavy if name in sys.modules))
"""


@pytest.mark.slow
def test_it_starts_without_the_frameworks(here):
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE],
        cwd=here, env=environment(here), capture_output=True, text=True,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == []
