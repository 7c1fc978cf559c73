"""The card beside a checkpoint: what the model is, decides, was tested on, and was not."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from _helpers.cli import TINY
from _helpers.trees import build_tree, save_image, save_mask

from padim_lit.checkpoint.format import sha256_of
from padim_lit.checkpoint.state import load_detector
from padim_lit.deploy.model_card import is_card_of, model_card


@pytest.fixture(scope="module")
def here(tmp_path_factory, zygote) -> Path:
    folder = tmp_path_factory.mktemp("here")
    build_tree(folder / "data", train=24, test={"good": 4, "crack": 3, "hole|x": 2})
    save_mask(folder / "data/ground_truth/crack/001_mask.png", box=None)
    save_mask(folder / "data/ground_truth/crack/002_mask.png", box=(0, 3, 3, 9))  # beside the crop
    result = zygote.run([*TINY, "false_alarm_rate=0.2"], folder)
    assert result.code == 0, result.err
    return folder


def test_a_fit_says_what_it_was_tested_on_and_what_not(here):
    card = (here / "run" / "model_card.md").read_text()
    found = json.loads((here / "run" / "metrics.json").read_text())
    assert card.startswith("# padim_lit model: folder/data\n")
    assert "| fitted on | 24 good images of folder/data |" in card
    assert "| density | both |" in card and "| neighbourhood | 3 |" in card
    assert "64×64 pixels, resized to 64, centre crop 64" in card
    assert f"By threshold {found['threshold']:.4g}, which about 20.00% of good images" in card
    assert "On 4 good and 5 defective images of folder/data. Kinds: crack (3), hole|x (2)." in card
    assert f"At the threshold {found['test/false_alarms']} of 4 good images are called" in card
    with (here / "run/predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == "1"]
    missed = Counter(row["kind"] for row in rows if row["decision"] == "good")
    kinds = [
        {"kind": k, "images": n, "misses": missed[k]} for k, n in (("crack", 3), ("hole|x", 2))
    ]
    assert found["threshold_misses"] == kinds
    assert f"By kind: {missed['crack']} of 3 crack, {missed['hole|x']} of 2 hole|x." in card
    assert f"| {found['test/image_auroc']:.4f} |" in card and "pixel" in card
    assert f"| pixel AUPRO, of 3 of 5 defective images | {found['test/pixel_aupro']:.4f} |" in card
    limits = card.partition("## Not tested")[2]
    assert "Other kinds of defects" in limits and "outside the centre crop" in limits
    assert "weights are random" in limits
    assert f"| data_sha256 | {found['data_sha256']} |" in card
    assert is_card_of(card, sha256_of(here / "run/model.ckpt"))
    assert found["model_sha256"] == sha256_of(here / "run/model.ckpt") and found["written"]


@pytest.mark.slow
def test_a_fit_that_fails_leaves_no_card_of_the_one_before(zygote, here):
    for name in ("data", "broken"):
        build_tree(here / name, train=24, test={"good": 4, "crack": 3})
    photo = next((here / "broken/test/good").iterdir())
    photo.write_bytes(photo.read_bytes()[:-60])
    args = [*TINY[:-1], "false_alarm_rate=0.2", "hydra.run.dir=twice"]
    assert zygote.run(args, here).code == 0
    assert (here / "twice/model_card.md").exists()
    result = zygote.run([*args, "data.root=broken", "full_check=0"], here)
    assert result.code == 1 and photo.name in result.err
    assert not (here / "twice/model_card.md").exists()


def test_a_history_from_elsewhere_may_hold_anything(here):
    detector = load_detector(here / "run/model.ckpt")
    detector.provenance["history"] = [{"mode": ["fit"]}, "update"]
    assert "changed since then" not in model_card(detector)
    detector.provenance["history"].append({"mode": "update"})
    assert "changed since then" in model_card(detector)


@pytest.mark.slow
def test_a_changed_model_was_not_tested(zygote, here):
    for n in range(3):
        save_image(here / "more" / f"{n}.png", seed=90 + n)
    args = ["mode=update", "ckpt=run/model.ckpt", "images=more", "trainer=cpu"]
    result = zygote.run([*args, "hydra.run.dir=new"], here)
    assert result.code == 0, result.err
    card = (here / "new" / "model_card.md").read_text()
    assert "27 good images of folder/data, changed since then" in card
    assert "no threshold; mode=calibrate" in card and "It was not tested." in card
    assert "Any defect" in card
    # A run that only loads a model leaves that model's card alone.
    args = [*TINY, "ckpt=run/model.ckpt", "hydra.run.dir=again"]
    assert zygote.run(args, here).code == 0
    assert not (here / "again" / "model_card.md").exists()
