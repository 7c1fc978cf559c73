"""A projection, a dataset and a backbone of one's own, as docs/own.md shows them."""

import csv
import json

import pytest
from _helpers.cli import ROOT, TINY
from _helpers.trees import build_tree

OWN = ["--config-dir", str(ROOT / "examples" / "conf")]
PATH = {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def here(tmp_path_factory, zygote):
    folder = tmp_path_factory.mktemp("own")
    build_tree(folder / "data", train=8, test={"good": 4, "crack": 3})
    data = folder / "data"
    files = [*sorted(data.glob("train/*/*.png")), *sorted(data.glob("test/*/*.png"))]
    rows = [(file.relative_to(data), file.parent.name) for file in files]
    with (data / "labels.csv").open("w", newline="") as table:
        csv.writer(table).writerows([("file", "kind"), *rows])
    args = [*OWN, *TINY, "proj=hash", "backbone=plain_cnn", "backbone.weights=random"]
    args = [*[a for a in args if a != "data=folder"], "data=table", "data.test_good=4"]
    args = [a for a in args if a not in ("proj=jl", "backbone=resnet18")]
    result = zygote.run(args, folder, PATH)
    assert result.code == 0, result.err
    return folder


def test_all_three_are_what_ran(here):
    found = json.loads((here / "run" / "metrics.json").read_text())
    assert (found["proj"], found["backbone"]) == ("hash", "plain_cnn")
    assert found["embedding_dim"] == 32 + 64 + 128
    assert (found["data"], found["fit/images"], found["test/images"]) == ("table/data", 8, 7)
    assert found["test/image_auroc"] is not None and found["test/pixel_auroc"] is None


def test_their_checkpoint_comes_back_where_they_are_imported(zygote, here):
    args = ["mode=predict", "ckpt=run/model.ckpt", "images=data/test", "trainer=cpu"]
    result = zygote.run(
        [*OWN, *args, "proj=hash", "backbone=plain_cnn", "hydra.run.dir=p"], here, PATH
    )
    assert result.code == 0, result.err
    with (here / "run" / "predictions.csv").open(newline="") as file:
        tested = {row["path"]: float(row["score"]) for row in csv.DictReader(file)}
    with (here / "p" / "predictions.csv").open(newline="") as file:
        again = {row["path"]: float(row["score"]) for row in csv.DictReader(file)}
    shared = tested.keys() & again.keys()
    assert len(shared) >= 3
    assert all(again[path] == pytest.approx(tested[path], rel=1e-5) for path in shared)
    result = zygote.run([*args, "hydra.run.dir=q"], here, PATH)
    assert result.code == 1 and "plain_cnn" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_module_that_is_not_there_is_one_line(zygote, here):
    result = zygote.run([*TINY, "proj._target_=nowhere.Thing", "hydra.run.dir=x"], here)
    assert result.code == 1 and "proj._target_=nowhere.Thing" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_table_that_is_not_there_is_one_line(zygote, here):
    args = [a for a in TINY if a != "data=folder"]
    result = zygote.run([*OWN, *args, "data=table", "data.table=no.csv"], here, PATH)
    assert result.code == 1 and "no.csv" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_sweep_in_one_pass_does_the_others_where_it_cannot_nest(zygote, here):
    args = [*OWN, *TINY, "data=table", "data.test_good=4", "proj=hash", "experiment=ablation"]
    args = [a for a in args if a not in ("data=folder", "proj=jl", "dim=8", "hydra.run.dir=run")]
    result = zygote.run(
        [*args, "projs=[hash,jl]", "dims=[2,4]", "seeds=[0]", "hydra.run.dir=sweep"], here, PATH
    )
    assert result.code == 1 and "hash: a smaller dim is another draw" in result.err
    assert "Traceback" not in result.err
    with (here / "sweep" / "sweep.csv").open(newline="") as file:
        assert {(row["proj"], row["dim"]) for row in csv.DictReader(file)} == {
            ("jl", "2"),
            ("jl", "4"),
        }
