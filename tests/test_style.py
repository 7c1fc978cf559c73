"""The house style that a program can check."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "padim_lit").rglob("*.py"))
SHELL = {"module.py", "build.py", "tracking.py", "dashboard.py"}
HYDRA = {"config.py", "build.py", "experiment.py"}


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff(command):
    out = subprocess.run(
        [sys.executable, "-m", "ruff", *command, str(ROOT)], capture_output=True, text=True
    )
    assert out.returncode == 0, out.stdout


@pytest.mark.slow
def test_types_of_the_public_api():
    command = [sys.executable, "-m", "mypy", "--no-incremental"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_shell_imports_frameworks(path):
    imports = re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), flags=re.MULTILINE)
    if path.name not in SHELL and path.parent.name not in ("data", "modes"):
        assert not {"lightning", "wandb"} & set(imports)
    if path.name not in HYDRA:
        assert "hydra" not in imports
