"""mode=predict: lines as they come, bad files skipped; a watched folder, killed and continued."""

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import signal
import threading
import time
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from _helpers.cli import TIMEOUT, TINY, Running
from _helpers.outcome import require_one_clear_line
from _helpers.tables import long_table
from _helpers.trees import build_tree, save_image
from PIL import Image

import padim_lit
from padim_lit.checkpoint.state import load_detector, save_detector
from padim_lit.cli.modes import predict as mode
from padim_lit.deploy import predictor
from padim_lit.deploy.explanation import Explanation, Position
from padim_lit.deploy.folder_watcher import Watcher
from padim_lit.deploy.prediction import Prediction
from padim_lit.deploy.prediction_log import COLUMNS, ScoredFiles, Version, read_lines
from padim_lit.deploy.regions import View, find
from padim_lit.errors import InputError
from padim_lit.system.atomic import csv_text
from padim_lit.viewer.content import build
from padim_lit.visualization.overlay import Heat, boxed, caption_of, colours, contour, side_by_side
from padim_lit.visualization.panels import GAP

FIT = [*TINY, "image_score=max"]
PREDICT = ["mode=predict", "ckpt=run/model.ckpt", "trainer=cpu"]


@pytest.fixture(scope="module")
def here(tmp_path_factory, zygote) -> Path:
    folder = tmp_path_factory.mktemp("here")
    build_tree(folder / "data", train=24, test={"good": 4, "crack": 3})
    result = zygote.run([*FIT, "false_alarm_rate=0.2"], folder)
    assert result.code == 0, result.err
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def predict(zygote, here: Path, name: str, *args: str):
    return zygote.run([*PREDICT, f"hydra.run.dir={name}", *args], here)


# --- A fit's part ----------------------------------------------------------------------------


def test_the_fit_says_what_its_threshold_does(here):
    found = json.loads((here / "run" / "metrics.json").read_text())
    assert found["threshold_method"] == "empirical" and found["threshold_images"] == 24
    assert found["threshold_rate_low"] < found["threshold_rate"] == 0.2
    table = rows(here / "run")
    high = [row for row in table if float(row["score"]) >= found["threshold"]]
    assert found["test/false_alarms"] == sum(row["label"] == "0" for row in high)
    assert found["test/misses"] == 3 - sum(row["label"] == "1" for row in high)
    assert found["threshold_largest"] >= found["threshold"]
    for one in found["threshold_choices"]:
        above = [row for row in table if float(row["score"]) >= one["threshold"]]
        assert one["false_alarms"] == sum(row["label"] == "0" for row in above)
        assert one["misses"] == 3 - sum(row["label"] == "1" for row in above)


@pytest.mark.slow
def test_a_fit_without_calibration_has_no_threshold(zygote, here):
    result = zygote.run([*FIT, "hydra.run.dir=bare", "calibration=0"], here)
    assert result.code == 0 and "No threshold: this model decides" in result.out, result.err
    assert "threshold" not in json.loads((here / "bare" / "metrics.json").read_text())
    bare, run = (rows(here / name) for name in ("bare", "run"))
    assert [row["score"] for row in bare] == [row["score"] for row in run]
    assert {(row["p_value"], row["decision"]) for row in bare} == {("", "")}
    result = predict(zygote, here, "undecided", "ckpt=bare/model.ckpt", "images=data/test/good")
    assert result.code == 0 and (result.out + result.err).count("not calibrated") == 1
    assert {row["decision"] for row in rows(here / "undecided")} == {""}
    assert "scored   4 images: 4 undecided" in result.out  # the word of watch=true's lines
    given = predict(
        zygote, here, "given", "ckpt=bare/model.ckpt", "images=data/test/good", "threshold=0.5"
    )
    assert "threshold 0.5, chosen by hand" in given.out
    assert {row["decision"] for row in rows(here / "given")} == {"anomalous"}


@pytest.fixture(scope="module")
def bare(here) -> str:
    """A model without a threshold, as mode=update leaves it."""
    detector = load_detector(here / "run/model.ckpt")
    detector.calibration = None
    save_detector(detector, here / "uncalibrated.ckpt")
    return "ckpt=uncalibrated.ckpt"


@pytest.mark.parametrize("key", ["masks", "coco"])
def test_a_model_that_decides_nothing_writes_no_empty_masks(zygote, here, bare, key):
    """Black masks, and images without regions, read as good ones."""
    result = predict(zygote, here, "empty", "images=data/test", f"{key}=true", bare)
    said = (f"{key}=true: no threshold", "mode=calibrate", "threshold=NUMBER")
    require_one_clear_line(result, said)
    assert not (here / "empty/predictions.jsonl").exists()


@pytest.mark.parametrize("words", [["mode=serve"], ["images=data/test", "watch=true"]])
def test_a_model_that_decides_nothing_does_not_go_live(zygote, here, bare, words):
    result = predict(zygote, here, "live", *words, bare)
    said = ("ckpt=uncalibrated.ckpt: no threshold", "mode=calibrate", "threshold=NUMBER")
    require_one_clear_line(result, (*said, "give undecided=true"))
    assert not (here / "live/serve.json").exists() and not (here / "live/model.json").exists()


@pytest.mark.parametrize(
    ("more", "decision"), [("undecided=true", {""}), ("threshold=0.1", {"anomalous"})]
)
def test_it_does_for_scores_alone_or_by_a_threshold(zygote, here, bare, more, decision):
    args = [*watch("watch_idle=0.3"), "images=data/test/crack", more, bare]
    result = predict(zygote, here, f"live_{more[:4]}", *args)
    assert result.code == 0, result.err
    assert {row["decision"] for row in rows(here / f"live_{more[:4]}")} == decision


def test_an_old_checkpoint_gets_another_rate_from_its_scores(zygote, here):
    args = [*FIT, "ckpt=run/model.ckpt", "hydra.run.dir=again", "false_alarm_rate=0.5"]
    assert zygote.run(args, here).code == 0
    first, again = (
        json.loads((here / name / "metrics.json").read_text()) for name in ("run", "again")
    )
    assert again["threshold"] < first["threshold"]
    assert again["test/image_auroc"] == first["test/image_auroc"]


def test_where_no_image_is_called_defective_no_pictures_are_missed(zygote, here):
    result = predict(zygote, here, "passed", "images=data/test/good", "threshold=1000")
    assert "pictures none, as no image" in " ".join(result.out.split()), result.err
    assert "overlays=all draws all" in result.out and not (here / "passed/heatmaps").exists()


@pytest.mark.slow
def test_scores_are_explained(zygote, here):
    args = ["images=data/test/crack", "overlays=all"]
    assert predict(zygote, here, "plain", *args).code == 0
    result = predict(zygote, here, "why", *args, "explain=true")
    assert result.code == 0, result.err
    model = padim_lit.load(here / "run" / "model.ckpt", device="cpu")
    assert len(lines(here / "why")) == 3
    for line, plain in zip(lines(here / "why"), lines(here / "plain"), strict=True):
        assert line["score"] == plain["score"] and "layers" not in plain
        assert sum(line["layers"].values()) == pytest.approx(1, abs=1e-5)
        found = model.explain(here / line["path"])
        assert found.layers == pytest.approx(line["layers"], abs=1e-6)
        assert line["positions"] == found.numbers()["positions"]
    sizes = {}
    for name in ("why", "plain"):
        with Image.open(here / name / lines(here / name)[0]["picture"]) as picture:
            sizes[name] = picture.size
    assert sizes["why"][1] > sizes["plain"][1]  # a line more


@pytest.mark.parametrize("wrong", ["calibration=-1", "false_alarm_rate=1.5"])
def test_wrong_keys_of_a_fit(zygote, here, wrong):
    result = zygote.run([*FIT, wrong, "hydra.run.dir=wrong"], here)
    assert result.code == 1 and wrong.split("=")[0] in result.err
    assert len(result.err.strip().splitlines()) == 1


# --- Once ------------------------------------------------------------------------------------


def test_every_image_gets_its_line_and_the_defective_their_picture(zygote, here):
    result = predict(zygote, here, "all", "images=data/test", "overlays=all")
    assert result.code == 0, result.err
    folder, model = here / "all", padim_lit.load(here / "run" / "model.ckpt", device="cpu")
    table, written = rows(folder), lines(folder)
    assert [row["path"] for row in table] == [line["path"] for line in written]
    assert len(table) == 7
    for row, line in zip(table, written, strict=True):
        found = model(here / row["path"])
        assert float(row["score"]) == line["score"] == pytest.approx(found.score, rel=1e-5)
        assert row["decision"] == ("anomalous" if line["score"] >= line["threshold"] else "good")
        assert float(row["threshold"]) == line["threshold"] and row["at"] == line["at"]
        assert row["mask"] == ""
    # 000.png is there twice, in good/ and in crack/.
    pictures = sorted((folder / "heatmaps").glob("*.png"))
    assert len(pictures) == 7
    with Image.open(pictures[0]) as picture, Image.open(here / table[0]["path"]) as photo:
        assert picture.height > photo.height and picture.width >= 2 * photo.width + GAP
    summary = json.loads((folder / "predict.json").read_text())
    assert summary["images"] == 7 == summary["good"] + summary["anomalous"]
    assert f"{summary['good']} good" in result.out and "each scored as if left out" in result.out
    (scored,) = build([folder])["scored"]
    assert scored["paths"] == [row["path"] for row in table] and len(scored["good"]) == 24
    assert {item["index"] for item in scored["pictures"]["items"]} == set(range(7))
    # A second run starts anew, and its pictures are those of the defective alone.
    assert predict(zygote, here, "all", "images=data/test").code == 0
    assert len(rows(folder)) == 7
    assert len(list((folder / "heatmaps").glob("*.png"))) == summary["anomalous"]


@pytest.mark.slow
def test_regions_are_data_for_the_next_program(zygote, here):
    save_image(here / "odd" / "a" / "é.png", size=(70, 41), seed=3)
    save_image(here / "odd" / "b" / "b.png", size=(33, 90), seed=4)
    level = json.loads((here / "run" / "metrics.json").read_text())["threshold_map"]
    args = ["images=odd", "masks=true", "maps=true", "coco=true", f"threshold={0.9 * level}"]
    result = predict(zygote, here, "found", *args)
    assert result.code == 0, result.err
    folder = here / "found"
    model = padim_lit.load(here / "run" / "model.ckpt", device="cpu", threshold=0.9 * level)
    found = json.loads((folder / "coco.json").read_text())
    assert [i["file_name"] for i in found["images"]] == ["a/é.png", "b/b.png"]
    assert Path(found["info"]["root"]) == here / "odd"
    regions = 0
    for line, row, image in zip(lines(folder), rows(folder), found["images"], strict=True):
        size = pixels(here / line["path"]).shape[::-1]
        assert size == (line["width"], line["height"]) == (image["width"], image["height"])
        assert (folder / row["mask"]).samefile(folder / line["mask"])
        map, mask = pixels(folder / line["map"]), pixels(folder / line["mask"])
        assert map.shape == mask.shape == size[::-1] and map.dtype == np.float32
        assert np.nanmax(map) <= line["score"] and np.isnan(map[0, 0])  # cut off by the crop
        assert np.array_equal(mask, 255 * (map >= line["threshold"]))
        mine = [a for a in found["annotations"] if a["image_id"] == image["id"]]
        assert len(mine) == len(line["regions"]) == len(model(here / line["path"]).regions)
        for region, one in zip(line["regions"], mine, strict=True):
            xs, ys = one["segmentation"][0][::2], one["segmentation"][0][1::2]
            x, y, w, h = one["bbox"]
            assert [x, y, x + w, y + h] == pytest.approx([min(xs), min(ys), max(xs), max(ys)])
            assert [x, y] == region["box"][:2] and one["score"] == region["peak"]
            assert 0 <= x < x + w <= size[0] and 0 <= y < y + h <= size[1]
            assert one["category_id"] == found["categories"][0]["id"] and one["iscrowd"] == 0
        assert sum(a["area"] for a in mine) == pytest.approx((mask > 0).sum(), rel=0.2, abs=15)
        regions += len(mine)
    assert regions > 1 and len({a["id"] for a in found["annotations"]}) == regions
    # A second run leaves nothing of the first one, and names only what it wrote.
    again = predict(zygote, here, "found", *args[:1], args[-1])
    assert again.code == 0
    for name in ("masks", "maps", "coco.json"):
        assert f"{folder / name}\n" in result.out and str(folder / name) not in again.out
    assert not list((folder / "masks").iterdir()) and not list((folder / "maps").iterdir())
    assert not (folder / "coco.json").exists()
    # Nor is its summary beside what one that fails has left.
    (folder / "masks").rmdir()
    (folder / "masks").write_text("in the way")
    assert predict(zygote, here, "found", *args[:2], args[-1]).code == 1
    assert not (folder / "predict.json").exists()


def test_an_archive_of_another_model_threshold_or_source_is_not_wiped(zygote, here):
    assert predict(zygote, here, "archive", "images=data/test", "coco=true").code == 0
    folder = here / "archive"
    names = ("predictions.jsonl", "predict.json", "coco.json", "model.json")
    before = {name: (folder / name).read_bytes() for name in names}
    own = json.loads(before["model.json"])["threshold"]
    for other, said in (
        (["images=data/test/good"], "(source is data/test there and data/test/good here); give"),
        (["images=data/test", "threshold=3"], f"(threshold is {own} there and 3.0 here); give"),
        (
            ["images=data/train", "threshold=3"],
            "and 3.0 here, source is data/test there and data/train here); give",
        ),
    ):
        result = predict(zygote, here, "archive", *other)
        require_one_clear_line(result, (said, "give another hydra.run.dir"))
        assert before == {name: (folder / name).read_bytes() for name in names}
    assert predict(zygote, here, "archive", "images=data/test").code == 0


def test_a_model_is_known_by_its_content(zygote, here):
    """Put there anew by rsync or in a container it is the same; another one at its place is not."""
    (here / "deployed").mkdir()
    model = shutil.copy(here / "run/model.ckpt", here / "deployed/model.ckpt")
    args = [*watch("watch_idle=0.3"), "images=data/test", f"ckpt={model}"]
    assert predict(zygote, here, "deploy", *args).code == 0
    sha256 = hashlib.sha256(Path(model).read_bytes()).hexdigest()[:12]
    for name in ("model.json", "predict.json"):
        assert json.loads((here / "deploy" / name).read_text())["model_sha256"] == sha256
    assert {line["model_sha256"] for line in lines(here / "deploy")} == {sha256}
    for line in lines(here / "deploy"):  # a photo, too
        photo = hashlib.sha256((here / line["path"]).read_bytes()).hexdigest()
        assert line["photo_sha256"] == photo[:12]
    rows = csv.DictReader((here / "deploy" / "predictions.csv").read_text().splitlines())
    assert {row["model_sha256"] for row in rows} == {sha256}
    os.utime(model, (1, 1))
    again = predict(zygote, here, "deploy", *args)
    assert again.code == 0 and len(lines(here / "deploy")) == 7, again.err
    moved = shutil.copy(model, here / "deployed/copy.ckpt")
    assert predict(zygote, here, "deploy", *args, f"ckpt={moved}").code == 0
    save_detector(load_detector(model), Path(model))  # the same fit in other bytes
    other = hashlib.sha256(Path(model).read_bytes()).hexdigest()[:12]
    result = predict(zygote, here, "deploy", *args)
    assert (
        result.code == 1
        and f"(model_sha256 is {sha256} there and {other} here); give" in result.err
    )
    assert "delete the folder, and with it these scores" in result.err


def test_a_model_that_is_replaced_meanwhile_is_not_the_one_that_decided(here, monkeypatch):
    first = shutil.copy(here / "run/model.ckpt", here / "replaced.ckpt")
    sha256 = padim_lit.load(first, device="cpu").model_sha256
    make = mode.make_predictor

    def replaced(*args):
        predictor = make(*args)
        save_detector(load_detector(first), Path(first))
        return predictor

    monkeypatch.chdir(here)
    monkeypatch.setattr(mode, "make_predictor", replaced)
    monkeypatch.setattr("padim_lit.cli.build.device_of", torch.device)
    settings = mode.Predict(
        backbone={}, proj={}, density={}, trainer="cpu", ckpt=str(first), images="data/test/good"
    )
    results = mode.run(settings, here / "replaced")
    assert results["model_sha256"] == sha256 != padim_lit.load(first, device="cpu").model_sha256


def test_a_bad_file_is_skipped_and_counted(zygote, here, tmp_path):
    for n in range(3):
        save_image(tmp_path / f"{n}.png", seed=n)
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:300])
    (tmp_path / "4.jpg").write_bytes(b"")
    result = predict(zygote, here, "bad", f"images={tmp_path}")
    assert result.code == 0, result.err
    assert (
        "2 files that cannot be read; predictions.jsonl" in result.out
        and "1.png" in result.err + result.out
    )
    assert len(rows(here / "bad")) == 2
    assert sorted(Path(x["path"]).name for x in lines(here / "bad") if "error" in x) == [
        "1.png",
        "4.jpg",
    ]
    (tmp_path / "0.png").write_bytes(b"x")
    (tmp_path / "2.png").write_bytes(b"x")
    result = predict(zygote, here, "worse", f"images={tmp_path}")
    assert result.code == 1 and "none of 4 files" in result.err


@pytest.mark.parametrize("watching", [False, True])
def test_what_is_not_seen_of_photos_is_told_once(zygote, here, tmp_path, watching):
    inbox = tmp_path / "inbox"
    for n in range(2):
        save_image(inbox / f"{n}.png", size=(500, 50), seed=n)
        Image.new("L", (64, 64)).save(
            inbox / f"pages{n}.tif", save_all=True, append_images=[Image.new("L", (64, 64), 9)]
        )
    more = [*watch("watch_idle=0.3"), f"images={inbox}"] if watching else [f"images={inbox}"]
    result = predict(zygote, here, f"not_seen_{watching}", *more)
    said = " ".join((result.out + result.err).split())
    assert result.code == 0 and said.count("The model sees") == 1, said
    assert said.count("several pages") == 1
    crop, pages = json.loads((here / f"not_seen_{watching}/predict.json").read_text())["notes"]
    assert crop.startswith(f"The model sees as little as 10% of an image ({inbox}/")
    assert (
        pages == f"{inbox}/pages0.tif and 1 other have several pages or frames; the first is read."
    )
    assert watching or (crop in said and pages in said)  # a watch tells it with the first


@long_table(
    "wrong",
    [
        "images=null",
        "ckpt=null",
        "ckpt=none.ckpt",
        "images=nowhere",
        "overlays=some",
        "threshold=nan",
        "false_alarm_rate=0",
        "watch_settle=0",
        "watch_idle=-1",
        "watch_settle=inf",
    ],
    every=3,
)
def test_wrong_keys_are_one_line(zygote, here, wrong):
    result = predict(zygote, here, "wrong", "images=data/test", wrong)
    assert result.code == 1
    assert len(result.err.strip().splitlines()) == 1 and wrong.split("=")[0] in result.err
    assert not (here / "wrong" / "predict.json").exists()


# --- Again and again -------------------------------------------------------------------------


def watch(*args: str) -> list[str]:
    return ["images=inbox", "watch=true", "watch_settle=0.2", "overlays=none", *args]


@pytest.mark.slow
def test_half_written_files_are_waited_for(zygote, here, tmp_path):
    inbox = tmp_path / "inbox"
    whole = save_image(tmp_path / "whole.png", size=(200, 200)).read_bytes()
    inbox.mkdir()
    (inbox / "slow.png").write_bytes(whole[:1000])
    (inbox / "broken.png").write_bytes(whole[:500])
    (inbox / ".hidden.png").write_bytes(whole)

    def camera():
        time.sleep(1.2)  # longer than watch_settle, so that the half looks finished
        (inbox / "slow.png").write_bytes(whole)
        save_image(inbox / "below" / "late.png")

    writer = threading.Thread(target=camera)
    writer.start()
    result = zygote.run(
        [*PREDICT, f"images={inbox}", f"ckpt={here}/run/model.ckpt", *watch()[1:],
         "watch_idle=2", "hydra.run.dir=watched"], tmp_path,
    )  # fmt: skip
    writer.join()
    assert result.code == 0, result.err
    found = lines(tmp_path / "watched")
    assert sorted(Path(line["path"]).name for line in found) == [
        "broken.png", "late.png", "slow.png",
    ]  # fmt: skip
    assert [Path(x["path"]).name for x in found if "error" in x] == ["broken.png"]
    assert {line["size"] for line in found if "slow" in line["path"]} == {len(whole)}


def test_a_watch_that_goes_on_counts_what_it_skipped_apart(zygote, here, tmp_path):
    for n in range(2):
        save_image(tmp_path / f"{n}.png", seed=n)
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:300])
    args = [*watch("watch_idle=0.3", "threshold=0.1"), f"images={tmp_path}"]
    args = [*PREDICT, *args, "hydra.run.dir=goes_on"]
    first, again = (zygote.run(args, here) for _ in range(2))
    assert first.code == again.code == 0, again.err
    assert first.out.count("  defective  ") == 2 and "anomalous" not in first.out
    assert "1 file that cannot be read" in first.out and "broken.png" in first.out + first.err
    assert "scored   2 images" in again.out
    assert "1 file that cannot be read; predictions.jsonl says which" in again.out


@pytest.mark.skipif(os.name == "nt", reason="links take rights there")
def test_a_watch_tells_of_links_that_lead_nowhere_until_their_files_arrive(zygote, here, tmp_path):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    stored = [save_image(tmp_path / f"{n}.png", seed=n) for n in range(2)]
    (inbox / "there.png").symlink_to(stored[0])
    (inbox / "late.png").symlink_to(stored[1])
    args = [*PREDICT, *watch("watch_idle=0.3")[1:], f"images={inbox}", "hydra.run.dir=links"]
    stored[1].rename(tmp_path / "away")
    first = zygote.run(args, here)
    assert first.code == 0 and "scored   1 image" in first.out, first.err
    assert "1 file that cannot be read" in first.out and "No such file" in first.out + first.err
    (tmp_path / "away").rename(stored[1])
    stored[0].unlink()  # which was scored
    again = zygote.run(args, here)
    assert again.code == 0 and "scored   2 images" in again.out and "No such file" not in again.out
    found = [(Path(line["path"]).name, "error" in line) for line in lines(here / "links")]
    assert found == [("there.png", False), ("late.png", True), ("late.png", False)]


def wait_for(file: Path, count: int, process: Running) -> None:
    end = time.monotonic() + TIMEOUT
    while not (file.exists() and file.read_bytes().count(b"\n") >= count):
        assert process.poll() is None, process.wait()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_first_ctrl_c_waits_a_second_does_not_and_an_ignored_one_stays_ignored():
    """A disk may hang; and what a shell runs in the background has Ctrl-C ignored."""
    ours = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(which, signal.default_int_handler) for which in ours]
    try:
        for which in ours:
            with pytest.raises(KeyboardInterrupt), mode._signals() as stopped:
                assert not stopped
                signal.raise_signal(which)
                assert stopped
                signal.raise_signal(which)
            assert signal.getsignal(which) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with mode._signals() as stopped:
            signal.raise_signal(signal.SIGINT)
            assert not stopped
    finally:
        for which, handler in zip(ours, before, strict=True):
            signal.signal(which, handler)


def test_ctrl_c_waits_for_the_lines_and_the_count_of_one_image(here, tmp_path, monkeypatch):
    """Between them it left lines of one image more than were counted."""
    monkeypatch.chdir(here)
    for n in range(2):
        save_image(tmp_path / "inbox" / f"{n}.png", seed=n)
    # A suite that a shell runs in the background has Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    write = ScoredFiles._write

    def interrupted(self: ScoredFiles, path: Path, line: str) -> None:
        write(self, path, line)
        if not came:
            came.append(path)
            signal.raise_signal(signal.SIGINT)

    came: list[Path] = []
    monkeypatch.setattr(ScoredFiles, "_write", interrupted)
    try:
        settings = replace(watching(monkeypatch, tmp_path / "inbox"), watch_idle=None)
        found = mode.run(settings, tmp_path / "scored")
    finally:
        assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
    assert came and found["images"] == len(lines(tmp_path / "scored")) == 1
    assert len(rows(tmp_path / "scored")) == 1


@pytest.mark.slow
def test_kill_and_ctrl_c_lose_nothing_and_score_nothing_twice(zygote, here):
    inbox, file = here / "inbox", here / "line" / "predictions.jsonl"
    for n in range(40):
        save_image(inbox / f"{n:03}.png", seed=n)
    line = [*PREDICT, *watch(), "hydra.run.dir=line"]
    with zygote.start(line, here) as process:
        wait_for(file, 5, process)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait().code == -signal.SIGKILL
    before = file.read_bytes()
    assert before.count(b"\n") < 40
    with file.open("ab") as end:  # as if it had been killed in the middle of a line
        end.write(b'{"path": "inbox/039.p')
    save_image(inbox / "new.png", seed=99)
    with zygote.start(line, here) as process:
        wait_for(file, 41, process)
        os.killpg(process.pid, signal.SIGINT)
        code, out, err, _ = process.wait()
    assert code == 0, err
    assert "scored   41 images" in out and "stopped" in out
    assert file.read_bytes().startswith(before[: before.rindex(b"\n") + 1])
    names = [Path(line["path"]).name for line in lines(here / "line")]
    assert len(names) == 41 == len(set(names))
    assert sorted(row["path"] for row in rows(here / "line")) == sorted(
        line["path"] for line in lines(here / "line")
    )
    # A changed file is another image; the others stay as they are.
    save_image(inbox / "000.png", seed=7)
    assert (here / "line" / "predict.json").exists()
    with zygote.start(line, here) as process:
        wait_for(file, 42, process)
        # One that is killed now must leave no summary of fewer images.
        assert not (here / "line" / "predict.json").exists()
        os.killpg(process.pid, signal.SIGTERM)  # as services and containers are ended
        code, out, err, _ = process.wait()
    assert code == 0, err
    assert "scored   42 images" in out and "stopped" in out
    assert json.loads((here / "line" / "predict.json").read_text())["images"] == 42
    args = [*watch("watch_idle=0.6"), "hydra.run.dir=line"]
    assert zygote.run([*PREDICT, *args], here).code == 0
    assert len(lines(here / "line")) == 42
    # Other decisions do not mix into the same files.
    result = zygote.run([*PREDICT, *args, "threshold=3"], here)
    assert result.code == 1 and "(threshold is " in result.err
    assert len(lines(here / "line")) == 42


@pytest.mark.slow
def test_a_file_written_over_is_another_image_with_files_of_its_own(zygote, here):
    args = ["images=camera", "watch=true", "watch_settle=0.1", "watch_idle=0.3", "overlays=all"]
    folder, pictures = here / "over", []
    for n in range(2):  # the second goes on where the first ended
        save_image(here / "camera" / "latest.png", seed=n, size=(60, 80 + n))
        assert predict(zygote, here, "over", *args, "masks=true").code == 0
        pictures.append((folder / lines(folder)[0]["picture"]).read_bytes())
    first, second = lines(folder)
    assert first["path"] == second["path"] and pictures[0] == pictures[1]
    for key in ("picture", "viewer", "mask"):
        assert first[key] != second[key] and (folder / second[key]).exists()
    assert [row["picture"] for row in rows(folder)] == [first["picture"], second["picture"]]


@pytest.mark.slow
def test_a_folder_that_is_away_for_a_while_is_waited_for(zygote, here):
    inbox, file = here / "share", here / "away" / "predictions.jsonl"
    golden = [save_image(here / f"golden-{n}.png", seed=n, size=(60, 80 + n)) for n in range(2)]
    inbox.mkdir()
    command = [*PREDICT, *watch()[1:], "images=share", "hydra.run.dir=away"]
    with zygote.start(command, here) as process:
        for count, picture in enumerate((*golden, golden[0]), start=1):
            # As it was, with its time of change: once more the picture of the first.
            shutil.copy2(picture, inbox / "check.png")
            wait_for(file, count, process)
            inbox.rename(here / "unplugged")
            time.sleep(1)
            (here / "unplugged").rename(inbox)
        os.killpg(process.pid, signal.SIGINT)
        code, out, err, _ = process.wait()
    assert code == 0, err
    assert (
        "scored   3 images" in out
        and out.count("the folder that is watched is gone; what comes") == 3
    )
    first, second, third = lines(here / "away")
    assert first["score"] == third["score"] != second["score"]
    assert first["at"] < second["at"] < third["at"]
    # Away at the first look, or for longer than is waited for new ones: an error.
    result = predict(zygote, here, "never", *watch("images=nowhere")[1:])
    assert result.code == 1 and "nowhere" in result.err.splitlines()[-1]


def test_a_file_that_cannot_be_read_just_now_is_no_broken_one(here, tmp_path, monkeypatch):
    """As on a share that is overloaded; what a folder holds when nobody waits any more is named."""
    monkeypatch.chdir(here)
    for name in ("once.png", "never.png"):
        save_image(tmp_path / "inbox" / name)
    see, tries = predictor.Predictor.see, Counter()

    def trouble(self, image, picture=0):
        tries[image.name] += 1
        if tries[image.name] < 4 or image.name == "never.png":
            raise InputError(f"{image}: cannot be read") from OSError(errno.EIO, "I/O error")
        return see(self, image, picture)

    monkeypatch.setattr(predictor.Predictor, "see", trouble)
    mode.run(watching(monkeypatch, tmp_path / "inbox", overlays="none"), tmp_path / "scored")
    found = {Path(line["path"]).name: line for line in lines(tmp_path / "scored")}
    assert "score" in found["once.png"] and "error" in found["never.png"]
    assert len(lines(tmp_path / "scored")) == 2 and tries["once.png"] == 4 < tries["never.png"]


def test_a_picture_that_cannot_be_written_costs_no_score(here, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(here)
    for n in range(4):
        save_image(tmp_path / "inbox" / f"{n}.png", seed=n)
    write, tries = mode.write_bytes, Counter()

    def full(path, *more, **how):
        tries[path.suffix] += 1
        if path.suffix == ".png" and tries[".png"] in (2, 3):
            raise InputError(f"{path} cannot be written (No space left on device)")
        return write(path, *more, **how)

    monkeypatch.setattr(mode, "write_bytes", full)
    settings = watching(monkeypatch, tmp_path / "inbox", overlays="none", masks=True)
    mode.run(settings, tmp_path / "scored")
    found = lines(tmp_path / "scored")
    assert [line["mask"] is None for line in found] == [False, True, True, False]
    assert len(rows(tmp_path / "scored")) == len(list((tmp_path / "scored/masks").iterdir())) + 2
    (said,) = [line for line in caplog.messages if "No space left" in line]
    assert said.endswith("scores are written without what does not fit")
    with pytest.raises(InputError, match="No space left"):  # one that may be run again
        tries.clear()
        mode.run(replace(settings, watch=False), tmp_path / "once")


def watching(monkeypatch, inbox: Path, **how) -> mode.Predict:
    monkeypatch.setattr("padim_lit.cli.build.device_of", torch.device)
    return mode.Predict(
        backbone={}, proj={}, density={}, trainer="cpu", ckpt="run/model.ckpt", images=str(inbox),
        watch=True, watch_settle=0.01, watch_idle=1.0, **how,
    )  # fmt: skip


def dimmed(folder: Path, count: int) -> Path:
    """So many photos in another light."""
    for n in range(count):
        path = save_image(folder / f"{n:03}.png", seed=n)
        with Image.open(path) as photo:
            photo.point([200 + value // 8 for value in range(256)]).save(path)
    return folder


def test_another_light_is_said_at_the_end_and_in_the_log(zygote, here, tmp_path):
    def told(name: str, images: Path) -> str:
        result = predict(zygote, here, name, f"images={images}", "overlays=none")
        assert result.code == 0, result.err
        crop, *more = json.loads((here / name / "predict.json").read_text())["notes"]
        assert crop.startswith("The model sees 80% of an image")
        (said,) = more or [""]
        assert build([here / name])["scored"][0]["notes"] == [crop, *more]
        for text in (result.out + result.err, (here / name / "run.log").read_text()):
            assert " ".join(text.split()).count("good photos that the model knows") == bool(said)
        return said

    assert told("few", dimmed(tmp_path / "few", 4)) == ""
    assert told("usual", here / "data/train/good") == ""
    said = told("dimmed", dimmed(tmp_path / "light", 6))
    assert said.startswith("6 of the last 6 photos score above 95% of the good photos")
    assert "another light, camera or lot? (or most are defective)" in said


def test_a_watch_tells_of_another_light_once_and_at_its_end(here, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(here)
    inbox = tmp_path / "inbox"
    shutil.copytree(here / "data/train/good", inbox)
    settings = watching(monkeypatch, inbox, overlays="none")
    assert mode.run(settings, tmp_path / "scored")["notes"] == caplog.messages
    assert len(caplog.messages) == 1 and "The model sees 80%" in caplog.text  # by its crop
    for path in dimmed(tmp_path / "light", 30).iterdir():
        path.rename(inbox / f"later_{path.name}")
    for again in (1, 0):  # going on it knows the last ones, and nothing new comes
        caplog.clear()
        *_, end = mode.run(settings, tmp_path / "scored")["notes"]
        assert end.startswith("20 of the last 20 photos score above")
        (*first, last) = [text for text in caplog.messages if "the good photos" in text]
        assert last == end and len(first) == again
        assert not again or first[0].startswith("11 of the last 20 photos")
    for n, photo in enumerate([*(here / "data/train/good").iterdir()] * 3):
        shutil.copy(photo, inbox / f"mended_{n:02}.png")
    for path in dimmed(tmp_path / "dark", 15).iterdir():
        path.rename(inbox / f"new_{path.name}")
    caplog.clear()
    notes = mode.run(settings, tmp_path / "scored")["notes"]
    told = [text for text in caplog.messages if "the good photos" in text]
    assert [text.partition(" photos")[0] for text in told] == [
        "11 of the last 20", "15 of the last 20",
    ]  # fmt: skip
    assert build([tmp_path / "scored"])["scored"][0]["notes"] == notes


# --- The parts -------------------------------------------------------------------------------


def test_files_rest_before_they_are_found(tmp_path):
    now, done = [0.0], set()
    watcher = Watcher(tmp_path, 1.0, done.__contains__, lambda: now[0])
    assert watcher.rested() == [] and not watcher.waiting
    path = save_image(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "note.txt").write_text("no image")
    assert watcher.rested() == [] and len(watcher.waiting) == 1
    now[0] = 0.9
    path.write_bytes(path.read_bytes() + b"more")
    assert watcher.rested() == []
    now[0] = 1.5
    assert watcher.rested() == []
    now[0] = 2.0
    ((version, rest),) = watcher.rested()
    assert version == Version.of(path) and rest == pytest.approx(1.1)
    done.add(version)
    assert watcher.rested() == [] and not watcher.waiting
    path.unlink()
    assert watcher.rested() == []


def test_a_disk_that_fills_up_within_a_line_keeps_no_half_of_it(tmp_path):
    class Full(io.FileIO):
        def write(self, content):
            return super().write(content[: len(content) // 2])

    log = ScoredFiles(tmp_path, {}, resume=True)
    log.add(Version("a.png", 1, 0), {"score": 1.0, "decision": "good"})
    for path in (log.json, log.csv):
        before = path.read_bytes()
        log._files[path].close()
        log._files[path] = Full(path, "a")
        with pytest.raises(InputError, match="no space left"):
            log._write(path, "b.png,2.0,\n")
        assert path.read_bytes() == before
    log.close()


@pytest.mark.parametrize("gone", [shutil.rmtree, lambda path: path.rename(f"{path}-moved")])
def test_a_folder_that_goes_meanwhile_is_no_place_for_scores(tmp_path, gone):
    log = ScoredFiles(tmp_path / "run", {}, resume=False)
    gone(tmp_path / "run")
    said = r"predictions\.csv was removed or moved meanwhile; leave it there .* another hydra\.run"
    with pytest.raises(InputError, match=said):
        log.add(Version("a.png", 1, 0), {"score": 1.0})
    log.close()


def test_a_resumed_folder_takes_whole_lines_alone(tmp_path):
    model, version = {"ckpt": "a"}, Version("x,\n\udcff.png", 1, 2)
    first = ScoredFiles(tmp_path, model, resume=True)
    found = {"score": 1.5, "p_value": 0.1, "decision": "anomalous", "threshold": 1.0}
    first.add(version, {**found, "picture": "heatmaps/x.png"})
    first.add(Version("b.png", 3, 4), {"error": "broken"})
    first.close()
    whole, table = (tmp_path / f"predictions.{x}" for x in ("jsonl", "csv"))
    content, cells = whole.read_bytes(), table.read_bytes()
    for cut in range(len(content)):
        whole.write_bytes(content[:cut])
        table.write_bytes(cells[: cut // 2])
        again = ScoredFiles(tmp_path, model, resume=True)
        again.close()
        assert len(again.done) == content[:cut].count(b"\n") == again.counts.total()
        assert whole.read_bytes() == content[: content[:cut].rfind(b"\n") + 1]
        assert table.read_bytes() == (
            cells if version.path in again.done else csv_text(COLUMNS, ()).encode()
        )
    with pytest.raises(InputError, match="another model"):
        ScoredFiles(tmp_path, {"ckpt": "b"}, resume=True)


def test_damaged_lines_cost_no_others(tmp_path, caplog):
    def add(log, name):
        log.add(Version(name, 1, 0), {"score": 1.0, "p_value": None, "decision": "good"})

    log, file = ScoredFiles(tmp_path, {}, resume=True), tmp_path / "predictions.jsonl"
    for name in "abcd":
        add(log, name)
    log.close()
    first, second, third, last = file.read_bytes().splitlines(keepends=True)
    strange = b'{"path": ["b"], "size": 1, "mtime_ns": 0, "error": ""}\n'
    cut = b'{"path": "b", "size": 1, "mtime_ns": 0}\n'
    for other in (bytes(len(second)), b"{}\n", b"[]\n", strange, cut):
        ended = other.endswith(b"\n")  # else the next line is lost with it
        file.write_bytes(first + other + third + last + b'{"path": "e')
        caplog.clear()
        log = ScoredFiles(tmp_path, {}, resume=True)
        kept = [first, *[third] * ended, last]
        assert file.read_bytes() == b"".join(kept) and log.counts == {"good": len(kept)}
        assert [*log.done] == ["a", *"c" * ended, "d"] == [row["path"] for row in rows(tmp_path)]
        (said,) = caplog.messages
        assert f"{file}: 1 line(s), the first 2, could not be read" in said
        log.close()
    add(log := ScoredFiles(tmp_path, {}, resume=True), "b")
    log.close()
    assert [line["path"] for line in lines(tmp_path)] == ["a", "c", "d", "b"]


@pytest.mark.parametrize("content", [None, b"", bytes(80), b"{"])
def test_a_damaged_model_json_is_not_called_another_model(tmp_path, content):
    ScoredFiles(tmp_path, {}, resume=True).close()
    about = tmp_path / "model.json"
    about.unlink() if content is None else about.write_bytes(content)
    with pytest.raises(InputError) as error:
        ScoredFiles(tmp_path, {}, resume=True)
    said = str(error.value)
    assert f"{about} is not as it was written (" in said and "another hydra.run.dir" in said
    assert "another model" not in said and "delete" not in said
    assert (tmp_path / "predictions.jsonl").exists() and not (tmp_path / "coco.json").exists()


def test_a_watch_is_on_the_disk_with_each_line(tmp_path, monkeypatch):
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(file), sync(file)))
    for resume, times in ((True, 3), (False, 0)):
        log = ScoredFiles(tmp_path / str(resume), {}, resume)
        handle = log._files[log.json].fileno()
        synced.clear()
        for n in range(3):
            log.add(Version(f"{n}.png", 1, 0), {"score": 1.0, "decision": "good"})
        assert synced == [handle] * times
        log.close()
        assert len(synced) == times + 2


def test_a_resumed_folder_keeps_of_each_line_its_cells_alone(tmp_path):
    ScoredFiles(tmp_path, {}, resume=True).close()
    found = {"score": 1.5, "p_value": 0.1, "decision": "good", "regions": [0] * 1000}
    line = json.dumps({"path": "a.png", "size": 1, "mtime_ns": 2, **found}) + "\n"
    (tmp_path / "predictions.jsonl").write_text(line * 1000)
    tracemalloc.start()
    try:
        again = ScoredFiles(tmp_path, {}, resume=True)
        read_lines(tmp_path / "predictions.jsonl")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    again.close()
    assert again.counts["good"] == len(rows(tmp_path)) == 1000 and peak < 300 * len(line)


def test_what_watch_has_scored_is_not_erased_by_a_run_without(tmp_path):
    ScoredFiles(tmp_path, {"ckpt": "a"}, resume=True).close()
    with pytest.raises(InputError, match="add watch=true"):
        ScoredFiles(tmp_path, {"ckpt": "a"}, resume=False)
    ScoredFiles(tmp_path, {"ckpt": "a"}, resume=True).close()
    for resume in (False, False, True):  # the watch takes up what a run without has scored
        ScoredFiles(tmp_path / "new", {"ckpt": "a"}, resume).close()
    with pytest.raises(InputError, match="add watch=true"):
        ScoredFiles(tmp_path / "new", {"ckpt": "a"}, resume=False)


@pytest.mark.parametrize("size", [(1, 1), (300, 4), (2, 900)])
def test_a_thin_picture_gets_its_boxes(size):
    where = [Position(0, 0, (0, 0, 8, 8), 3.0, 0.6), Position(7, 7, (56, 56, 64, 64), 2.0, 0.4)]
    why = Explanation(3.0, {"layer 1": 3.0}, where, np.zeros((1, 8, 8)))
    drawn = boxed(np.zeros((*size, 3), np.uint8), why, (64, 64))
    assert drawn.shape == (*size, 3) and drawn.any()


def test_an_overlay_shows_the_contour(tmp_path):
    map = np.zeros((8, 8), np.float32)
    map[2:6, 2:6] = 2
    ring = contour(map >= 1)
    assert ring.sum() == 12 and not ring[3:5, 3:5].any()
    view = View((300, 300), (60, 60, 180, 180))  # the picture is half its size
    found = Prediction(2.0, None, True, map, 1.0, 1.0, None, find(map, 1.0, view), view)
    image = np.full((150, 150, 3), 100, np.uint8)
    caption = caption_of(found, "Prüf ×.png")
    assert caption == ["Prüf ×.png", "score 2.00, threshold 1.00: defective"]

    def drawn(**more):
        png = side_by_side(image, Heat(map, view, (0, 2), 1.0, **more), caption)
        whole = pixels(io.BytesIO(png))
        assert whole.shape[0] > 160 and (whole[:150, :150] == 100).all()
        return whole[:150, 150 + GAP :][:, :150]

    heat = drawn()
    grey = (heat == 50).all(axis=2)  # what was not seen
    assert not grey[30:90, 30:90].any() and 0.9 < grey.sum() / (150**2 - 60**2) <= 1
    assert (heat == (0x56, 0xB4, 0xE9)).all(axis=2)[43:47, 55:65].any()
    grey = (drawn(roi=map > 0) == 50).all(axis=2)  # nor counted
    assert grey[32:40, 32:40].all() and not grey[50:70, 50:70].any()
    truth = np.zeros((8, 8), bool)
    truth[1, 1] = True
    assert (drawn(truth=truth) == (0xF0, 0xE4, 0x42)).all(axis=2)[35:47, 35:47].any()
    assert colours(np.array([2.0, 4.0]), 4.0) == (1.5, 6.0) and colours(None, None) is None
