"""The source distribution: README's commands, the tests and the docs work from it."""

import subprocess
import sys
from pathlib import Path

from _helpers.cli import ROOT

FOLDERS = ("benchmarks", "conf", "docs", "examples", "padim_lit", "tests")
# Made by Python and Sphinx, not by us.
MADE = {"__pycache__", "_build"}


def test_the_sdist_holds_what_readmes_commands_tests_and_docs_read(tmp_path):
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
