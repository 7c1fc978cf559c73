"""Killed at any moment: nothing half-written is there, and the same command again is as if never.

Each command is killed once, at a moment that its name and a seed draw and that is printed;
``PADIM_KILLS=50 pytest -m slow tests/cli/test_kills.py -s`` kills each that often.
"""

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import onnx
import pytest
from _helpers.cli import TINY, TINY_SWEEP, Result
from _helpers.server import command as download
from _helpers.server import packed
from _helpers.trees import build_tree, save_image
from torch import Tensor

from padim_lit.checkpoint.format import read

KILLS = int(os.environ.get("PADIM_KILLS", 1))
SEED = int(os.environ.get("PADIM_KILLS_SEED", 0))

# After so many seconds, from a process beside it, so that nothing in this one can be in the way.
AT_A_TIME = """
import os, signal, time
me = os.getpid()
if os.fork() == 0:
    end = time.monotonic() + {seconds}
    while time.monotonic() < end and os.getppid() == me:
        time.sleep(0.002)
    if os.getppid() == me:
        os.kill(me, signal.SIGKILL)
    os._exit(0)
"""
# Just before the n-th file is put in its place, or at the first thing that is done after it.
AT_A_RENAME = """
import os, signal, sys
count, armed = 0, False
def hook(event, args):
    global count, armed
    if armed:
        armed = False  # the kill is an event too
        os.kill(os.getpid(), signal.SIGKILL)
    if event == "os.rename":
        count += 1
        if count == {nth}:
            if {after}:
                armed = True
            else:
                os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""
ABLATION = ["experiment=ablation", "projs=[jl,sparse]", "dims=[2,4]", "seeds=[0]", "resamples=10"]
FITTED = ["ckpt=fitted/model.ckpt", "trainer=cpu", "hydra.run.dir=run"]
EXPORTED = ["ckpt=fitted/model.ckpt", "hydra.run.dir=run"]  # it needs no trainer
COMMANDS = {
    "fit": TINY,
    "test": [*TINY, "ckpt=fitted/model.ckpt"],
    "sweep": ["-m", *TINY, "proj=jl,subset", "hydra.sweep.dir=run"],
    "ablation": [*TINY_SWEEP, *ABLATION],
    "export": ["mode=export", *EXPORTED, "format=onnx", "output=run/model.onnx"],
    "slim": ["mode=export", *EXPORTED, "format=torch", "output=run/slim.ckpt"],
    "update": ["mode=update", *FITTED, "images=data/test/good"],
    "merge": ["mode=merge", "ckpts=[fitted/model.ckpt,other/model.ckpt]", "hydra.run.dir=run"],
    "remove": ["mode=remove", *FITTED, "images=data/train/good/000.png"],
    "calibrate": ["mode=calibrate", *FITTED, "images=more/data/train/good"],
    "figure4": [*TINY_SWEEP, "experiment=figure4", "proj=jl", "dim=8", "rows=2"],
    "distortion": [*TINY_SWEEP, "experiment=distortion", "projs=[jl]", "dims=[2,4]", "seeds=[0]"],
    "predict": ["mode=predict", *FITTED, "images=data/test", "overlays=all"],
    "watch": ["mode=predict", *FITTED, "images=data/test/crack", "watch=true",
              "watch_settle=0.01", "watch_idle=0.2"],
    "download": [],  # with the server's address
}  # fmt: skip
#: What differs between two runs that are the same.
TIMES = re.compile(r"seconds|_ms$|^ms$|_ms_|/ms_|memory|mtime|history|images_per|^at$|^written$")


@pytest.fixture(scope="module")
def here(tmp_path_factory, zygote) -> Path:
    here = tmp_path_factory.mktemp("kills")
    build_tree(here / "data", train=4, test={"good": 2, "crack": 2})
    build_tree(here / "more" / "data", train=4)
    for n in range(4):  # other images than those of data/
        (here / "more" / "data" / "train" / "good" / f"{n:03}.png").unlink()
        save_image(here / "more" / "data" / "train" / "good" / f"{n + 4:03}.png", seed=n + 4)
    learnt = "learnt_from=fitted/model.ckpt"  # so that both can be merged
    for name, root, *more in (("fitted", "data"), ("other", "more/data", learnt)):
        args = [*TINY, f"data.root={root}", *more, f"hydra.run.dir={name}"]
        result = zygote.run(args, here)
        assert result.code == 0, result.err
    return here


@pytest.fixture(scope="module")
def archive(here) -> bytes:
    return packed(here / "data")


def clean(folder: Path) -> None:
    for name in ("run", "downloaded"):
        shutil.rmtree(folder / name, ignore_errors=True)


def require_whole(folder: Path) -> None:
    """Each file that has its final name is complete."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            for line in path.read_text().splitlines():
                json.loads(line)
        elif path.suffix == ".csv":
            text = path.read_text()
            assert not text or text.endswith("\n"), path
            assert len({len(row) for row in csv.reader(text.splitlines())}) <= 1, path
        elif path.suffix == ".ckpt":
            read(path)
        elif path.suffix == ".onnx":
            onnx.checker.check_model(onnx.load(path))
        elif path.suffix == ".png":
            from PIL import Image

            Image.open(path).load()


def content(folder: Path) -> dict[str, object]:
    """What a folder's results are, without times."""
    found: dict[str, object] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and ".hydra" not in p.parts):
        name = str(path.relative_to(folder))
        if ".padim_lit-" in name:  # of the killed one: it goes after a day
            continue
        if path.suffix in (".log", ".yaml", ".lock", ".html") or path.name in ("job.json",):
            continue
        if path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            lines = [without_times(json.loads(line)) for line in path.read_text().splitlines()]
            found[name] = sorted(lines, key=str)
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                rows = [without_times(row) for row in csv.DictReader(file)]
            found[name] = sorted(rows, key=str) if path.name == "predictions.csv" else rows
        elif path.suffix == ".ckpt":
            state = read(path)
            found[name] = without_times({k: state[k] for k in ("state_dict", "padim_lit")})
        elif path.suffix == ".npz":
            import numpy as np

            with np.load(path, allow_pickle=False) as saved:
                # The rows of a run hold times; rows.json has them without.
                found[name] = {k: saved[k].tobytes() for k in saved.files if k != "rows"}
        elif path.name == "model_card.md":
            found[name] = re.sub(r"card written \| [^,]*", "", path.read_text())
        else:
            found[name] = path.read_bytes()
    return found


def without_times(content: object) -> object:
    if isinstance(content, dict):
        return {k: without_times(v) for k, v in content.items() if not TIMES.search(str(k))}
    if isinstance(content, list | tuple):
        return [without_times(part) for part in content]
    if isinstance(content, Tensor):
        return str(content.dtype), tuple(content.shape), content.contiguous().numpy().tobytes()
    return content


@pytest.fixture
def command(server, archive) -> Callable[[str], list[str]]:
    server.content = archive

    def words(name: str) -> list[str]:
        if name != "download":
            return COMMANDS[name]
        args = [w for w in download(server) if not w.startswith("data.root")]
        return [*args, "data.root=downloaded"]

    return words


_undisturbed: dict[str, tuple[float, dict[str, object]]] = {}


def kill_and_run_again(zygote, here: Path, words: list[str], name: str, random: Random) -> str:
    """How the kill was; AssertionError where it left a trace."""

    def run(**env: str) -> Result:
        return zygote.run(words, here, env)

    if name not in _undisturbed:
        clean(here)
        whole = run()
        assert whole.code == 0, whole.err
        _undisturbed[name] = whole.seconds, content(here / "run")
    seconds, expected = _undisturbed[name]
    clean(here)
    if random.random() < 0.6:
        at = random.uniform(0, seconds)
        script, how = AT_A_TIME.format(seconds=at), f"after {at:.3f} of {seconds:.2f} s"
    else:
        nth, after = random.randint(1, 6), random.random() < 0.5
        script = AT_A_RENAME.format(nth=nth, after=after)
        how = f"{'after' if after else 'before'} rename {nth}"
    (here / "before.py").write_text(script)
    killed = run(BEFORE_RUN=str(here / "before.py"))
    assert killed.code in (-9, 0), f"{name} {how}: {killed.err}"
    how += "" if killed.code else " (it had ended)"
    for folder in ("run", "downloaded"):
        require_whole(here / folder)
    again = run()
    assert again.code == 0, f"{name} {how}: {again.err}"
    require_whole(here / "run")
    found = content(here / "run")
    assert found.keys() == expected.keys(), f"{name} {how}"
    for file in expected:
        assert found[file] == expected[file], f"{name} {how}: {file} differs"
    return how


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_was_killed_leaves_no_trace(zygote, here, command, name):
    random = Random(f"{SEED} {name}")
    for _ in range(KILLS):
        how = kill_and_run_again(zygote, here, command(name), name, random)
        print(f"\n{name:<9} killed {how}")
