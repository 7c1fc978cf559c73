"""experiment=ablation through the command line."""

import csv
import json

import pytest
from cli import TINY
from trees import build_tree

ABLATION = [
    *(a for a in TINY if not a.startswith(("dim=", "logger="))),
    "experiment=ablation",
    "projs=[subset,jl]",
    "dims=[3,6]",
    "seeds=[0,1]",
]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    for name in ("data", "more"):
        build_tree(folder / name, train=6, test={"good": 3, "crack": 3})
    return folder


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_writes_a_row_a_configuration_and_equals_a_run(here, zygote):
    out = zygote.run([*ABLATION, "hydra.run.dir=one"], here)
    assert out.code == 0, out.err
    found = rows(here / "one" / "sweep.csv")
    assert [(r["proj"], r["dim"], r["seed"]) for r in found] == [
        (p, d, s) for p in ("subset", "jl") for s in "01" for d in "36"
    ]
    assert "±" in out.out
    scores = rows(here / "one" / "scores.csv")
    assert len(scores) == 6
    assert set(scores[0]) == {"path", "label"} | {
        f"{p}-{d}-{s}" for p in ("subset", "jl") for d in (3, 6) for s in (0, 1)
    }
    assert not (here / "one" / "features").exists()
    single = zygote.run([*TINY, "proj=jl", "dim=3", "hydra.run.dir=single"], here)
    assert single.code == 0, single.err
    results = json.loads((here / "single" / "metrics.json").read_text())
    row = next(r for r in found if (r["proj"], r["dim"], r["seed"]) == ("jl", "3", "0"))
    for metric in ("test/image_auroc", "test/image_ap", "test/pixel_auroc"):
        assert float(row[metric]) == pytest.approx(results[metric], abs=1e-5)
    predicted = [float(r["score"]) for r in rows(here / "single" / "predictions.csv")]
    assert [float(r["jl-3-0"]) for r in scores] == pytest.approx(predicted, rel=1e-4)


def test_several_datasets_are_one_multirun(here, zygote):
    args = [a for a in ABLATION if not a.startswith("data.root=")]
    out = zygote.run(["-m", *args, "data.root=data,more", "hydra.sweep.dir=many"], here)
    assert out.code == 0, out.err
    found = rows(here / "many" / "sweep.csv")
    assert len(found) == 16
    assert {r["status"] for r in found} == {"done"}
    assert {r["data.root"] for r in found} == {"data", "more"}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("projs=[pca]", "projs: no 'pca'; allowed: subset"),
        ("dims=[]", "dims=[]: give each value once"),
        ("sigma=-1", "sigma=-1"),
        ("eps=nan", "eps=nan"),
        ("ckpt=model.ckpt", "leave out ckpt"),
        ("logger=tensorboard", "to no logger: leave it out"),
        ("trainer.precision=bf16-mixed", "leave out ckpt"),
        ("seeds=[18446744073709551616]", "seed=18446744073709551616: must be between 0"),
        ("max_memory_gb=0.00001", "max_memory_gb="),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(here, zygote, extra, message):
    out = zygote.run([*ABLATION, extra, "hydra.run.dir=bad"], here)
    assert out.code != 0
    (line,) = out.err.strip().splitlines()[-1:]
    assert line.startswith("error: ")
    assert message in line
    assert "Traceback" not in out.err
    assert not (here / "bad" / "sweep.csv").exists()
    assert not (here / "bad" / "features").exists()
