"""logger=wandb through the command line: the files of offline runs are read back."""

import json
from pathlib import Path

import pytest
from _helpers.cli import TINY, Result
from _helpers.trees import build_tree
from _helpers.wandb_log import of, records, values

pytest.importorskip("wandb")


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    build_tree(folder / "data", train=4, test={"good": 2, "crack": 2})
    return folder


@pytest.fixture(scope="module")
def sweep(zygote, here) -> Path:
    """A multirun of two jobs in one process."""
    # A low threshold, which the predicted masks are made at.
    low = "false_alarm_rate=0.9"
    args = ["-m", *TINY, low, "logger=wandb", "dim=4,8", "hydra.sweep.dir=my_sweep"]
    result = zygote.run(args, here)
    assert result.code == 0, result.err
    return here / "my_sweep"


@pytest.fixture(scope="module")
def failing(zygote, here) -> tuple[Result, Path]:
    """A run that fails after its logger was made: no batch is left to fit."""
    args = [*TINY, "logger=wandb", "+trainer.limit_train_batches=0", "hydra.run.dir=failing"]
    return zygote.run(args, here), here / "failing"


def wandb_file(folder: Path) -> Path:
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    return file


@pytest.mark.slow
def test_a_single_run_has_a_name_and_no_group(zygote, here):
    result = zygote.run([*TINY, "logger=wandb", "hydra.run.dir=single"], here)
    assert result.code == 0, result.err
    found = records(wandb_file(here / "single"))
    (run,) = of(found, "run")
    assert (run.display_name, run.run_group, run.project) == ("resnet18-jl-8-0", "", "padim_lit")
    assert [ended.exit_code for ended in of(found, "exit")] == [0]


@pytest.mark.slow
def test_two_jobs_are_two_runs_of_the_sweeps_group(sweep):
    runs = [of(records(wandb_file(sweep / job)), "run")[0] for job in "01"]
    assert len({run.run_id for run in runs}) == 2
    assert [run.display_name for run in runs] == ["resnet18-jl-4-0", "resnet18-jl-8-0"]
    assert [run.run_group for run in runs] == ["my_sweep"] * 2
    assert len(list(sweep.rglob("*.wandb"))) == 2


@pytest.mark.slow
def test_each_job_has_its_config_metrics_and_exit(sweep):
    for job, dim in (("0", 4), ("1", 8)):
        found = records(wandb_file(sweep / job))
        metrics = json.loads((sweep / job / "metrics.json").read_text())
        config = values(item for part in of(found, "config") for item in part.update)
        assert config["dim"] == dim and config["data"]["root"] == "data"
        assert config["backbone"]["model"] == "test_resnet"
        logged = values(item for part in of(found, "history") for item in part.item)
        summary = values(item for part in of(found, "summary") for item in part.update)
        for key in ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_aupro"):
            name = f"test/{key}"
            assert logged[name] == summary[name] == metrics[name]
        assert summary["proj"] == "jl" and summary["fit/images"] == 4
        assert [ended.exit_code for ended in of(found, "exit")] == [0]


@pytest.mark.slow
def test_each_job_has_its_predictions_and_pictures(sweep):
    for job in "01":
        media = wandb_file(sweep / job).parent / "files" / "media"
        (table,) = media.glob("table/predictions_*.table.json")
        content = json.loads(table.read_text())
        assert content["columns"] == ["path", "kind", "label", "score", "p_value", "decision"]
        lines = (sweep / job / "predictions.csv").read_text().splitlines()[1:]
        assert [",".join(map(str, row)) for row in content["data"]] == lines
        assert len(list(media.glob("images/pictures_*.png"))) == 4
        assert list(media.glob("images/heatmaps_*.png"))
        # Truth and prediction of two defects and two good images; files are named by their
        # content, so that the two blank truths (and any prediction equal to another) share one.
        assert len(list(media.glob("images/mask/*.png"))) >= 4


@pytest.mark.slow
def test_a_failing_run_is_marked_failed(failing):
    result, folder = failing
    assert result.code == 1 and "error: nothing was fitted" in result.err
    found = records(wandb_file(folder))
    assert [ended.exit_code for ended in of(found, "exit")] == [1]
