"""Good runs through the command line: what they write, and that they can be repeated."""

import csv
import json
import re
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from statistics import mean, stdev

import pytest
import torch
import yaml
from _helpers.cli import ROOT, TINY, Result, environment, run_plain
from _helpers.tables import long_table
from _helpers.trees import build_tree
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from benchmarks.naive import PAPER, Naive
from padim_lit import Detector, PerPosition
from padim_lit.checkpoint.state import load_detector, spec_of
from padim_lit.cli.modes import MODES
from padim_lit.cli.targets import meanings

GROUPS = {"mode", "backbone", "proj", "density", "data", "trainer", "logger"}
METRICS = [
    "test/image_auroc", "test/image_ap", "test/image_f1max",
    "test/pixel_auroc", "test/pixel_ap", "test/pixel_aupro",
]  # fmt: skip
OTHERS = [
    "fit/seconds", "fit/images", "test/seconds", "test/images", "peak_memory_bytes", "backbone",
    "weights", "embedding_dim", "proj", "dim", "eps", "seed", "data", "version/torch",
    "version/lightning", "version/padim_lit", "data_sha256",
]  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    build_tree(folder / "data", train=5, test={"good": 4, "crack": 3, "spot": 2})
    return folder


@pytest.fixture(scope="module")
def first(here) -> Result:
    """One run in a process of its own; it leaves the folder first/."""
    args = [*TINY, "hydra.run.dir=first", "logger=csv"]
    result = run_plain(args, here, environment(here))
    assert result.code == 0, result.err
    return result


def again(zygote, here, name: str, *args: str) -> str:
    """The predictions.csv of another run, in the folder `name`."""
    result = zygote.run([*TINY, *args, f"hydra.run.dir={name}"], here)
    assert result.code == 0, result.err
    return (here / name / "predictions.csv").read_text()


# --- What a run leaves -----------------------------------------------------------------------


def test_metrics_are_flat_and_complete(first, here):
    metrics = metrics_of(here / "first")
    assert set(METRICS + OTHERS) <= set(metrics)
    assert all(0 <= metrics[key] <= 1 for key in METRICS)
    assert not any(isinstance(value, dict) for value in metrics.values())
    expected = {
        "fit/images": 5, "test/images": 9, "backbone": "resnet18", "weights": "random (seed 0)",
        "embedding_dim": 272, "proj": "jl", "dim": 8, "eps": 0.01, "seed": 0,
        "data": "folder/data", "version/torch": metadata.version("torch"),
    }  # fmt: skip
    assert {key: metrics[key] for key in expected} == expected
    assert metrics["peak_memory_bytes"] > 1e8 and metrics["fit/seconds"] > 0


def test_predictions_are_the_test_set_in_order(first, here):
    found = rows(here / "first" / "predictions.csv")
    expected = sorted((here / "data" / "test").glob("*/*.png"))
    kinds = [path.parent.name for path in expected]
    order = sorted(range(9), key=lambda i: (kinds[i], expected[i].name))
    assert [Path(row["path"]).parts[-2:] for row in found] == [
        expected[i].parts[-2:] for i in order
    ]
    assert [row["label"] for row in found] == [str(int(row["kind"] != "good")) for row in found]
    assert all(float(row["score"]) > 0 for row in found)


def test_image_metrics_are_scikit_learns(first, here):
    found, metrics = rows(here / "first" / "predictions.csv"), metrics_of(here / "first")
    labels = [int(row["label"]) for row in found]
    scores = [float(row["score"]) for row in found]
    f1 = max(f1_score(labels, [s >= t for s in scores]) for t in scores)
    assert metrics["test/image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    assert metrics["test/image_ap"] == pytest.approx(
        average_precision_score(labels, scores), abs=1e-6
    )
    assert metrics["test/image_f1max"] == pytest.approx(f1, abs=1e-6)


def test_heat_maps_can_be_looked_at(first, here):
    pictures = list((here / "first" / "heatmaps").glob("*.png"))
    assert len(pictures) >= 7
    for path in pictures:
        with Image.open(path) as picture:
            low, high = picture.convert("L").getextrema()
        assert low < high
    names = " ".join(path.name for path in pictures)
    assert all(
        word in names
        for word in ("overview", "highest_defect-1", "lowest_defect-1", "highest_good-1")
    )


def test_the_config_is_written_without_interpolations(first, here):
    text = (here / "first" / "config.yaml").read_text()
    config = yaml.safe_load(text)
    assert "${" not in text and config["dim"] == 8 and config["data"]["root"] == "data"
    assert config["logger"]["save_dir"] is None, "of the run, which another may not write into"


def test_the_checkpoint_opens_without_pickle(first, here):
    state = torch.load(here / "first" / "model.ckpt", weights_only=True)["padim_lit"]
    assert state["count"] == 5 and state["spec"]["dim"] == 8
    assert state["mean"].shape == (320, 8)  # 64 positions, 256 components
    assert [band.shape for band in state["scatter"]] == [(320, 8, 8)]
    assert not list((here / "first").rglob("*.part"))


def test_the_csv_logger_has_the_numbers(first, here):
    logged = rows(here / "first" / "csv" / "metrics.csv")
    metrics = metrics_of(here / "first")
    for key in METRICS:
        assert [float(row[key]) for row in logged if row.get(key)][-1] == pytest.approx(
            metrics[key], rel=1e-5
        )


def test_the_table_says_the_same_with_the_paths(first, here):
    metrics = metrics_of(here / "first")
    for name in ("image AUROC", "image AP", "image F1-max", "pixel AUROC", "pixel AP"):
        assert name in first.out
    for key in METRICS:
        assert f"{metrics[key]:.4f}" in first.out
    for name in ("metrics.json", "predictions.csv", "model.ckpt", "config.yaml", "heatmaps"):
        assert str(here / "first" / name) in first.out
    assert "weights are random: no number here says" in first.out
    assert "error" not in first.err.lower() and "Traceback" not in first.err


# --- The same again --------------------------------------------------------------------------


def scores_of(table):
    return {row["path"]: float(row["score"]) for row in csv.DictReader(table.splitlines())}


@long_table("workers", [0, 2], every=2)
def test_a_run_can_be_repeated_bit_for_bit(first, zygote, here, workers):
    expected = (here / "first" / "predictions.csv").read_text()
    assert again(zygote, here, f"workers{workers}", f"num_workers={workers}") == expected


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_the_batch_size_changes_scores_by_rounding_alone(first, zygote, here, size):
    expected = scores_of((here / "first" / "predictions.csv").read_text())
    found = scores_of(again(zygote, here, f"batch{size}", f"batch_size={size}"))
    assert found.keys() == expected.keys()
    assert found == {path: pytest.approx(score, rel=1e-5) for path, score in expected.items()}


def test_a_checkpoint_reproduces_every_score_bit_for_bit(first, zygote, here):
    expected = (here / "first" / "predictions.csv").read_text()
    assert again(zygote, here, "loaded", "ckpt=first/model.ckpt") == expected
    loaded, fitted = metrics_of(here / "loaded"), metrics_of(here / "first")
    assert {key: loaded[key] for key in METRICS} == {key: fitted[key] for key in METRICS}
    assert loaded["fit/seconds"] is None and loaded["fit/images"] == 5
    assert not (here / "loaded" / "model.ckpt").exists()
    again(zygote, here, "ignored", "ckpt=first/model.ckpt", "calibration=3")
    assert "calibration=3 is of a fit" in str(metrics_of(here / "ignored")["notes"])
    assert not any("calibration" in note for note in loaded["notes"])


@long_table(
    ("args", "words"),
    [
        ("dim=4", "dim is 8 there and 4 here"),
        ("proj=subset", "proj is jl there and subset here"),
        ("eps=0.1", "eps is 0.01 there and 0.1 here"),
        ("grid=8", "grid is auto there and 8 here"),
        ("backbone.layers=[1,2]", "backbone.layers is [1, 2, 3] there and [1, 2] here"),
        ("crop_size=32", "[32, 32] here"),
        ("backbone.model=resnet18", "backbone.model is test_resnet there"),
    ],
    every=3,
)
def test_a_checkpoint_of_another_config_is_refused(first, zygote, here, tmp_path, args, words):
    result = zygote.run(
        [*TINY, "ckpt=first/model.ckpt", args, f"hydra.run.dir={tmp_path / 'run'}"], here
    )
    assert result.code == 1
    assert result.err.startswith("error: ckpt=first/model.ckpt is of another config: ")
    assert words in result.err and result.err.count("\n") == 1
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.slow
def test_a_test_with_a_limit_counts_what_it_tested(zygote, here):
    words = [*TINY, "batch_size=3", "+trainer.limit_test_batches=1", "hydra.run.dir=limited"]
    result = zygote.run(words, here)
    assert result.code == 0, result.err
    found = metrics_of(here / "limited")
    assert found["data/test_good"] + found["data/test_defective"] == 3 == found["test/images"]
    card = (here / "limited" / "model_card.md").read_text()
    said = f"On {found['data/test_good']} good and {found['data/test_defective']} defective images"
    assert said in card


def test_scores_differ_between_seeds(first, zygote, here):
    assert again(zygote, here, "seed1", "seed=1") != (here / "first/predictions.csv").read_text()


# --- Sweeps ----------------------------------------------------------------------------------


def test_a_sweep_leaves_one_table_and_prints_the_spread_over_seeds(zygote, here):
    sweep = here / "sweep"
    result = zygote.run(
        ["-m", *TINY, "proj=subset,jl", "seed=0,1", f"hydra.sweep.dir={sweep}"], here
    )
    assert result.code == 0, result.err
    table = rows(sweep / "sweep.csv")
    assert [(row["job"], row["proj"], row["seed"]) for row in table] == [
        ("0", "subset", "0"), ("1", "subset", "1"), ("2", "jl", "0"), ("3", "jl", "1"),
    ]  # fmt: skip
    assert [row["status"] for row in table] == ["done"] * 4
    for row in table:
        metrics = metrics_of(sweep / row["job"])
        assert [float(row[key]) for key in METRICS] == [metrics[key] for key in METRICS]
        assert row["dim"] == "8" and metrics["seed"] == int(row["seed"])
    for pair in (table[:2], table[2:]):
        for key in METRICS:
            found = [float(row[key]) for row in pair]
            spread = f" ±{stdev(found):.4f}" if stdev(found) else ""  # equal ones have none
            assert f"{mean(found):.4f}{spread}" in result.out
    assert str(sweep / "sweep.csv") in result.out


@pytest.mark.slow
def test_the_preset_is_padim_as_it_is_usually_written(zygote, here):
    typed = [w for w in TINY if not w.startswith(("proj=", "hydra.run.dir="))]
    for proj, *words in (["subset"], ["jl", "proj=jl"]):
        more = ["calibration=0", "logger=none", f"hydra.run.dir=padim_{proj}"]
        done = zygote.run([*typed, "experiment=padim", *words, *more], here)
        assert done.code == 0, done.err
        found = load_detector(here / f"padim_{proj}/model.ckpt")
        assert found.projection.name == proj
        how = {"density": PerPosition(8), "grid": None, **PAPER}
        paper = Detector(found.backbone, found.projection, (64, 64), **how)
        assert spec_of(found) == spec_of(paper)
    found = load_detector(here / "padim_subset/model.ckpt")
    found.reset()
    good, other = torch.rand(12, 3, 64, 64), torch.rand(3, 3, 64, 64)
    found.set_state(found.update_state(found.empty_state(), {"image": good}))
    naive = Naive(found.projection.matrix.argmax(dim=1))
    with torch.no_grad():
        naive.collect(found.backbone(good))
        naive.fit()
        expected = naive.distances(found.backbone(other))
        torch.testing.assert_close(found.distances(other), expected, rtol=1e-3, atol=1e-3)


def test_a_failing_job_leaves_the_others_alone_and_is_reported(zygote, here):
    sweep = here / "failing"
    result = zygote.run(["-m", *TINY, "proj=subset", "dim=449,8", f"hydra.sweep.dir={sweep}"], here)
    assert result.code == 1
    assert result.err.rstrip().splitlines()[-1].startswith("error: 1 of 2 jobs failed")
    assert "Job 0 failed" in result.out and "dim=449 exceeds" in result.out
    assert "Traceback" not in result.out + result.err
    table = rows(sweep / "sweep.csv")
    assert [row["status"] for row in table] == ["failed", "done"]
    assert "dim=449 exceeds" in table[0]["error"] and table[0]["test/image_auroc"] == ""
    assert float(table[1]["test/image_auroc"]) == metrics_of(sweep / "1")["test/image_auroc"]
    assert {path.name for path in (sweep / "0").iterdir()} == {".hydra", "failed.json", "run.log"}


@pytest.mark.slow
def test_the_other_projections_run_on_a_coarser_grid(zygote, here):
    sweep, names = here / "projections", ["orthogonal", "sparse", "identity"]
    choice = f"proj={','.join(names)}"
    few = ["grid=4", "density.components=4"]  # identity keeps all channels
    result = zygote.run(["-m", *TINY, choice, *few, f"hydra.sweep.dir={sweep}"], here)
    assert result.code == 0, result.err
    for job, name in enumerate(names):
        metrics = metrics_of(sweep / str(job))
        assert metrics["proj"] == name and metrics["grid"] == [4, 4]
        assert metrics["dim"] == (272 if name == "identity" else 8)
        assert 0 <= metrics["test/pixel_auroc"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("option", [["--config-path", "first"], ["--config-path=first/.hydra"]])
def test_the_config_of_a_run_runs_again(first, zygote, here, option):
    before = (here / "first" / "csv").stat().st_mtime
    result = zygote.run([*option, "--config-name", "config", "hydra.run.dir=anew"], here)
    assert result.code == 0, result.err
    expected = (here / "first" / "predictions.csv").read_text()
    assert (here / "anew" / "predictions.csv").read_text() == expected
    assert (here / "anew" / "csv").is_dir() and (here / "first" / "csv").stat().st_mtime == before
    short = zygote.run(["-cp=first", "-cn=config", "--cfg=job"], here)
    assert short.code == 0, short.err
    here_too = zygote.run([*option, "--config-name", "config", "dim=abc"], here)
    assert here_too.err.splitlines()[-1].startswith("error:") and "dim" in here_too.err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("+format=onnx", "format is no key of mode=fit"),
        ("logger=tensorboard", "logger=tensorboard: a saved config knows no files of conf/logger"),
    ],
)
def test_a_config_of_a_run_with_a_word_that_it_does_not_take(first, zygote, here, word, message):
    options = ["--config-path", "first", "--config-name", "config", word]
    result = zygote.run([*options, "hydra.run.dir=none"], here)
    assert result.code == 1 and message in result.err and "Traceback" not in result.err


@long_table(
    ("text", "reason"),
    [
        (b"a: [1", "expected ',' or ']'"),
        (b"# gr\xf6sse", "invalid start byte"),
        (b"a: " + b"[" * 3000, "recursion"),
    ],
    every=3,
)
def test_a_config_that_is_no_yaml_is_one_line(zygote, tmp_path, text, reason):
    (tmp_path / "odd.yaml").write_bytes(text)
    result = zygote.run(["--config-path", ".", "--config-name", "odd"], tmp_path)
    assert result.code == 1 and len(result.err.splitlines()) == 1
    assert reason in result.err


@pytest.mark.slow
def test_a_task_of_a_slurm_allocation_may_be_a_run_of_its_own(first, zygote, here):
    task = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
    task |= {"SLURM_NODEID": "0", "SLURM_JOB_NAME": "job", "SLURM_NODELIST": "localhost"}
    fit = zygote.run([*TINY, "hydra.run.dir=slurm"], here, task)
    assert fit.code == 0 and (here / "slurm" / "metrics.json").exists(), fit.err
    words = ["mode=predict", "ckpt=first/model.ckpt", "images=data/test", "trainer=cpu"]
    predict = zygote.run([*words, "hydra.run.dir=slurm_predict"], here, task)
    assert predict.code == 0 and "scored" in predict.out, predict.err


@long_table("many", [[], ["-m"]], every=2)
def test_paths_are_from_where_they_were_typed(zygote, here, many):
    folder = "chdir/0" if many else "chdir"
    place = "hydra.sweep.dir=chdir" if many else "hydra.run.dir=chdir"
    limits = ["+trainer.limit_train_batches=1", "batch_size=4"]
    result = zygote.run([*many, *TINY, *limits, "hydra.job.chdir=true", place], here)
    assert result.code == 0, result.err
    metrics = json.loads((here / folder / "metrics.json").read_text())
    assert metrics["fit/images"] == 4
    if many:
        assert (here / "chdir" / "sweep.csv").read_text().count("done") == 1


# --- Help ------------------------------------------------------------------------------------


def test_help_lists_groups_and_keys(zygote, here):
    result = zygote.run(["--help"], here)
    assert result.code == 0
    for word in ("efficientnet_lite0", "wide_resnet50", "orthogonal", "mvtec", "dim=100", "eps="):
        assert word in result.out
    first = result.out.lstrip().splitlines()[2:7]
    for line, word in zip(first, ("data.root=", "mode=predict", "viewer", " -m ", ""), strict=True):
        assert word in line


def test_the_package_is_the_command(zygote, here):
    with zygote.start(["--help"], here, script=ROOT / "padim_lit" / "__main__.py") as started:
        result = started.wait()
    assert result.code == 0 and "wide_resnet50" in result.out, result.err
    assert "  python -m padim_lit mode=predict " in result.out


@pytest.mark.slow
def test_help_explains_every_key_and_says_whose_it_is(zygote, here):
    out = zygote.run(["--help"], here).out
    for name, mode in MODES.items():
        assert f"mode={name} " in out
        explained = meanings(mode.settings_class())
        for key in {field.name for field in fields(mode.settings_class())} - GROUPS:
            assert explained[key], key
            assert re.search(rf"^  {key}=", out, re.MULTILINE), key
    section = re.search(r"^Keys of mode=export\n\n((?:  .*\n)+)", out, re.MULTILINE)[1]
    assert "format=onnx" in section and "watch=" not in section
    wrong = zygote.run(["mode=predict", "logger=none", "dimm=3", "--help"], here)
    assert wrong.code == 1 and len(wrong.err.splitlines()) == 1 and "is no key" in wrong.err
    one = zygote.run(["mode=predict", "--help"], here).out
    assert "watch=false" in one and "format=onnx" not in one and "dim=" not in one
    assert "Keys of trainer" in one and "Keys of backbone" not in one  # it reads none of them
    one = zygote.run(["data=mvtec", "logger=mlflow", "--help"], here).out
    # A key's text stands beside it, or below where it is long.
    keys = re.findall(r"^  [a-z]+\.\S+=\S*(?: +\S.*| *\n {26}\S.*|.*)", one, re.MULTILINE)
    assert len(keys) > 25 and [key for key in keys if len(key.split(None, 1)) < 2] == []
    assert "data.root=???" in one and "the name of a folder in root; none: says which" in one
