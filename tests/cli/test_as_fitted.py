"""ckpt=: what was not typed is the checkpoint's, and nothing but test images is needed."""

import csv
import json
import shutil

from _helpers.cli import TINY
from _helpers.tables import long_table
from _helpers.trees import build_tree

OPTIONS = (
    ["density=both", "density.components=4", "density.position_weight=0.25", "seed=3"],
    ["tiles=[1,2]", "image_size=[64,128]", "crop_size=null", "density=position", "eps=0"],
    ["proj=fisher", "neighbourhood=1", "sigma=2", "image_score=max", "eps_unit=feature", "grid=4"],
    ["rotations=2", "proj=identity", "density=mixture", "density.components=3", "alignment=null"],
    ["roi=[[4,2],[30,2],[30,28],[4,28]]", "backbone.layers=[1,2]", "density.shrinkage=3"],
)
AGAIN = ["data=folder", "trainer=cpu", "logger=none", "ckpt=run/model.ckpt", "hydra.run.dir=again"]


def scores(path):
    with path.open() as file:
        return {row["path"].partition("/")[2]: row["score"] for row in csv.DictReader(file)}


@long_table("options", OPTIONS, every=3)
def test_a_test_needs_no_key_of_the_fit_and_no_training_image(zygote, tmp_path, options):
    build_tree(tmp_path / "data", train=12)
    result = zygote.run([*TINY, *options], tmp_path)
    assert result.code == 0, result.err
    known = tmp_path / "known"
    for folder in ("test", "ground_truth"):
        shutil.copytree(tmp_path / "data" / folder, known / folder)
    result = zygote.run([*AGAIN, "data.root=known"], tmp_path)
    assert result.code == 0, result.err
    assert "folder/known: 5 to test (with defects: 3 crack). Each" in result.out
    tables = [scores(tmp_path / name / "predictions.csv") for name in ("run", "again")]
    assert tables[0] == tables[1] and len(tables[0]) == 5
    found, fitted = (
        json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("again", "run")
    )
    keys = [key for key in fitted if key.startswith("test/") and "second" not in key]
    assert [found[key] for key in keys] == [fitted[key] for key in keys]


def test_what_is_typed_otherwise_is_refused(zygote, tmp_path):
    build_tree(tmp_path / "data", train=8)
    assert zygote.run([*TINY, "rotations=2"], tmp_path).code == 0
    typed = {
        "rotations=1": "rotations is 2 there and 1 here",
        "density.components=3": "density.components is 256 there and 3 here",
        "density=position": "density is both there and position here",
        "image_size=128": "image_size is 64 there and 128 here",
        "backbone.layers=[1]": "backbone.layers is [1, 2, 3] there and [1] here",
    }
    for word, said in typed.items():
        result = zygote.run([*AGAIN, "data.root=data", word], tmp_path)
        assert result.code == 1 and said in result.err and result.err.count("\n") == 1
    assert not (tmp_path / "again" / "metrics.json").exists()


def test_a_split_that_was_drawn_is_drawn_again(zygote, tmp_path):
    build_tree(tmp_path / "tree", train=1, test={"good": 12, "crack": 3}, masks=False)
    (tmp_path / "tree" / "test").rename(tmp_path / "data")
    assert zygote.run([*TINY, "seed=2"], tmp_path).code == 0
    result = zygote.run([*AGAIN, "data.root=data"], tmp_path)
    assert result.code == 0, result.err
    tables = [scores(tmp_path / name / "predictions.csv") for name in ("run", "again")]
    assert tables[0] == tables[1]
    result = zygote.run([*AGAIN, "data.root=data", "data.split_seed=0"], tmp_path)
    assert result.code == 1 and "split_seed is 2 there and 0 here" in result.err


def test_other_data_than_the_fits_may_have_no_split(zygote, tmp_path):
    build_tree(tmp_path / "tree", train=1, test={"good": 12, "crack": 3}, masks=False)
    (tmp_path / "tree" / "test").rename(tmp_path / "data")
    assert zygote.run([*TINY, "seed=2"], tmp_path).code == 0
    build_tree(tmp_path / "root" / "nut", train=1)
    shutil.rmtree(tmp_path / "root" / "nut" / "train")
    here = ["data=mvtec", "data.root=root", "data.category=nut"]
    result = zygote.run([*AGAIN, *here], tmp_path)
    assert result.code == 0, result.err
    assert "mvtec/nut: 5 to test" in result.out


def test_an_experiments_keys_are_not_passed_over(zygote, tmp_path):
    build_tree(tmp_path / "data", train=8)
    assert zygote.run(TINY, tmp_path).code == 0
    result = zygote.run([*AGAIN, "data.root=data", "experiment=padim"], tmp_path)
    assert result.code == 1 and "density is both there and position here" in result.err
    (tmp_path / "mine").mkdir()
    text = (tmp_path / "run" / "config.yaml").read_text().replace("eps: 0.01", "eps: 0.1")
    (tmp_path / "mine" / "config.yaml").write_text(text)
    again = ["-cp", "mine", "-cn", "config", "ckpt=run/model.ckpt", "hydra.run.dir=again"]
    result = zygote.run(again, tmp_path)
    assert result.code == 1 and "eps is 0.01 there and 0.1 here" in result.err


def test_a_test_without_test_images_is_refused(zygote, tmp_path):
    build_tree(tmp_path / "data", train=8)
    assert zygote.run(TINY, tmp_path).code == 0
    (tmp_path / "known" / "test").mkdir(parents=True)
    result = zygote.run([*AGAIN, "data.root=known"], tmp_path)
    assert result.code == 1 and "no test images" in result.err
