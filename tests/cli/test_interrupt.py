"""Ctrl-C: status 130 and at most one line, whenever it comes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _helpers.cli import ROOT, TINY

from padim_lit.cli.experiment import _telling
from padim_lit.cli.modes import MODES

# A command's beginning, with Ctrl-C where torch would be imported.
STARTING = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, *_):
        if name == "torch":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
runpy."""


@pytest.mark.parametrize(
    "command",
    ["run_path('run.py'", "run_module('padim_lit.report'", "run_module('padim_lit.viewer'"],
)
def test_while_a_command_starts_it_is_quiet(command):
    words = [sys.executable, "-c", f"{STARTING}{command}, run_name='__main__')"]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_a_single_run_says_that_nothing_is_kept(zygote, tmp_path):
    (tmp_path / "data" / "train" / "good").mkdir(parents=True)
    (tmp_path / "data" / "endless").touch()
    deadly = ["own=[_helpers]", "data._target_=_helpers.deadly.DeadlyFolder"]
    with zygote.start([*TINY, *deadly], tmp_path, {"PYTHONPATH": str(ROOT / "tests")}) as process:
        end = time.monotonic() + 60
        while not (tmp_path / "data" / "waiting").exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        code, _, err, _ = process.wait(30)
    assert (code, err) == (130, "interrupted; nothing of this run is kept\n")


@pytest.mark.parametrize(
    ("mode", "files", "said"),
    [
        ("fit", ["model.ckpt"], "interrupted; kept in {}: model.ckpt\n"),
        ("ablation", ["runs/0/jl.npz"], "interrupted; kept in {}: runs\n"),
        ("fit", ["model.ckpt", "metrics.json"], ""),
    ],
)
def test_it_names_what_the_run_wrote(capsys, tmp_path: Path, mode, files, said):
    (tmp_path / "predictions.csv").touch()  # an earlier run's
    with pytest.raises(KeyboardInterrupt), _telling(MODES[mode], tmp_path):
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
        raise KeyboardInterrupt
    assert capsys.readouterr().err == said.format(tmp_path)


def test_it_says_that_the_model_is_an_earlier_runs(capsys, tmp_path: Path):
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(KeyboardInterrupt), _telling(MODES["fit"], tmp_path):
        raise KeyboardInterrupt
    said = "interrupted; nothing of this run is kept; model.ckpt there is an earlier run's\n"
    assert capsys.readouterr().err == said
