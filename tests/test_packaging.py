"""What is packed, so that README's commands, tests and docs work from it, and what it needs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from _helpers.cli import ROOT
from packaging.requirements import Requirement
from packaging.version import Version

FOLDERS = ("benchmarks", "conf", "docs", "examples", "padim_lit", "tests")
# Made by Python and Sphinx, not by us.
MADE = {"__pycache__", "_build"}


def test_the_sdist_holds_what_readmes_commands_tests_and_docs_read(tmp_path):
    pytest.importorskip("setuptools", minversion="77")  # as the build's own
    # The list that build_sdist packs, without the seconds that packing takes.
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (listed,) = tmp_path.glob("*.egg-info/SOURCES.txt")
    names = set(listed.read_text().split("\n"))
    inside = [p.relative_to(ROOT) for name in FOLDERS for p in (ROOT / name).rglob("*")]
    needed = {str(p) for p in inside if not MADE & set(p.parts) and (ROOT / p).is_file()}
    needed |= {str(p.relative_to(ROOT)) for p in ROOT.glob("*.md")}
    needed |= {"run.py", "setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "CITATION.cff"}
    needed |= {"constraints.txt", "constraints-oldest.txt", "Dockerfile"}
    assert needed <= names
    assert not {name for name in names if MADE & set(Path(name).parts)}


def test_lower_bounds_are_the_versions_that_are_tested():
    text = (ROOT / "pyproject.toml").read_text()
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if not line.startswith("#"))
    needed = [Requirement(one) for one in re.findall(r'^    "(.*)",$', block, re.MULTILINE)]
    assert len(needed) >= 20
    for one in needed:
        (bound,) = (spec.version for spec in one.specifier if spec.operator == ">=")
        assert Version(bound) == Version(oldest[one.name]), one
