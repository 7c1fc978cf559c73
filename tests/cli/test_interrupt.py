"""Ctrl-C: status 130 and at most one line, whenever it comes."""

import os
import signal
import subprocess
import sys
import time

import pytest
from _helpers.cli import ROOT, TINY

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


def test_a_run_says_so_in_a_word(zygote, tmp_path):
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
    assert (code, err) == (130, "interrupted\n")
