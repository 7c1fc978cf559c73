"""The benchmark of mode=predict over many images runs and judges."""

import json
import subprocess
import sys

import pytest
from _helpers.cli import ROOT, environment


@pytest.mark.slow
def test_memory_and_pace_are_told_by_tenths(tmp_path):
    out = tmp_path / "load.json"
    command = [sys.executable, "-m", "benchmarks", "load", "--images", "300", "--json", str(out)]
    result = subprocess.run(
        command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert "last tenth against first" in result.stdout
    rows = json.loads(out.read_text())["rows"]
    assert rows[0]["images"] >= 30 and rows[-1]["images"] <= 300
    # After a tenth all that the process keeps is there; a leak of a few kB an image would show.
    assert rows[-1]["resident_bytes"] < 1.02 * rows[0]["resident_bytes"] + 300 * 2**14
