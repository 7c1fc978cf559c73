"""Trackers: what was logged is read back from the files that were written."""

import csv
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from _helpers.run_content import SCALE, pictures, run_content
from _helpers.wandb_log import of, records, values
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from omegaconf import OmegaConf

from padim_lit.cli import targets, tracking
from padim_lit.cli.tracking import finish, log_run, mlflow_logger, survived, wandb_logger
from padim_lit.errors import InputError
from padim_lit.visualization.panels import overlay

ROOT = Path(__file__).resolve().parents[2]
# wandb and tensorboard warn about their own dependencies when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


# --- MLflow ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_mlflow_gets_everything_as_files(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    content, folder = run_content(), tmp_path / "run"
    logger = mlflow_logger(tmp_path, run_name="resnet18-jl-100-0")
    files = {"metrics.json": b"{}", "predictions.csv": b"path\r\n\xff.png", "heatmaps/a.png": b"x"}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    (folder / "model.ckpt").touch()
    log_run(logger, folder, **content)
    finish(logger, failed=False)
    (run,) = (path.parent for path in (tmp_path / "mlflow").glob("*/*/artifacts"))
    assert "resnet18-jl-100-0" in (run / "tags" / "mlflow.runName").read_text()
    assert (run / "params" / "dim").read_text() == str(content["config"]["dim"])
    _, value, _ = (run / "metrics" / "test" / "image_auroc").read_text().split()
    assert float(value) == content["results"]["test/image_auroc"]
    artifacts = run / "artifacts"
    found = [path for path in artifacts.rglob("*") if path.is_file()]
    assert {str(path.relative_to(artifacts)): path.read_bytes() for path in found} == files
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_without_mlflow_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "MLFlowLogger", _raise(ModuleNotFoundError("mlflow")))
    with pytest.raises(InputError, match=r"pip install mlflow-skinny"):
        mlflow_logger(tmp_path, tracking_uri="http://127.0.0.1:9")


def _raise(error):
    def fail(*args):
        raise error

    return fail


# --- Weights & Biases ------------------------------------------------------------------------

TWO_RUNS = """
import json, os, sys
from pathlib import Path
from padim_lit.errors import InputError
from padim_lit.cli.tracking import finish, log_run, wandb_logger
from _helpers.run_content import run_content

out, errors = Path(sys.argv[1]), {}
for job, dim in enumerate((100, 50)):
    logger = None
    try:
        logger = wandb_logger(
            out / str(job), project="proj", name=f"resnet18-jl-{dim}-0", group="sweep-1"
        )
        content = run_content(threshold=None if job == 1 else 5.0)
        content["config"]["dim"] = dim
        log_run(logger, out, **content)
        if job == 1:
            raise RuntimeError("the job fails after it logged")
    except RuntimeError:
        finish(logger, failed=True)
    else:
        finish(logger, failed=False)
finish(wandb_logger(out / "unused"), failed=True)

for name, value in {"no key": None, "bad key": "abc"}.items():
    os.environ.pop("WANDB_API_KEY", None)
    if value:
        os.environ["WANDB_API_KEY"] = value
    assert "WANDB_MODE" not in os.environ, "the next run would inherit it"
    try:
        wandb_logger(out / "online", offline=False)
    except InputError as error:
        errors[name] = str(error)
(out / "errors.json").write_text(json.dumps(errors))
"""


class Listener:
    """Stands in for the network: counts who connects, and hangs up."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.count = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.count += 1
            connection.close()


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """Two runs of one process without network, without an account and in an empty home."""
    base, network = tmp_path_factory.mktemp("wandb"), Listener()
    for name in ("home", "tmp", "cwd", "out"):
        (base / name).mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(base / "home"),
        "TMPDIR": str(base / "tmp"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
        "WANDB_BASE_URL": network.url,
        "HTTP_PROXY": network.url,
        "HTTPS_PROXY": network.url,
    }
    before = {path.name for path in ROOT.iterdir()}
    done = subprocess.run(
        [sys.executable, "-c", TWO_RUNS, str(base / "out")],
        cwd=base / "cwd", env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    network.socket.close()
    assert not list((base / "cwd").iterdir())
    assert {path.name for path in ROOT.iterdir()} == before
    return base / "out", network


def wandb_files(out):
    files = sorted(out.glob("*/wandb/offline-run-*/*.wandb"))
    assert [file.relative_to(out).parts[0] for file in files] == ["0", "1"]
    return files


def test_two_jobs_of_a_process_are_two_runs_of_one_group(two_runs):
    runs = [of(records(file), "run")[0] for file in wandb_files(two_runs[0])]
    assert len({run.run_id for run in runs}) == 2
    assert [run.display_name for run in runs] == ["resnet18-jl-100-0", "resnet18-jl-50-0"]
    assert [run.run_group for run in runs] == ["sweep-1"] * 2
    assert [run.project for run in runs] == ["proj"] * 2


def test_offline_runs_never_touch_the_network(two_runs):
    assert two_runs[1].count == 0


def test_each_run_has_its_own_config_metrics_and_exit(two_runs):
    for file, dim, code in zip(wandb_files(two_runs[0]), (100, 50), (0, 1), strict=True):
        found = records(file)
        config = values(item for part in of(found, "config") for item in part.update)
        assert config["dim"] == dim and config["backbone"] == {"name": "resnet18"}
        (history,) = of(found, "history")
        logged = values(history.item)
        assert logged["test/image_auroc"] == 0.875 and logged["fit/images"] == 352
        assert not {"test/pixel_auroc", "backbone"} & set(logged)
        summary = values(item for part in of(found, "summary") for item in part.update)
        assert summary["test/image_auroc"] == 0.875
        assert summary["backbone"] == "resnet18" and summary["test/pixel_auroc"] is None
        (ended,) = of(found, "exit")
        assert ended.exit_code == code


def test_predictions_are_a_table_in_dataset_order(two_runs):
    for file in wandb_files(two_runs[0]):
        (table,) = (file.parent / "files").glob("media/table/predictions_*.table.json")
        assert json.loads(table.read_text()) == {
            "columns": ["path", "kind", "label", "score", "p_value", "decision"],
            "data": [
                ["data/img0.png", "planted_spot", 1, 9.0, None, ""],
                ["data/img1.png", "good", 0, 10.0, None, ""],
            ],
        }


def test_pictures_have_truth_and_prediction_masks_and_heat_maps(two_runs):
    from PIL import Image

    for file, masks in zip(wandb_files(two_runs[0]), (3, 1), strict=True):
        media = file.parent / "files" / "media" / "images"
        assert len(list(media.glob("pictures_*.png"))) == 2
        drawn = [np.asarray(Image.open(one)) for one in media.glob("heatmaps_*.png")]
        assert len(drawn) == 2
        for one in pictures():  # coloured as the run's own pictures are
            assert any(np.array_equal(overlay(one.image, one.map, SCALE), d) for d in drawn)
        found = [np.asarray(Image.open(mask)) for mask in (media / "mask").glob("*.png")]
        # One truth, for the planted defect alone; predictions need a threshold.
        assert len(found) == masks
        assert any(np.array_equal(mask > 0, pictures()[0].truth) for mask in found)
        predicted = pictures()[0].map >= 5.0
        assert any(np.array_equal(mask > 0, predicted) for mask in found) == (masks == 3)
        logged = values(of(records(file), "history")[0].item)
        assert logged["pictures/_type"] == "images/separated"
        assert logged["pictures/captions"][0] == "highest_defect 1: planted_spot img0, score 9.00"


def test_an_unused_logger_leaves_no_run(two_runs):
    assert not list((two_runs[0] / "unused").rglob("*.wandb"))


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no key", "there is no W&B API key; run `wandb login`"),
        ("bad key", "the W&B API key cannot be used"),
    ],
)
def test_unusable_accounts_are_one_line_before_anything_is_fitted(two_runs, case, words):
    errors = json.loads((two_runs[0] / "errors.json").read_text())
    assert words in errors[case] and "\n" not in errors[case]
    assert not (two_runs[0] / "online").exists()


def test_missing_wandb_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="pip install wandb"):
        wandb_logger(tmp_path)


# --- the others ------------------------------------------------------------------------------


def test_csv_gets_the_numbers(tmp_path):
    logger = CSVLogger(tmp_path, name="csv", version="")
    logger.log_metrics({"earlier": 1.0}, step=0)
    logger.finalize("success")  # as the Trainer does before the run is reported
    log_run(logger, tmp_path, **run_content())
    finish(logger, failed=False)
    with (tmp_path / "csv" / "metrics.csv").open(newline="") as file:
        earlier, row = csv.DictReader(file)
    assert earlier["earlier"] == "1.0"
    logged = {key: value for key, value in row.items() if value}
    assert logged == {"fit/images": "352", "test/image_auroc": "0.875", "step": "0"}


def test_tensorboard_gets_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="tb", version="", default_hp_metric=False)
    logger.log_metrics({"earlier": 1.0}, step=0)
    logger.finalize("success")  # as the Trainer does before the run is reported
    log_run(logger, tmp_path, **run_content())
    finish(logger, failed=False)
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert {"test/image_auroc", "fit/images"} <= set(events.Tags()["scalars"])
    assert events.Scalars("test/image_auroc")[0].value == 0.875


def test_a_tracker_that_fails_is_a_warning(caplog):
    with survived("the results"):
        raise ConnectionError("503\nService Unavailable")
    (record,) = caplog.records
    assert "the results of this run could not be sent (503 Service Unavailable)" in record.message


def test_no_logger_logs_nothing():
    log_run(None, Path(), **run_content())
    finish(None, failed=True)


@pytest.mark.parametrize("name", ["csv", "tensorboard", "wandb", "none"])
def test_logger_configs_build_what_they_name(tmp_path, monkeypatch, name):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    if name in ("tensorboard", "wandb"):
        pytest.importorskip(name)
    file = ROOT / "conf" / "logger" / f"{name}.yaml"
    assert file.read_text().startswith("# ")
    group = OmegaConf.load(file)
    if name == "none":
        assert group._target_ is None
        return
    assert group.save_dir is None, "the run's folder"
    group.save_dir = str(tmp_path)
    whole = OmegaConf.create(
        {
            "logger": group, "dim": 50, "seed": 3,
            "backbone": {"name": "resnet18"}, "proj": {"name": "jl"},
        }
    )  # fmt: skip
    logger = targets.instantiate(OmegaConf.to_container(whole, resolve=True)["logger"])
    assert Path(logger.save_dir) == tmp_path
    expected = {"wandb": "resnet18-jl-50-3"}.get(name, name)
    assert logger.name == expected or logger._wandb_init["name"] == expected
    if name == "wandb":
        assert logger._wandb_init["mode"] == "offline" and logger._wandb_init["group"] is None
