"""The command padim-lit: a wheel, installed where no checkout is, fits and predicts."""

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from _helpers.cli import ROOT, TINY, Result, Zygote, environment
from _helpers.trees import build_tree

pytestmark = pytest.mark.slow


def call(*words: object, cwd: Path, **env: str) -> str:
    out = subprocess.run(
        list(map(str, words)), cwd=cwd, env=environment(cwd, **env), capture_output=True, text=True
    )
    assert out.returncode == 0, out.stdout + out.stderr
    return out.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built of a copy, because building leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("padim_lit", "conf"):
        shutil.copytree(ROOT / name, folder / "source" / name)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    build = "from setuptools import build_meta; build_meta.build_sdist('..')"
    call(sys.executable, "-c", build, cwd=folder / "source")
    # Of the sdist, so that both hold what is needed.
    (sdist,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(sdist, folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    # It warns of folders that setup.py does not list.
    strict = ["-W", "error:::setuptools.command.build_py"]
    call(sys.executable, *strict, "-c", build, cwd=source)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def command(wheel, tmp_path_factory) -> Path:
    """padim-lit in a venv of its own, which sees the other packages through a .pth file."""
    folder = tmp_path_factory.mktemp("venv")
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    scripts, python = folder / "bin", folder / "bin" / "python"
    options = ["--no-deps", "--no-index", "--ignore-installed", "--prefix", folder]
    call(sys.executable, "-m", "pip", "-q", "--python", python, "install", *options, wheel,
         cwd=folder)  # fmt: skip
    (site,) = folder.glob("lib/python*/site-packages")
    others = [p for p in sys.path if p.endswith("site-packages")]
    paths = dict.fromkeys([*others, sysconfig.get_path("purelib")])
    (site / "others.pth").write_text("\n".join(paths) + "\n")
    where = "import padim_lit; print(padim_lit.__file__)"
    assert Path(call(python, "-c", where, cwd=folder).strip()).is_relative_to(folder)
    return scripts / "padim-lit"


@pytest.fixture(scope="module")
def installed(command, tmp_path_factory) -> Iterator[Zygote]:
    """Forks of the command in its own venv."""
    running = Zygote(tmp_path_factory.mktemp("installed"), command, command.parent / "python")
    yield running
    running.close()


def test_the_wheel_holds_every_file_of_the_package_and_of_conf(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = [p for p in (ROOT / "padim_lit").rglob("*") if p.is_file()]
    files = {str(p.relative_to(ROOT)) for p in package if "__pycache__" not in p.parts}
    files |= {f"padim_lit/{p.relative_to(ROOT)}" for p in (ROOT / "conf").rglob("*.yaml")}
    assert files <= names


def done(result: Result) -> str:
    assert result.code == 0, result.err
    return result.out


def test_it_fits_and_predicts_without_a_checkout(command, installed, tmp_path):
    build_tree(tmp_path / "data", train=5, test={"good": 2, "crack": 2})
    call(command, *TINY, cwd=tmp_path)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["fit/images"] == 5
    predict = ["mode=predict", "ckpt=run/model.ckpt", "images=data/test", "trainer=cpu"]
    done(installed.run([*predict, "hydra.run.dir=told"], tmp_path))
    assert json.loads((tmp_path / "told" / "predict.json").read_text())["images"] == 4


def test_help_and_a_folder_of_ones_own(installed, tmp_path):
    said = done(installed.run(["--help"], tmp_path))
    # There is no run.py where it is installed.
    assert "  padim-lit mode=predict " in said and "run.py" not in said
    assert "Keys of mode=export" in said
    (tmp_path / "mine" / "proj").mkdir(parents=True)
    (tmp_path / "mine" / "proj" / "mine.yaml").write_text(
        "defaults:\n  - /class/my_proj.Mine@_here_\n"
    )
    (tmp_path / "my_proj.py").write_text(
        "import padim_lit\nclass Mine(padim_lit.JL):\n    name = 'mine'\n"
    )
    words = ["--config-dir", "mine", "own=[my_proj]", "proj=mine", "--cfg", "job"]
    out = done(installed.run(words, tmp_path, {"PYTHONPATH": str(tmp_path)}))
    assert "_target_: my_proj.Mine" in out
