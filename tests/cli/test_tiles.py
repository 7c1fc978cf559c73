"""tiles= on the command line: the fit, a test of its checkpoint, and what is refused."""

import json
from types import SimpleNamespace

import pytest
from _helpers.cli import TINY
from _helpers.trees import build_tree, save_image

from padim_lit.cli.fit_notes import patch_pixels
from padim_lit.data.datasets.folder import Folder

LARGE = [*TINY, "image_size=[192,128]", "crop_size=null"]


@pytest.mark.slow
def test_a_fit_by_tiles_and_its_checkpoint(zygote, tmp_path):
    build_tree(tmp_path / "data", train=6)
    result = zygote.run([*LARGE, "tiles=[3,2]"], tmp_path)
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["grid"] == [24, 16] and found["patch_pixels"] == [1.3, 2.5]  # of 40×32 pixels
    again = [*LARGE, "ckpt=run/model.ckpt", "hydra.run.dir=again"]
    result = zygote.run([*again, "tiles=1"], tmp_path)
    assert result.code == 1 and "backbone.tiles is [3, 2] there and [1, 1] here" in result.err
    assert zygote.run(again, tmp_path).code == 0
    tables = [(tmp_path / name / "predictions.csv").read_text() for name in ("run", "again")]
    assert tables[0] == tables[1]
    result = zygote.run([*LARGE, "tiles=5"], tmp_path)
    assert result.code == 1 and "set image_size=[160,160]" in result.err


def test_a_patch_is_measured_in_the_photos_of_all_cameras(tmp_path):
    build_tree(tmp_path, train=6)  # 40×32 pixels
    save_image(tmp_path / "train/good/000.png", (30, 24), seed=7)  # first, and smallest
    save_image(tmp_path / "train/good/003.png", (400, 240), seed=8)
    data = Folder(tmp_path, image_size=[64, 64], crop_size=None, num_workers=0)
    detector = SimpleNamespace(map_grid=(8, 8))
    assert patch_pixels(data, detector) == [30.0, 50.0]
