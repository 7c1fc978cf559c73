"""What the machine does to a run: no memory, no disk, killed processes; a NaN in the features."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from _helpers.cli import TINY, TINY_SWEEP, Result
from _helpers.tables import long_table
from _helpers.trees import build_tree

from padim_lit.cli.main import leave
from padim_lit.errors import InputError
from padim_lit.model.grid import SPOTS
from padim_lit.system.orphans import _LOOK_SECONDS
from padim_lit.system.resource_errors import error_line, halving, in_parts

# Runs in the child before run.py does: the backbone takes at most so many images at once.
SMALL_GPU = """
import torch
from padim_lit.model.backbone import Backbone
whole = Backbone.forward
def forward(self, images):
    if len(images) > {most}:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    return whole(self, images)
Backbone.forward = forward
"""
# Features of one image become NaN, wherever it comes up.
NAN = """
import torch
from padim_lit.model.backbone import Backbone
whole = Backbone.forward
def forward(self, images):
    maps = whole(self, images)
    bad = (images.flatten(1).amax(dim=1) == 0).nonzero()
    for layer in maps:
        layer[bad] = float("{value}")
    return maps
Backbone.forward = forward
"""
# A loader's process is killed, as the kernel does when memory ends.
DEADLY_LOADER = """
import os, signal
from torch.utils.data import get_worker_info
from padim_lit.data.items import ItemDataset
whole = ItemDataset.__getitem__
def item(self, index):
    if get_worker_info() is not None and index == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, index)
ItemDataset.__getitem__ = item
"""
# Files end at so many bytes, as on a disk that is full.
SMALL_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, resource.RLIM_INFINITY))
"""
# The n-th file that the program opens for writing in its folder cannot be made.
NO_ROOM = """
import errno, os, sys
count, seen = 0, set()
def hook(event, args):
    global count
    if event != "open" or not isinstance(args[0], (str, bytes)):
        return
    path, mode, flags = args
    name = os.path.abspath(os.fsdecode(path))
    if not name.startswith(os.path.abspath("run") + os.sep) or name.endswith("run.log"):
        return
    if os.sep + ".hydra" + os.sep in name or not flags & (os.O_WRONLY | os.O_RDWR):
        return
    if name in seen:  # made and locked, then written
        return
    seen.add(name)
    count += 1
    if count == {nth}:
        print("FAULT", name, flush=True)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory, zygote) -> Path:
    """data/ and a fit of it in fitted/; few/ has one good and one bad test image."""
    here = tmp_path_factory.mktemp("faults")
    build_tree(here / "data", train=6, test={"good": 2, "crack": 3})
    build_tree(here / "few", train=6, test={"good": 1, "crack": 1})
    fitted = zygote.run([*TINY, "hydra.run.dir=fitted", "calibration=6"], here)
    assert fitted.code == 0, fitted.err
    return here


@pytest.fixture
def faulty(zygote, here):
    """Runs a command in `here` after a script; the folder run/ is new each time."""

    def run(script: str, *args: str) -> Result:
        shutil.rmtree(here / "run", ignore_errors=True)
        before = here / "before.py"
        before.write_text(script)
        return zygote.run(list(args), here, {"BEFORE_RUN": str(before)})

    return run


def one_line(result: Result, *words: str) -> str:
    assert result.code == 1, f"{result.out}\n{result.err}"
    assert "Traceback" not in result.out + result.err, result.err
    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.err
    for word in words:
        assert word in lines[0]
    return lines[0]


def whole_files(folder: Path) -> None:
    """Nothing in `folder` is half a file, or looks like one that is complete."""
    for path in folder.rglob("*"):
        assert not path.name.endswith((".part", ".tmp")), path
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".ckpt":
            torch.load(path, weights_only=True)


def scores(folder: Path) -> str:
    return (folder / "predictions.csv").read_text()


# --- Memory ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("proj", ["jl", "fisher"])
def test_a_gpu_that_is_too_small_gets_half_the_batch(faulty, zygote, here, proj):
    args = [*TINY, f"proj={proj}", "calibration=6", "batch_size=4"]
    result = faulty(SMALL_GPU.format(most=2), *args)
    assert result.code == 0, result.err
    log = (here / "run" / "run.log").read_text()
    assert "fit: out of GPU memory with batch_size=4; going on with 2" in log
    smaller = zygote.run([*args, "batch_size=2", "hydra.run.dir=smaller"], here)
    assert smaller.code == 0, smaller.err
    assert scores(here / "run") == scores(here / "smaller")
    ours, theirs = (
        torch.load(here / name / "model.ckpt", weights_only=True)["padim_lit"]
        for name in ("run", "smaller")
    )
    assert ours["count"] == theirs["count"] == 6
    assert torch.equal(ours["mean"], theirs["mean"])
    assert all(map(torch.equal, ours["scatter"], theirs["scatter"]))
    assert torch.equal(ours["calibration"]["scores"], theirs["calibration"]["scores"])


def test_the_test_alone_can_halve(faulty, here):
    args = [*TINY, "batch_size=4", "ckpt=fitted/model.ckpt"]
    result = faulty(SMALL_GPU.format(most=1), *args)
    assert result.code == 0, result.err
    log = (here / "run" / "run.log").read_text()
    assert "test: out of GPU memory with batch_size=4; going on with 2" in log
    assert "batch_size=2; going on with 1" in log
    assert len(scores(here / "run").splitlines()) == 6  # each image once


def test_where_one_image_is_too_much_one_line_says_so(faulty, here):
    script = SMALL_GPU.format(most=1).replace("len(images) > 1", "self.training_is_on(images)")
    # The first ones measure where the map lies, on the CPU.
    script += f"seen = range({1 + SPOTS}).__iter__()\n"
    script += "is_on = lambda self, images: bool(images.any()) and next(seen, None) is None\n"
    script += "Backbone.training_is_on = is_on\n"
    result = faulty(script, *TINY, "batch_size=4")
    one_line(result, "one image at a time is too much", "smaller", "trainer=cpu")
    assert not list((here / "run").glob("model*"))


def test_prediction_halves_and_remembers():
    most, calls = 3, []

    def model(images):
        calls.append(len(images))
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images.sum((1, 2, 3)), images[:, 0]

    images = torch.rand(7, 3, 4, 4)
    found, maps, size = in_parts(model, images, 16)
    assert torch.equal(found, images.sum((1, 2, 3))) and torch.equal(maps, images[:, 0])
    assert calls == [7, 3, 3, 1] and size == 3
    assert in_parts(model, images, size)[2] == 3 and calls[4:] == [3, 3, 1]
    most = 0
    with pytest.raises(InputError, match="one image at a time is too much"):
        in_parts(model, images, 2)
    most = 9
    assert in_parts(model, images, 16)[2] == 16


@pytest.mark.parametrize("kind", [torch.linalg.LinAlgError, np.linalg.LinAlgError])
def test_what_cannot_be_factored_is_one_line(kind):
    assert "set a larger eps or a smaller dim" in error_line(kind("eigh: no\nconvergence"))


def test_other_errors_are_no_reason_to_halve():
    def work(size):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        halving(8, work, "fit")
    assert error_line(RuntimeError("shapes do not fit")) is None
    for error in (
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DataLoader worker (pid 77) is killed by signal: Killed. "),
        OSError(28, "No space left on device"),
    ):
        assert "\n" not in error_line(error)
    assert error_line(FileNotFoundError(2, "No such file")) is None


def test_no_memory_on_the_host_is_one_line(faulty):
    script = SMALL_GPU.format(most=1).replace(
        "torch.OutOfMemoryError(", "RuntimeError('DefaultCPUAllocator: can\\'t allocate memory: ' "
    )
    one_line(faulty(script, *TINY), "out of memory", "smaller batch_size")


# --- Killed processes --------------------------------------------------------------------------


def test_a_loader_that_is_killed_is_one_line(faulty, here):
    result = faulty(DEADLY_LOADER, *TINY, "num_workers=1", "batch_size=2")
    one_line(result, "process that reads images", "num_workers=0")
    assert result.seconds < 60
    whole_files(here / "run")
    assert not (here / "run" / "metrics.json").exists()


# --- Disk --------------------------------------------------------------------------------------

# Of few images, because each picture is a file that a run of its own cannot write.
WRITERS = {
    "fit": [*TINY, "data.root=few"],
    "test": [*TINY, "data.root=few", "ckpt=fitted/model.ckpt"],
    "predict": ["mode=predict", "ckpt=fitted/model.ckpt", "images=few/test/crack",
                "trainer=cpu", "overlays=all", "hydra.run.dir=run"],
    "update": ["mode=update", "ckpt=fitted/model.ckpt", "images=data/test/crack",
               "trainer=cpu", "hydra.run.dir=run"],
    "ablation": [*TINY_SWEEP, "experiment=ablation", "projs=[jl]", "dims=[4]", "seeds=[0]",
                 "hydra.run.dir=run"],
    "export": ["mode=export", "ckpt=fitted/model.ckpt", "format=torch", "output=run/slim.ckpt",
               "hydra.run.dir=run"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("mode", WRITERS)
def test_a_full_disk_is_one_line_that_names_where(faulty, here, mode):
    nth = 0
    while True:
        nth += 1
        result = faulty(NO_ROOM.format(nth=nth), *WRITERS[mode])
        if "FAULT" not in result.out:
            break
        line = one_line(result, "cannot be written")
        assert "run" in line, line
        whole_files(here / "run")
    assert result.code == 0 and nth > 1, (nth, result.err)


@long_table("mode", ["fit", "update", "export", "ablation"], every=4)
def test_a_disk_that_fills_while_a_file_is_written(faulty, here, mode):
    most = 20_000 if mode != "ablation" else 50_000
    result = faulty(SMALL_FILES.format(most=most), *WRITERS[mode])
    one_line(result, "cannot be written", "run")
    assert "enforce fail" not in result.err  # torch's words for it
    whole_files(here / "run")


def test_a_rank_that_lost_another_leaves_the_word_to_that_one(monkeypatch):
    text = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"
    assert "another process of this run has ended" in error_line(RuntimeError(text))
    monkeypatch.setenv("LOCAL_RANK", "1")
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    with pytest.raises(SystemExit, match="error: a line"):
        leave("a line")
    # By then this process has ended with the first, if that ends.
    assert sum(waited) > _LOOK_SECONDS


@pytest.mark.parametrize("mode", ["fit", "predict", "export"])
def test_a_folder_that_cannot_be_written(zygote, here, mode):
    args = [w.replace("=run", "=/proc/nowhere") for w in WRITERS[mode]]
    result = zygote.run(args, here)
    one_line(result, "/proc/nowhere")


# --- NaN ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def black(here) -> Path:
    """A tree in black/ whose image 002 of train/good, 001 of test/good is black."""
    from PIL import Image

    shutil.copytree(here / "data", here / "black")
    for part in ("train/good/002.png", "test/good/001.png"):
        Image.new("L", (40, 32)).save(here / "black" / part)
    return here


TRAIN, TEST = "black/train/good/002.png", "black/test/good/001.png"
NAN_MODES = {
    "fit": ([*TINY, "data.root=black"], TRAIN),
    "fisher": ([*TINY, "data.root=black", "proj=fisher"], TRAIN),
    "test": ([*TINY, "data.root=black", "ckpt=fitted/model.ckpt"], TEST),
    "update": (["mode=update", "ckpt=fitted/model.ckpt", "images=black/train/good",
                "repeats=count", "trainer=cpu", "hydra.run.dir=run"], TRAIN),
    "predict": (["mode=predict", "ckpt=fitted/model.ckpt", "images=black/test/good",
                 "trainer=cpu", "hydra.run.dir=run"], TEST),
    "ablation": ([*TINY_SWEEP, "data.root=black", "experiment=ablation", "projs=[jl]", "dims=[4]",
                  "seeds=[0]", "hydra.run.dir=run"], TRAIN),
}  # fmt: skip


@long_table(
    ("mode", "value"),
    [*((mode, "nan") for mode in NAN_MODES), ("fit", "inf"), ("ablation", "inf")],
    every=4,
)
def test_nan_stops_with_the_name_of_the_image(faulty, black, mode, value):
    args, name = NAN_MODES[mode]
    result = faulty(NAN.format(value=value), *args)
    one_line(result, name, "not finite")
    assert not (black / "run" / "metrics.json").exists()


@pytest.mark.slow
def test_nan_in_a_checkpoint_stops_every_mode(zygote, here):
    content = torch.load(here / "fitted" / "model.ckpt", weights_only=True)
    content["padim_lit"]["scatter"][0][3, 0, 0] = torch.nan
    torch.save(content, here / "nan.ckpt")
    for args in (
        ["mode=merge", "ckpts=[fitted/model.ckpt,nan.ckpt]", "repeats=count"],
        ["mode=predict", "ckpt=nan.ckpt", "images=data/test/good", "trainer=cpu"],
        [*TINY, "ckpt=nan.ckpt"],
    ):
        one_line(zygote.run([*args, "hydra.run.dir=run"], here), "nan.ckpt", "scatter", "finite")
