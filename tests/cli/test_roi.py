"""roi=: what lies outside counts neither for scores nor for thresholds nor metrics."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from _helpers.cli import RESNET18
from _helpers.tables import long_table
from _helpers.trees import build_tree, save_mask
from PIL import Image

import padim_lit
from padim_lit.checkpoint.state import load_detector
from padim_lit.cli.roi import read_roi
from padim_lit.data import Folder
from padim_lit.deploy.calibration import recalibrate

# PaDiM's own: a score is its map's peak, and a position's Gaussian knows nothing of the others.
TINY = [*RESNET18, "image_score=max", "density=position", "neighbourhood=1", "eps_unit=feature"]
POLYGON = "roi=[[4,2],[30,2],[30,28],[4,28]]"


@pytest.fixture(scope="module")
def here(tmp_path_factory, zygote) -> Path:
    folder = tmp_path_factory.mktemp("here")
    build_tree(folder / "data", train=24, test={"good": 4, "crack": 3})
    # In what the crop shows, columns 4 to 36, and beside the region.
    save_mask(folder / "data/ground_truth/crack/002_mask.png", box=(32, 3, 35, 7))
    mask = np.zeros((32, 40), np.uint8)  # as the images
    mask[2:29, 4:31] = 255
    Image.fromarray(mask).save(folder / "roi.png")
    Image.fromarray(mask.T).save(folder / "turned.png")
    Image.fromarray(0 * mask).save(folder / "empty.png")
    result = zygote.run([*TINY, "roi=roi.png", "false_alarm_rate=0.2"], folder)
    assert result.code == 0, result.err
    assert "Region of interest: " in result.out
    return folder


@pytest.mark.slow
def test_the_checkpoint_holds_it_and_scores_with_it(zygote, here):
    model = padim_lit.load(here / "run" / "model.ckpt", device="cpu")
    roi = model.detector.anomaly_map.roi.numpy()
    assert roi.shape == (64, 64) and 0.3 < roi.mean() < 0.8
    files = sorted((here / "data" / "test").rglob("*.png"))
    results = json.loads((here / "run" / "metrics.json").read_text())
    assert results["test/pixel_defective"] == 2  # the third lies beside the region
    assert results["roi_share"] == pytest.approx(roi.mean())
    assert results["patch_pixels"] == [4, 4]  # 8 × 8 patches on the middle 32 × 32 of 40 × 32
    for found in model(files):
        assert not found.map[~roi].any() and found.map[roi].all()
        assert found.score == found.map.max()
        why = model.explain(found.path)
        assert sum(why.layers.values()) == pytest.approx(1, abs=1e-4)
        assert why.score == pytest.approx(found.score, rel=1e-4)
    # Thresholds come of such scores too.
    known = load_detector(here / "run" / "model.ckpt").calibration
    plain = zygote.run([*TINY, "hydra.run.dir=plain", "false_alarm_rate=0.2"], here)
    assert plain.code == 0
    whole = load_detector(here / "plain" / "model.ckpt").calibration
    assert known.scores.mean() < whole.scores.mean()
    assert recalibrate(known, 0.2).threshold < recalibrate(whole, 0.2).threshold


@pytest.mark.slow
def test_a_polygon_is_the_same_and_a_test_takes_the_checkpoints(zygote, here):
    result = zygote.run([*TINY, POLYGON, "hydra.run.dir=polygon"], here)
    assert result.code == 0, result.err
    first, second = (
        load_detector(here / name / "model.ckpt").anomaly_map.roi for name in ("run", "polygon")
    )
    assert torch.equal(first, second)
    again = [*TINY, "ckpt=run/model.ckpt", "hydra.run.dir=again"]
    assert zygote.run(again, here).code == 0
    tables = [(here / name / "predictions.csv").read_text() for name in ("run", "again")]
    assert tables[0] == tables[1]
    assert zygote.run([*again, "roi=roi.png"], here).code == 0
    result = zygote.run([*again, "roi=[[0,0],[9,0],[9,9]]"], here)
    assert result.code == 1 and "roi is roi.png there and" in result.err
    args = ["mode=merge", "ckpts=[run/model.ckpt,plain/model.ckpt]", "repeats=count"]
    result = zygote.run([*args, "hydra.run.dir=merged"], here)
    assert result.code == 1 and "plain/model.ckpt has another roi" in result.err


@long_table(
    ("wrong", "said"),
    [
        ("roi=none.png", "none.png"),
        ("roi=turned.png", "32×40 pixels, the images have 40×32"),
        ("roi=empty.png", "nothing of it is seen"),
        ("roi=[[1,2],[3,4]]", "three or more corners"),
        ("roi=[[0,0],[1,0],[1,1]]", "nothing of it is seen"),
        ("roi=[[0,0],[40,0],[40,nan]]", "three or more corners"),
        ("roi=3", "three or more corners"),
        ("roi=roi.png rotations=4", "give one of the two"),
    ],
    every=3,
)
def test_wrong_regions_are_one_line(zygote, here, wrong, said):
    result = zygote.run([*TINY, *wrong.split(), "hydra.run.dir=wrong"], here)
    assert result.code == 1 and said in result.err and len(result.err.strip().splitlines()) == 1


def test_a_polygon_is_in_pixels_of_a_png_as_it_is_shown(tmp_path):
    """Its orientation tag is read too, which Pillow finds only when it decodes the pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (build_tree(tmp_path) / "train/good").iterdir():
        Image.effect_noise((40, 32), 80).save(path, exif=exif)
    data = Folder(tmp_path, image_size=64, crop_size=None, num_workers=0)
    roi = read_roi([[0, 20], [32, 20], [32, 40], [0, 40]], data)
    h = roi.shape[0]
    assert not roi[: h // 2 - 2].any() and roi[h // 2 + 2 :].all()
