"""The documentation builds without a warning, and its links lead somewhere."""

import re
import subprocess
import sys

import pytest
from _helpers.cli import ROOT, environment

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", str(tmp_path)]
    result = subprocess.run(
        command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr
    reference = (tmp_path / "api.html").read_text()
    for name in ("padim_lit.load", "padim_lit.Predictor", "padim_lit.model.projection.JL"):
        assert f'id="{name}"' in reference


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    files = [link for link in links if "://" not in link]
    missing = [link for link in files if not (page.parent / link).exists()]
    assert not missing
