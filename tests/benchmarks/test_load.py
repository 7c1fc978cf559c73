"""The benchmark of mode=predict over many images runs and judges."""

import json
import subprocess
from types import SimpleNamespace

import pytest

from benchmarks import load


@pytest.mark.slow
def test_memory_and_pace_are_told_by_tenths(zygote, tmp_path, monkeypatch, capsys):
    out = tmp_path / "load.json"

    def fit(command, **_):
        assert zygote.run(command[2:], tmp_path).code == 0

    # The process that is watched is one of its own: a fork's memory is the zygote's too.
    monkeypatch.setattr(load, "subprocess", SimpleNamespace(**{**vars(subprocess), "run": fit}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("sys.argv", ["load", "--images", "300", "--json", str(out)])
    load.main()
    assert "last tenth against first" in capsys.readouterr().out
    rows = json.loads(out.read_text())["rows"]
    assert rows[0]["images"] >= 30 and rows[-1]["images"] <= 300
    # After a tenth all that the process keeps is there; a leak of a few kB an image would show.
    assert rows[-1]["resident_bytes"] < 1.02 * rows[0]["resident_bytes"] + 300 * 2**14
