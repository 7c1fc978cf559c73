"""experiment=ablation through the command line."""

import csv
import json

import numpy as np
import pytest
from _helpers.cli import TINY
from _helpers.tables import long_table
from _helpers.trees import build_tree

ABLATION = [
    *(a for a in TINY if not a.startswith(("proj=", "dim=", "logger="))),
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
    assert "±" in out.out and "weights are random" in out.out
    scores = rows(here / "one" / "scores.csv")
    assert len(scores) == 6
    assert set(scores[0]) == {"path", "kind", "label", "count_image"} | {
        f"{p}-{d}-{s}" for p in ("subset", "jl") for d in (3, 6) for s in (0, 1)
    }
    assert not (here / "one" / "features").exists()
    single = zygote.run([*TINY, "proj=jl", "dim=3", "hydra.run.dir=single"], here)
    assert single.code == 0, single.err
    results = json.loads((here / "single" / "metrics.json").read_text())
    row = next(r for r in found if (r["proj"], r["dim"], r["seed"]) == ("jl", "3", "0"))
    for metric in ("test/image_auroc", "test/image_ap", "test/pixel_auroc"):
        assert float(row[metric]) == pytest.approx(results[metric], abs=1e-5)
    for key in ("data_sha256", "weights_sha256", "version/padim_lit"):
        assert row[key] == results[key]
    predicted = [float(r["score"]) for r in rows(here / "single" / "predictions.csv")]
    assert [float(r["jl-3-0"]) for r in scores] == pytest.approx(predicted, rel=1e-4)


def test_configurations_are_counted_where_one_projection_has_one_dimension(here, zygote):
    few = ["grid=4", "density.components=4", "resamples=0"]  # identity keeps all channels
    args = [*ABLATION, *few, "projs=[jl,identity]", "seeds=[0]", "hydra.run.dir=counted"]
    result = zygote.run(args, here)
    assert result.code == 0, result.err
    assert "3 configurations (2 runs, each a projection with a seed)" in result.out + result.err


@pytest.mark.slow
def test_the_same_command_runs_only_the_runs_that_are_missing(here, zygote):
    args = [*ABLATION, "projs=[subset,jl,fisher]", "density=position", "hydra.run.dir=again"]
    first = zygote.run(args, here)
    assert first.code == 0, first.err
    before = {name: (here / "again" / name).read_bytes() for name in ("sweep.csv", "scores.csv")}
    (here / "again" / "runs").rename(here / "kept")
    # As a kill leaves it: one run unfinished, no results, half of the feature maps.
    (here / "again" / "runs").mkdir()
    (folder,) = (here / "kept").iterdir()
    folder.rename(here / "again" / "runs" / folder.name)
    ((here / "again" / "runs" / folder.name) / "jl-1.npz").unlink()
    for name in (*before, "rows.json", "resamples.npz"):
        (here / "again" / name).unlink()
    (here / "again" / "features" / "train").mkdir(parents=True)
    second = zygote.run(args, here)
    assert second.code == 0, second.err
    assert "4 of 5 runs are done already" in second.out + second.err
    assert "2 configurations (1 runs" in second.out + second.err

    def numbers(lines):
        # Times differ from run to run.
        return [
            {k: v for k, v in row.items() if "seconds" not in k and "ms_per" not in k}
            for row in csv.DictReader(lines)
        ]

    lines = (here / "again" / "sweep.csv").read_text().splitlines()
    assert numbers(lines) == numbers(before["sweep.csv"].decode().splitlines())
    assert (here / "again" / "scores.csv").read_bytes() == before["scores.csv"]
    third = zygote.run(args, here)
    assert "5 of 5 runs are done already" in third.out + third.err
    assert "backbone," not in third.out  # no progress bar of it: nothing was left to run
    more = zygote.run([*args, "seeds=[0,1,2]"], here)
    assert "5 of 7 runs are done already" in more.out + more.err
    other = zygote.run([*args, "eps=0.02"], here)
    assert "results of other settings or images" in other.out + other.err
    assert "done already" not in other.out + other.err


def test_a_change_of_own_code_does_an_ablation_again(here, zygote):
    (here / "conf/proj").mkdir(parents=True)
    (here / "conf/proj/mine.yaml").write_text("_target_: my_signs.Signs\n")
    code = """
from padim_lit import JL
class Signs(JL):
    name = "mine"
    def draw(self, generator):
        return super().draw(generator).sign() * FACTOR
"""
    few = ["density=position", "grid=4", "resamples=0", "dims=[3]", "seeds=[0]"]
    args = ["--config-dir", "conf", *ABLATION, *few, "hydra.run.dir=own"]
    mine = [*args, "own=[my_signs]", "proj=mine", "projs=[jl,mine]"]
    for factor, again in (("1.0", False), ("2.0", False), ("2.0", True)):
        (here / "my_signs.py").write_text(code.replace("FACTOR", factor))
        result = zygote.run(mine, here)
        assert result.code == 0, result.err
        assert ("2 of 2 runs are done already" in result.out + result.err) == again


def test_options_that_an_ablation_would_ignore_are_refused(here, zygote):
    (here / "conf/proj").mkdir(parents=True, exist_ok=True)
    text = "defaults: [/class/padim_lit.Fisher@_here_]\nshrinkage: 0.5\n"
    (here / "conf/proj/mild.yaml").write_text(text)
    words = ["--config-dir", "conf", *ABLATION, "proj=mild", "hydra.run.dir=x"]
    for projs, said in (("[fisher]", "draws all with their class's"), ("[jl]", "does not use it")):
        result = zygote.run([*words, f"projs={projs}"], here)
        assert result.code == 1 and not (here / "x" / "sweep.csv").exists()
        assert said in result.err, result.err


@pytest.mark.slow  # as the test before, which it reads the results of
def test_what_no_seed_changes_has_a_row_for_every_seed(here):
    found = [r for r in rows(here / "again" / "sweep.csv") if r["proj"] == "fisher"]
    assert [(r["dim"], r["seed"]) for r in found] == [(d, s) for s in "01" for d in "36"]
    assert len({r["test/image_auroc"] for r in found if r["dim"] == "3"}) == 1
    with np.load(here / "again" / "resamples.npz", allow_pickle=False) as saved:
        assert len(saved.files) == 12
        assert saved["jl-3-0"].shape == (2, 1000) and saved["jl-3-0"].dtype == np.float32


@pytest.mark.slow
def test_a_learnt_projection_has_a_run_for_every_draw_of_centroids(here, zygote):
    # seed=1 draws the backbone's weights, for all of the ablation's seeds.
    how = ["seed=1", "density=mixture", "density.components=4"]
    args = [*ABLATION, "projs=[fisher]", "dims=[3]", *how]
    out = zygote.run([*args, "hydra.run.dir=centroids"], here)
    assert out.code == 0, out.err
    found = rows(here / "centroids" / "sweep.csv")
    assert [r["seed"] for r in found] == ["0", "1"]
    scores = rows(here / "centroids" / "scores.csv")
    assert [r["fisher-3-0"] for r in scores] != [r["fisher-3-1"] for r in scores]
    alone = [*TINY, "proj=fisher", "dim=3", *how]
    single = zygote.run([*alone, "hydra.run.dir=centroids_of_1"], here)
    assert single.code == 0, single.err
    predicted = [float(r["score"]) for r in rows(here / "centroids_of_1" / "predictions.csv")]
    assert [float(r["fisher-3-1"]) for r in scores] == pytest.approx(predicted, rel=1e-4)


@pytest.mark.slow
def test_results_of_other_settings_do_not_outlive_a_run_that_fails(here, zygote):
    again = [*ABLATION, "dims=[3]", "grid=4", "hydra.run.dir=replaced"]
    assert zygote.run(again, here).code == 0
    failing = zygote.run([*again, "sigma=2", "projs=[subset]", "dims=[449]"], here)
    assert failing.code == 1 and "they are removed" in failing.out
    left = {path.name for path in (here / "replaced").iterdir()}
    assert not left & {"rows.json", "sweep.csv", "scores.csv", "scores.npz", "resamples.npz"}


@pytest.mark.slow
def test_a_run_that_fails_does_not_take_the_others_with_it(here, zygote):
    # The network has 272 channels; few positions, because each has a large covariance.
    out = zygote.run([*ABLATION, "dims=[3,449]", "grid=4", "hydra.run.dir=failing"], here)
    assert out.code == 1
    (line,) = out.err.strip().splitlines()[-1:]
    which = "subset with seed 0, subset with seed 1"
    assert line.startswith(f"error: 2 of 8 configurations failed; {which}: dim=449 exceeds")
    found = rows(here / "failing" / "sweep.csv")
    assert {(r["proj"], r["dim"]) for r in found} == {("subset", "3"), ("jl", "3"), ("jl", "449")}


def test_an_absolute_eps_that_is_nothing_or_everything_is_said_of_each_projection(here, zygote):
    few = ["density=position", "grid=4", "resamples=0", "dims=[3]", "hydra.run.dir=eps"]
    for _ in range(2):  # the second time from what the first one has kept
        done = zygote.run([*ABLATION, *few, "eps_unit=feature", "eps=1e6"], here)
        assert done.code == 0, done.err
        said = " ".join(done.out.split())
        assert said.count("times the mean variance") == 2
        for proj in ("subset", "jl"):
            assert f"(proj={proj} dim=3), larger than it, so it decides" in said
    assert "times the mean variance" not in zygote.run([*ABLATION, *few, "eps=1e6"], here).out


@pytest.mark.slow
def test_statistics_that_cannot_be_factored_end_one_run_alone(here, zygote):
    (here / "before.py").write_text(
        "import torch\n"
        "from padim_lit.sweep.ablation import Ablation\n"
        "whole = Ablation.measure\n"
        "def measure(self, run, *more):\n"
        "    if run.proj == 'subset':\n"
        "        raise torch.linalg.LinAlgError('eigh: failed to converge')\n"
        "    return whole(self, run, *more)\n"
        "Ablation.measure = measure\n"
    )
    fault = {"BEFORE_RUN": str(here / "before.py")}
    out = zygote.run([*ABLATION, "hydra.run.dir=degenerate"], here, fault)
    assert (
        out.code == 1 and "error: 4 of 8 configurations failed" in out.err.strip().splitlines()[-1]
    )
    assert {r["proj"] for r in rows(here / "degenerate" / "sweep.csv")} == {"jl"}


@pytest.mark.slow
def test_several_datasets_are_one_multirun(here, zygote):
    args = [a for a in ABLATION if not a.startswith("data.root=")]
    out = zygote.run(["-m", *args, "data.root=data,more", "hydra.sweep.dir=many"], here)
    assert out.code == 0, out.err
    found = rows(here / "many" / "sweep.csv")
    assert len(found) == 16
    assert {r["status"] for r in found} == {"done"}
    assert {r["data.root"] for r in found} == {"data", "more"}


@long_table(
    ("extra", "message"),
    [
        ("projs=[umap]", "projs=umap: unknown; allowed: subset"),
        ("dims=[]", "dims=[]: give each value once"),
        ("sigma=-1", "sigma=-1"),
        ("eps=nan", "eps=nan"),
        ("ckpt=model.ckpt", "ckpt is no key of mode=ablation"),
        ("logger=tensorboard", "logger is no key of experiment=ablation, but of mode=fit"),
        ("trainer.precision=bf16-mixed", "leave out trainer.devices and trainer.precision"),
        ("seeds=[18446744073709551616]", "seed=18446744073709551616: must be between 0"),
        ("max_memory_gb=0.00001", "max_memory_gb="),
    ],
    every=3,
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
