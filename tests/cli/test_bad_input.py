"""Bad input through the command line: one clear line, exit status 1, nothing half-written."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from _helpers.cli import RESNET18, environment, run_plain
from _helpers.outcome import leftovers, require_one_clear_line, truncate
from _helpers.tables import long_table
from _helpers.trees import build_tree, save_image, save_mask
from hydra import compose, initialize_config_dir

from padim_lit.cli import config
from padim_lit.errors import InputError


class Case(NamedTuple):
    """Arguments beside `RESNET18`, the words that the error must have, and what breaks the data."""

    name: str
    args: str
    words: tuple[str, ...]
    change: Callable[[Path], object] = lambda data: None


def keep(folder: Path, count: int) -> None:
    for path in sorted(folder.iterdir())[count:]:
        path.unlink()


def category(data: Path, *names: str) -> None:
    """The tree becomes MVTec categories."""
    for name in names:
        shutil.copytree(data / "train", data / name / "train")
        shutil.copytree(data / "test", data / name / "test")
        shutil.copytree(data / "ground_truth", data / name / "ground_truth")


def good(n: int, part: str) -> Callable[[Path], Path]:
    return lambda data: data / part / "good" / f"{n:03}.png"


TRAIN, TEST = good(2, "train"), good(1, "test")
REPLACE = "replace or remove it"

DATA = [
    Case("root missing", "data.root=nope", ("no such folder: nope", "set data.root")),
    Case("root is a file", "data.root=file", ("no such folder: file", "set data.root"),
         lambda data: (data.parent / "file").write_text("")),
    Case("root not given", "~data.root data=mvtec data.category=bolt", ("data.root",)),
    Case("category not given", "data=mvtec",
         ("data.category is not set; found in data: bolt, nut",),
         lambda data: category(data, "nut", "bolt")),
    Case("unknown category", "data=mvtec data.category=screww",
         ("unknown category 'screww'", "found in data: bolt, nut"),
         lambda data: category(data, "nut", "bolt")),
    Case("no category at all", "data=mvtec data.category=bolt",
         ("unknown category 'bolt'", "or data.root to the folder that holds it")),
    Case("kind without masks in MVTec", "data=mvtec data.category=bolt",
         ("no masks for test/crack", "bolt/ground_truth/crack"),
         lambda data: (category(data, "bolt"), shutil.rmtree(data / "bolt" / "ground_truth"))),
    Case("train folder empty", "", ("no images in data/train/good", ".png", "add some"),
         lambda data: keep(data / "train" / "good", 0)),
    Case("train folder missing", "",
         ("data.root=data has no train/good", "into train/good and others into test/good"),
         lambda data: shutil.rmtree(data / "train")),
    Case("test folder empty", "", ("no test images: data/test", "add one"),
         lambda data: (shutil.rmtree(data / "test"), (data / "test").mkdir())),
    Case("one training image", "", ("1 training image", "at least 2"),
         lambda data: keep(data / "train" / "good", 1)),
    Case("train image of zero bytes", "", ("cannot read", "data/train/good/002.png", REPLACE),
         lambda data: TRAIN(data).write_bytes(b"")),
    Case("test image of zero bytes", "", ("cannot read", "data/test/good/001.png", REPLACE),
         lambda data: TEST(data).write_bytes(b"")),
    Case("train image unreadable", "", ("cannot read data/train/good/002.png", "PNG", REPLACE),
         lambda data: TRAIN(data).write_text("no image")),
    Case("test image unreadable", "", ("cannot read data/test/good/001.png", "PNG", REPLACE),
         lambda data: TEST(data).write_text("no image")),
    Case("train image truncated", "", ("cannot read data/train/good/002.png", "truncated", REPLACE),
         lambda data: truncate(TRAIN(data))),
    Case("test image truncated", "", ("cannot read data/test/good/001.png", "truncated", REPLACE),
         lambda data: truncate(TEST(data))),
    Case("mask truncated", "", ("cannot read data/ground_truth/crack/001_mask.png", REPLACE),
         lambda data: truncate(data / "ground_truth" / "crack" / "001_mask.png")),
    Case("mask of another size", "",
         ("data/ground_truth/crack/001_mask.png is 32x40", "data/test/crack/001.png is 40x32"),
         lambda data: save_mask(data / "ground_truth" / "crack" / "001_mask.png", (32, 40))),
    Case("mask missing", "", ("no mask for data/test/crack/001.png", "001_mask.png"),
         lambda data: (data / "ground_truth" / "crack" / "001_mask.png").unlink()),
    Case("no Magnetic Tile", "data=mtd", ("no MT_Free in data", "set data.root")),
    Case("unknown kind of ELPV cells", "~data.root data=elpv data.cells=foo",
         ("data.cells=foo", "mono, poly, all")),
]  # fmt: skip

UNKNOWN = (
    "unknown key foo",
    "eps, eps_unit, neighbourhood, rotations, sigma, image_score, alignment, dim",
)
CONFIG = [
    Case("dim > C, subset", "proj=subset dim=449", ("dim=449", "C=448", "proj=subset", "proj=jl")),
    Case("dim > C, orthogonal", "proj=orthogonal dim=449", ("dim=449", "C=448", "dim≤448")),
    Case("dim 0", "dim=0", ("dim=0", "at least 1")),
    Case("dim negative", "dim=-3", ("dim=-3", "at least 1")),
    Case("more components than a machine holds", "density=mixture density.components=99999999999",
         ("density.components=99999999999", "from 1 to 1048576")),
    Case("more than all of a position", "density.position_weight=1.5",
         ("density.position_weight=1.5", "from 0 to 1", "null to learn it")),
    Case("nothing to learn from", "learnt_from=nowhere.ckpt",
         ("learnt_from=nowhere.ckpt: no such file", "model.ckpt of an earlier run")),
    Case("no direction", "rotations=0", ("rotations=0", "from 1", "to 36")),
    Case("dim with dashes", "--dim=5", ("unrecognized arguments: --dim=5", "KEY=VALUE")),
    Case("a sweep's config", "-m --cfg job", ("--cfg prints one config", "leave -m out")),
    Case("dim a word", "dim=abc", ("error: dim=abc: must be a whole number",)),
    Case("dim a fraction", "dim=1.5", ("error: dim=1.5: must be a whole number",)),
    Case("dim null", "dim=null", ("dim=null: null is no value of it; give dim=VALUE",)),
    Case("dim without value", "dim", ("'dim'", "KEY=VALUE")),
    Case("a mode alone", "predict", ("'predict': no KEY=VALUE; did you mean mode=predict?",)),
    Case("a decimal comma", "eps=0,01", ("eps=0,01: several values; add -m", "type eps=0.01")),
    Case("capital letters", "Dim=50", ("unknown key Dim; did you mean dim?",)),
    Case("list without end", "dim=[1", ("error: dim=[1: must be a whole number",)),
    Case("unknown proj", "proj=foo", ("proj/foo", "fisher, identity, jl, npca, orthogonal, pca")),
    Case("unknown backbone", "backbone=vgg",
         ("backbone/vgg", "resnet50v2, timm, wide_resnet50")),
    Case("unknown data", "data=imagenet", ("data/imagenet", "btad, elpv, folder, loco", "mtd")),
    Case("unknown trainer", "trainer=tpu", ("trainer/tpu", "auto, cpu, ddp, gpu")),
    Case("no proj", "proj=null", ("no proj/null; allowed:", "jl")),
    Case("sharding", "trainer.strategy=fsdp", ("trainer: ", "fsdp", "choose trainer=auto, cpu")),
    Case("more ranks than images", "trainer=ddp trainer.accelerator=cpu trainer.devices=50",
         ("cannot be spread over 50 devices", "lower trainer.devices")),
    Case("no trainer", "trainer=null", ("no trainer/null; allowed: auto, cpu, ddp, gpu",)),
    Case("no experiment", "experiment=null", ("no experiment/null; allowed: ablation",)),
    Case("unknown mode", "mode=foo", ("mode/foo", "allowed: ablation", "fit, merge")),
    Case("no mode", "mode=null", ("no mode/null; allowed:", "predict")),
    Case("projs without an ablation", "projs=[jl]", ("projs is no key of mode=fit", "ablation")),
    Case("dims without an ablation", "dims=[4]",
         ("dims is no key of mode=fit", "mode=ablation", "did you mean dim?")),
    Case("seeds without an ablation", "seeds=[0,1]", ("seeds is no key of mode=fit", "ablation")),
    Case("a key of another mode", "format=onnx", ("format is no key of mode=fit", "mode=export")),
    Case("one that is added", "+watch=true", ("watch is no key of mode=fit", "mode=predict")),
    Case("unknown logger", "logger=comet", ("logger/comet", "csv, mlflow, none, tensorboard")),
    Case("unknown key", "foo=1", UNKNOWN),
    Case("unknown key added", "+foo=1", UNKNOWN),
    Case("unknown key of data", "data.foo=1", ("unknown key data.foo", "root")),
    Case("a key of the run", "data.image_size=64",
         ("data.image_size; image_size stands alone: give image_size=VALUE",)),
    Case("a dim of proj", "proj=sparse proj.dim=8", ("proj.dim; dim stands alone", "density")),
    Case("unknown key of data added", "+data.foo=1", ("unknown key data.foo", "root")),
    Case("unknown key of proj", "proj=sparse proj.foo=1", ("unknown key proj.foo", "density")),
    Case("a key of other data", "~data.root data=elpv data.root=data",
         ("unknown key data.root; did you mean data=folder data.root=DIR? known here:",)),
    Case("a key of another density", "density=position density.components=4",
         ("unknown key density.components; known here: density.name",)),
    Case("unknown key of trainer", "trainer.foo=1", ("trainer.foo", "+trainer.foo=1")),
    Case("unknown key of trainer added", "+trainer.foo=1", ("trainer:", "'foo'")),
    Case("epochs no whole number", "trainer.max_epochs=1.0",
         ("error: trainer.max_epochs=1.0: must be a whole number",)),
    Case("ranks that are spawned", "trainer.strategy=ddp_spawn",
         ("trainer.strategy=ddp_spawn", "use trainer=ddp")),
    Case("a launcher from elsewhere", "own=[mine] hydra.launcher._target_=mine.Launcher",
         ("hydra.launcher._target_=mine.Launcher", "hydra/launcher=NAME")),
    Case("what optimisers have", "+trainer.gradient_clip_val=1", ("trainer: Automatic gradient",)),
    Case("unknown layer", "backbone.layers=[1,9]",
         ("no layer 9", "1 (layer1, 64 channels, stride 4)", "4 (layer4")),
    Case("layers by name", "backbone.layers=[layer2,layer3]",
         ("error: backbone.layers[0]=layer2: must be a whole number",)),
    Case("no layers", "backbone.layers=[]", ("layers=[]", "1 (layer1")),
    Case("layer twice", "backbone.layers=[1,1]", ("layers=[1, 1]", "1 (layer1")),
    Case("weights of another architecture", "backbone.weights=other.pth",
         ("other.pth", "another architecture than resnet18", "conv1.weight", "change the backbone"),
         lambda data: torch.save({"a": torch.zeros(2)}, data.parent / "other.pth")),
    Case("weights missing", "backbone.weights=nope.pth",
         ("nope.pth: no such file", "pretrained, random")),
    Case("weights no state dict", "backbone.weights=text.pth",
         ("text.pth: not a readable state dict", "torch.save"),
         lambda data: (data.parent / "text.pth").write_text("hello")),
    Case("weights not to be had", "backbone.weights=pretrained",
         ("resnet18.tv_in1k", "cannot be had", "HF_ENDPOINT", "backbone.weights=FILE",
          "backbone=efficientnet_lite0", "backbone.weights=random")),
    Case("timm without name", "backbone=timm", ("backbone.name is not set",)),
    Case("unknown timm model", "backbone=timm backbone.name=resnet1",
         ("'resnet1' is no timm model", "timm.list_models()")),
    Case("size that the transformer refuses", "backbone=timm backbone.name=hiera_tiny_224",
         ("hiera_tiny_224", "64×64", "set image_size")),
    Case("checkpoint missing", "ckpt=nope.ckpt", ("ckpt=nope.ckpt: no such file", "model.ckpt")),
    Case("checkpoint of another kind", "ckpt=other.ckpt",
         ("ckpt=other.ckpt", "not a padim_lit checkpoint", "model.ckpt"),
         lambda data: torch.save({"state_dict": {}}, data.parent / "other.ckpt")),
    Case("checkpoint a text", "ckpt=text.ckpt",
         ("ckpt=text.ckpt: not a readable checkpoint", "model.ckpt"),
         lambda data: (data.parent / "text.ckpt").write_text("hello")),
    Case("eps 0 with N ≤ D", "eps=0 density=position",
         ("eps=0.0", "4 training images", "dim=8", "eps > 0")),
    Case("eps negative with N ≤ D", "eps=-1", ("eps=-1.0", "eps > 0")),
    Case("eps negative with N > D", "eps=-1 dim=2", ("eps=-1.0", "set eps > 0")),
    Case("eps no number", "eps=nan", ("eps=nan", "0 or more")),
    Case("eps infinite", "eps=inf", ("eps=inf", "0 or more")),
    Case("sigma negative", "sigma=-1", ("sigma=-1.0", "between 0 (no blur) and")),
    Case("alignment unknown", "alignment=yes", ("alignment=yes", "auto (measured), null (none)")),
    Case("alignment far off", "alignment=[999,0]", ("alignment=[999, 0]", "half of the image")),
    Case("sigma no number", "sigma=nan", ("sigma=nan", "between 0 (no blur) and")),
    Case("crop larger than the image", "crop_size=65",
         ("crop_size=65", "image_size=64", "lower crop_size or raise image_size")),
    Case("crop no pair", "crop_size=[64]", ("crop_size=[64]", "[h,w]")),
    Case("image_size 0", "image_size=0", ("image_size=0", "whole number")),
    Case("image_size a word", "image_size=abc", ("image_size=abc", "whole number")),
    Case("grid 0", "grid=0", ("grid=0", "between 1 and", "16×16", "grid=null")),
    Case("grid finer than the layers", "grid=17", ("grid=17", "16×16", "grid=null")),
    Case("density 0", "proj=sparse proj.density=0", ("proj.density=0", "'auto'", "(0, 1]")),
    Case("density 2", "proj=sparse proj.density=2", ("proj.density=2", "'auto'", "(0, 1]")),
    Case("density a word", "proj=sparse proj.density=x", ("proj.density=x", "'auto'", "(0, 1]")),
    Case("density null", "proj=sparse proj.density=null", ("proj.density=None", "(0, 1]")),
    Case("batch_size 0", "batch_size=0", ("batch_size=0", "at least 1")),
    Case("num_workers negative", "num_workers=-1", ("num_workers=-1", "at least 0")),
    Case("no GPU", "trainer=gpu", ("trainer:", "gpu", "trainer=auto, cpu, gpu or ddp")),
    Case("precision that rounds moments", "trainer.precision=bf16-true",
         ("trainer.precision=bf16-true", "32-true or bf16-mixed")),
    Case("unknown precision", "trainer.precision=foo", ("trainer:", "'foo'", "32-true")),
    Case("no epoch", "trainer.max_epochs=0", ("nothing was fitted: no epoch",)),
    Case("no batch", "+trainer.limit_train_batches=0", ("nothing was fitted", "batches")),
    Case("W&B online without a key", "logger=wandb logger.offline=false",
         ("no W&B API key", "logger.offline=true")),
    Case("no such location", "backbone.feature_location=block",
         ("feature_location=block", "bottleneck and expansion")),
    Case("W&B online by no, without a key", "logger=wandb logger.offline=no", ("no W&B API key",)),
    Case("W&B offline perhaps", "logger=wandb logger.offline=maybe",
         ("error: logger.offline=maybe: must be true or false",)),
    Case("one tag", "logger=wandb logger.tags=a", ("logger.tags: must be a list, as in",)),
    Case("output below a file", "hydra.run.dir=file/run",
         ("error: file/run cannot be written (Not a directory); choose a writable folder",),
         lambda data: (data.parent / "file").write_text("")),
    Case("a folder that no file can be made in", "hydra.run.dir=full",
         ("full/run.log cannot be written (Is a directory); choose a writable folder",),
         lambda data: (data.parent / "full" / "run.log").mkdir(parents=True)),
]  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return build_tree(tmp_path_factory.mktemp("tree"), train=4, test={"good": 2, "crack": 2})


@pytest.fixture
def here(tree, tmp_path) -> Path:
    """A working directory with a good tree in data/."""
    shutil.copytree(tree, tmp_path / "data")
    return tmp_path


@long_table("case", DATA + CONFIG, every=4, ids=lambda case: case.name)
def test_bad_input_is_one_clear_line_and_leaves_nothing(zygote, here, case):
    case.change(here / "data")
    extra = case.args.split()
    args = [a for a in RESNET18 if f"~{a.partition('=')[0]}" not in extra]
    result = zygote.run([*args, *(a for a in extra if a[0] != "~")], here)
    require_one_clear_line(result, case.words)
    assert leftovers(here) == []
    assert result.seconds < 30


@pytest.mark.slow
def test_bad_input_is_one_clear_line_in_a_process_of_its_own(here):
    result = run_plain([*RESNET18, "data.root=nope"], here, environment(here))
    require_one_clear_line(result, ("no such folder: nope", "set data.root"))
    assert leftovers(here) == []


def test_full_tracebacks_are_there_for_who_asks(zygote, here):
    result = zygote.run([*RESNET18, "data.root=nope"], here, {"HYDRA_FULL_ERROR": "1"})
    assert result.code == 1 and "Traceback" in result.err


# --- Sweeps ----------------------------------------------------------------------------------


def test_a_sweep_with_an_unknown_option_runs_no_job(zygote, here):
    result = zygote.run(["-m", *RESNET18, "proj=jl,foo", "hydra.sweep.dir=sweep"], here)
    require_one_clear_line(result, ("proj/foo", "orthogonal"))
    assert leftovers(here) == []


def test_a_sweep_over_no_option_runs_no_job(zygote, here):
    result = zygote.run(["-m", *RESNET18, "proj=jl,null", "hydra.sweep.dir=sweep"], here)
    require_one_clear_line(result, ("no proj/null; allowed:",))
    assert leftovers(here) == []


def test_a_sweep_over_a_mode_that_is_none_runs_no_job(zygote, here):
    result = zygote.run(["-m", *RESNET18, "mode=foo,fit", "hydra.sweep.dir=sweep"], here)
    require_one_clear_line(result, ("mode/foo", "fit"))
    assert leftovers(here) == []


@long_table(
    ("args", "words"),
    [
        ("mode=predict dim=3", ("dim is no key of mode=predict", "mode=fit, mode=figure4")),
        (
            "mode=predict roi=a.png",
            ("roi is no key of mode=predict", "leave it out: what a model was fitted with stays"),
        ),
        ("mode=predict data=elpv", ("data is no key", "mode=calibrate")),
        ("images=a.png", ("images is no key of mode=fit", "mode=predict", "type one of these")),
        ("mode=fit eps=[1]", ("error: eps=[1]: must be a number",)),
        ("mode=serve undecided=perhaps", ("error: undecided=perhaps: must be true or false",)),
        ("mode=merge trainer=cpu", ("trainer is no key of mode=merge", "mode=predict")),
        (
            "mode=predict ckpt=a images=[12.30,0x10]",
            (
                "images=[12.30,0x10]: a text, and no list; give a",
                "images='\"[12.30,0x10]\"'",
            ),
        ),
        ("mode=export batch_size=3", ("batch_size is no key of mode=export", "mode=predict")),
        (
            "mode=predict density.fit_images=3 ckpt=a images=b",
            ("density.fit_images=3: mode=predict does not use it", "leave it out"),
        ),
        ("mode=predict ckpt=a images=b threshold=nan", ("threshold=nan", "finite")),
        # Scores are distances: at 0 all would be called defective, and all of what roi leaves out.
        ("mode=predict ckpt=a images=b threshold=0", ("threshold=0", "above 0")),
        ("ckpt=a learnt_from=b", ("ckpt=a", "learnt_from=b", "give one of the two")),
        ("mode=predict ckpt=a images=b false_alarm_rate=2", ("false_alarm_rate=2", "between")),
        ("mode=predict ckpt=a images=b overlays=nonsense", ("overlays=nonsense", "anomalous")),
        ("mode=predict ckpt=a images=b batch_size=-1", ("batch_size=-1", "at least 1")),
        (f"mode=predict ckpt=a images=b batch_size={2**63}", (f"batch_size={2**63}", "at most")),
        ("mode=calibrate ckpt=a images=b num_workers=1025", ("num_workers=1025", "at most 1024")),
        (f"experiment=ablation data=folder data.root=b dims=[{2**31}]", ("from 1 to 65536",)),
        (f"mode=fit data.root=b data=folder dim={10**30}", (f"dim={10**30}", "at most")),
        ("mode=calibrate ckpt=a images=b num_workers=-1", ("num_workers=-1", "at least 0")),
        ("mode=update ckpt=a data=folder data.root=b seed=-1", ("seed=-1",)),
        ("mode=update ckpt=a images=b data=folder data.root=b", ("give images=FILE", "not both")),
        ("mode=export ckpt=a threshold=inf", ("threshold=inf", "finite")),
        ("experiment=ablation data=folder data.root=b max_memory_gb=nan", ("max_memory_gb=nan",)),
        ("mode=merge ckpts=a.ckpt", ("ckpts=a.ckpt: must be a list; write ckpts=[a.ckpt]",)),
        ("mode=merge ckpts=[a,b] repeats=maybe", ("repeats=maybe", "refuse, count")),
        ("experiment=ablation data=folder data.root=b eps=nan", ("eps=nan", "0 or more")),
        ("mode=fit data=folder data.root=b eps=1e300", ("eps=1e+300", "at most 1e+09")),
        ("experiment=distortion data=folder density=mixture", ("density=mixture", "leave it out")),
        (
            "experiment=ablation data=folder proj=npca",
            ("proj=npca", "projs names what"),
        ),
        (
            "experiment=ablation data=folder proj=npca projs=[npca,jl] proj.sketch=20",
            ("proj.sketch=20: mode=ablation does not use it", "leave it out"),
        ),
        ("experiment=figure4 data=folder data.root=b rows=0", ("rows=0", "at least 1")),
        # Keys that this run would not read, and others of its mode do.
        (
            "mode=predict ckpt=a images=b watch_idle=3",
            ("watch_idle=3 is of watch=true: give that, or leave watch_idle out",),
        ),
        ("mode=predict ckpt=a images=b undecided=true", ("undecided=true is of watch=true",)),
        ("mode=calibrate ckpt=a threshold=7 batch_size=5", ("batch_size=5 is of images=FILES or",)),
        ("mode=update ckpt=a images=b seed=3", ("seed=3 is of data=NAME",)),
        (
            "data=folder data.root=b calibration=0 false_alarm_rate=0.3",
            ("false_alarm_rate=0.3 is of calibration=NUMBER above 0",),
        ),
    ],
    every=3,
)
def test_values_are_checked_and_keys_known_in_every_mode(zygote, tmp_path, args, words):
    result = zygote.run([*args.split(), "hydra.run.dir=run"], tmp_path)
    require_one_clear_line(result, words)
    assert leftovers(tmp_path) == []


def test_a_key_that_a_run_does_not_read_may_stand_in_a_file():
    words = ["mode=predict", "ckpt=a", "images=b", "watch_idle=3"]
    config.register()
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        composed = compose("config", words)
    assert config.settings_of(composed, words[:-1]).watch_idle == 3
    with pytest.raises(InputError, match="watch_idle=3 is of watch=true"):
        config.settings_of(composed, words)


def test_a_sweep_folder_below_a_file_is_refused(zygote, here):
    (here / "file").write_text("")
    result = zygote.run(["-m", *RESNET18, "dim=4,8", "hydra.sweep.dir=file/sweep"], here)
    require_one_clear_line(result, ("file/sweep cannot be written", "choose a writable folder"))


@pytest.mark.slow
def test_jobs_of_a_sweep_use_one_device(zygote, here):
    result = zygote.run(
        ["-m", *RESNET18, "dim=4,8", "trainer.devices=2", "hydra.sweep.dir=sweep"], here
    )
    require_one_clear_line(result, ("2 of 2 jobs failed",))
    assert result.out.count("a sweep uses one device per job") >= 2 and "trainer=auto" in result.out
    assert leftovers(here) == []


# --- Poor data is no bad input ---------------------------------------------------------------


@long_table(
    ("name", "test", "masks", "null", "why"),
    [
        ("no defects", {"good": 3}, False, ("image", "pixel"), ("no defective image", "mask")),
        ("no good", {"crack": 3}, True, ("image",), ("no good image", None)),
        ("no masks", {"good": 2, "crack": 2}, False, ("pixel",), (None, "mask")),
    ],
    every=3,
)
def test_metrics_that_cannot_be_computed_are_null_with_a_reason(
    zygote, tmp_path, name, test, masks, null, why
):
    build_tree(tmp_path / "data", train=3, test=test, masks=masks)
    result = zygote.run(RESNET18, tmp_path)
    assert result.code == 0, result.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for part, reason in zip(("image", "pixel"), why, strict=True):
        for key in ("auroc", "ap", "aupro" if part == "pixel" else "f1max"):
            value, because = metrics[f"test/{part}_{key}"], metrics.get(f"test/{part}_{key}_why")
            if part in null:
                assert value is None and reason in because
                notes = {"no defects": "No defective test images", "no masks": "No masks: pixel"}
                said = notes.get(name, because)
                assert said in re.sub(r"\s+", " ", result.out)
            else:
                assert 0 <= value <= 1 and because is None
    assert len(list((tmp_path / "run" / "heatmaps").glob("*.png"))) >= 2


@pytest.mark.slow
def test_odd_images_are_no_bad_input(zygote, here):
    save_image(here / "data" / "train" / "good" / "wide.png", (300, 9))
    save_image(here / "data" / "test" / "good" / "dot.png", (1, 1))
    result = zygote.run(RESNET18, here)
    assert result.code == 0, result.err
