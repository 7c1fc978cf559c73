"""The documentation builds without a warning, its links lead somewhere, its commands compose."""

import re
import shlex
import subprocess
import sys

import pytest
from _helpers.cli import ROOT, environment
from _helpers.tables import long_table
from hydra import compose, initialize_config_dir

from padim_lit.cli import config
from padim_lit.cli.instantiate import allow
from padim_lit.cli.overrides import own_packages

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
# Their packages may not be there, or what follows is no list of settings.
NOT_COMPOSED = ("hydra/launcher", "--help", "--cfg")


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


def test_the_readme_is_one_page_with_both_commands():
    text = (ROOT / "README.md").read_text()
    assert 600 <= len(text.split()) <= 900
    first = next(line for line in text.splitlines() if "python -m pytest" in line)
    assert first.startswith("python3 -m venv .venv && ")  # .ci/run runs this line as it stands


def commands(page):
    """The words after ``python run.py`` in a page, with what its shell variables stand for."""
    text = page.read_text()
    for name, value in re.findall(r'^ *([A-Z])="([^"]*)"$', text, flags=re.MULTILINE):
        text = text.replace(f"${name} ", f"{value} ").replace(f"${name}\n", f"{value}\n")
    for line in re.findall(r"python run\.py([^\n`#]*)", text):
        yield [word for word in shlex.split(line) if "…" not in word]


@long_table("page", PAGES, every=5, ids=lambda page: page.name)
def test_commands_name_settings_that_exist(page, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)  # for examples/
    config.register()
    own = f"hydra.searchpath=[file://{ROOT}/examples/conf]"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for words in commands(page):
            if any(part in word for part in NOT_COMPOSED for word in words):
                continue
            # Of a sweep the first job.
            words = [re.sub(r"=([^\[,]+),.*", r"=\1", word) for word in words]
            allow(own_packages(words))
            typed = [word for word in words if "=" in word and not word.startswith("hydra.")]
            compose("config", overrides=[*typed, own] if "--config-dir" in words else typed)
