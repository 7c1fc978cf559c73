"""What a file or a config may not make the program do.

Elsewhere: archives that reach out of their folder and checksums (test_download.py), pages that
escape what they show (test_html_report.py), pickles in checkpoints (test_checkpoint.py,
test_fuzz.py), weights files (test_backbone.py) and resamples (test_sweepfolder.py).
"""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from _helpers.cli import TINY
from _helpers.fuzzing import Harmful
from _helpers.tables import long_table
from _helpers.trees import build_tree

from padim_lit import Backbone, InputError
from padim_lit.cli import targets
from padim_lit.cli.overrides import own_packages
from padim_lit.cli.targets import require_targets
from padim_lit.data.cache import PictureCache
from padim_lit.data.items import Item
from padim_lit.data.transform import ResizeCrop
from padim_lit.system.torch_file import damage

ROOT = Path(__file__).parents[2]
SOURCES = [*sorted((ROOT / "padim_lit").rglob("*.py")), ROOT / "run.py"]
#: Calls that execute what they are given, by the end of their dotted names.
NEVER = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load",
         "pickle.loads", "marshal.loads", "shelve.open", "yaml.load", "yaml.unsafe_load",
         "yaml.full_load", "joblib.load", "dill.load", "dill.loads", "cloudpickle.loads",
         "pickle.Unpickler", "tempfile.mktemp", "np.fromregex", "read_pickle"}  # fmt: skip
#: Functions that are safe with one argument set so.
ONLY_WITH = {
    "torch.load": ("weights_only", True),
    "load_state_dict": ("weights_only", True),  # timm's; a module's has a dot before it
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "…"


def offences(source: str) -> list[str]:
    """Calls in a module that could execute what they read."""
    found, tree, imported = [], ast.parse(source), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {one.asname: one.name for one in node.names if one.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, given = name_of(node.func), {k.arg: k.value for k in node.keywords}
        first, dot, rest = name.partition(".")
        names = {name, imported.get(first, first) + dot + rest}  # as it is called, and what it is
        shell = given.get("shell")
        if names & NEVER or (isinstance(shell, ast.Constant) and shell.value):
            found.append(f"line {node.lineno}: {name}")
        for known in names & ONLY_WITH.keys():
            key, value = ONLY_WITH[known]
            right = given.get(key)
            if not isinstance(right, ast.Constant) or right.value is not value:
                found.append(f"line {node.lineno}: {name} without {key}={value}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_executes_what_it_reads(path):
    assert offences(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    ["eval(x)", "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f)",
     "subprocess.run(x, shell=True)", "yaml.load(x)", "np.load(f, allow_pickle=True)",
     "from pickle import load as x; x(f)", "from torch import load; load(f)",
     "import pickle as p; p.load(f)"],
)  # fmt: skip
def test_the_search_finds_what_it_is_for(line):
    assert len(offences(f"def f():\n    {line}")) == 1
    assert offences("torch.load(f, weights_only=True); model.eval(); re.compile(x)") == []


def test_a_picture_cache_holds_no_pickle(tmp_path):
    build_tree(tmp_path / "data")
    cache, item = PictureCache(tmp_path / "cache"), Item(tmp_path / "data/train/good/000.png")
    made = cache(item, ResizeCrop(32, 32))
    (entry,) = (p for p in (tmp_path / "cache").rglob("*") if p.is_file())
    import pickle

    entry.write_bytes(pickle.dumps(Harmful(tmp_path / "x")))
    assert np.array_equal(cache(item, ResizeCrop(32, 32)).pixels, made.pixels)
    assert not (tmp_path / "x").exists()


# --- Weights that are damaged ------------------------------------------------------------------


def test_a_flipped_bit_in_a_weights_file_is_noticed(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(Backbone("test_resnet", weights="random").net.state_dict(), path)
    assert damage(path) is None
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"w\.pth: damaged since it was written"):
        Backbone("test_resnet", weights=str(path))


def test_nan_in_a_weights_file_is_named(tmp_path):
    import timm

    state = timm.create_model("test_resnet").state_dict()
    name = next(iter(state))
    state[name].view(-1)[3] = torch.nan
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=rf"w\.pth: {name} is not finite"):
        Backbone("test_resnet", weights=str(tmp_path / "w.pth"))


# --- Configs -----------------------------------------------------------------------------------


@long_table(
    "override",
    [
        "proj._target_=os.system",
        "data._target_=subprocess.run",
        "backbone._target_=builtins.eval",
        "+trainer.profiler={_target_:os.system,command:'touch harmed'}",
        "+trainer.plugins=[{_target_:os.system,command:'touch harmed'}]",
        "proj._target_=torch.os.system",
        "proj._target_=numpy.f2py.os.system",
        "proj._target_=padim_lit.model.weights.os.system",
        "+data.more={_target_:os.system,command:'touch harmed'}",
        "logger={_target_:os.system,command:'touch harmed'}",
        "proj._target_=torch.load",
        "data={_target_:torch.hub.load,repo_or_dir:x,model:y}",
        "backbone._target_=numpy.load",
        "backbone._target_=joblib.load",
        "proj._target_=padim_lit.model.weights.torch.load",
        "proj._target_=padim_lit.system.atomic.write_text",
        "+trainer.plugins=[{_target_:lightning.fabric.utilities.cloud_io._load,path_or_url:x}]",
        "+hydra.callbacks.x._target_=os.getcwd",
        "hydra.job_logging.handlers.console.class=os.system",
    ],
    every=3,
)
def test_a_config_calls_nothing_but_what_it_may_name(zygote, tmp_path, override):
    build_tree(tmp_path / "data")
    result = zygote.run([*TINY, override], tmp_path)
    assert result.code == 1 and "Traceback" not in result.out + result.err, result.err
    assert result.err.count("error: ") == 1
    assert not (tmp_path / "harmed").exists() and not list(tmp_path.rglob("metrics.json"))


def test_own_packages_are_named_where_the_user_types_them(monkeypatch):
    monkeypatch.setattr(targets, "_own", set())
    mine = {"_target_": "my_package.data.Parts", "more": [{"_target_": "padim_lit.x.Y"}]}
    with pytest.raises(InputError, match=r"add own=\[my_package\] to the command line"):
        require_targets(mine)
    targets.allow(own_packages(["dim=3", "own=[my_package,'other']"]))
    with pytest.raises(InputError, match=r"cannot be imported \(No module named 'my_package'\)"):
        require_targets(mine)  # it may be named, and is not there
    with pytest.raises(InputError, match=r"a\.b: _target_=os\.system"):
        require_targets({"a": {"b": {"_target_": "os.system"}}})


def test_a_file_does_not_say_what_may_be_named(zygote, tmp_path):
    build_tree(tmp_path / "data")
    (tmp_path / "conf" / "proj").mkdir(parents=True)
    (tmp_path / "conf" / "proj" / "bad.yaml").write_text("_target_: torch.load\nf: x\n")
    (tmp_path / "conf" / "experiment").mkdir()
    (tmp_path / "conf" / "experiment" / "bad.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /proj: bad\nown: [torch]\n"
    )
    words = [word for word in TINY if not word.startswith("proj=")]
    result = zygote.run(["--config-dir", "conf", "experiment=bad", *words], tmp_path)
    assert result.code == 1 and "_target_=torch.load: a config names" in result.err, result.err


def test_a_file_does_not_sweep_what_may_be_named(zygote, tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "bad.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      +own: '[torch]'\n"
    )
    result = zygote.run(["-m", "--config-dir", "conf", "experiment=bad", *TINY], tmp_path)
    assert result.code == 1 and "own counts on the command line alone" in result.err, result.err


def test_files_of_ones_own_that_are_wrong_are_one_line_that_says_where(zygote, tmp_path):
    build_tree(tmp_path / "data")
    for group in ("data", "backbone", "proj", "density", "experiment"):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "mine.yaml").touch()
    (tmp_path / "conf/experiment/mine.yaml").write_text("# @package _global_\nfoo: 3\n")
    for group in ("data", "backbone", "proj", "density"):
        words = [word for word in TINY if not word.startswith(group)]
        result = zygote.run(["--config-dir", "conf", f"{group}=mine", *words], tmp_path)
        assert result.code == 1 and f"{group}: its file names no class" in result.err, result.err
    result = zygote.run(["--config-dir", "conf", "experiment=mine", *TINY], tmp_path)
    assert result.code == 1 and "experiment=mine: sets foo" in result.err, result.err


HARM = "{_target_: torch.save, obj: 1, f: harmed}"


@pytest.mark.parametrize(
    ("evil", "said"),
    [
        # Each writes a file where what it brings is not looked at once it is filled in.
        (f"hydra: {{callbacks: {{a: \"${{oc.decode:'{HARM}'}}\"}}}}", "torch.save: Hydra's"),
        (f"trainer: {{plugins: \"${{oc.decode:'[{HARM}]'}}\"}}", "trainer.plugins.0"),
        (
            "trainer: {evil: {x: {(): torch.save, obj: 1, f: harmed}}}\n"
            "hydra: {job_logging: {formatters: '${trainer.evil}'}}",
            "torch.save: Hydra's section names",
        ),
        # What a text becomes is not filled in once more.
        (f"trainer: {{plugins: ['\\${{oc.decode:\"{HARM}\"}}']}}", "plugin ${oc.decode:"),
    ],
)
def test_a_file_brings_no_call_by_what_is_filled_in(zygote, tmp_path, evil, said):
    build_tree(tmp_path / "data", train=3, test={"good": 1, "crack": 1})
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = f"# @package _global_\n{evil}\n"
    (tmp_path / "conf" / "experiment" / "evil.yaml").write_text(text)
    result = zygote.run(["--config-dir", "conf", "experiment=evil", *TINY], tmp_path)
    assert not (tmp_path / "harmed").exists() and "Traceback" not in result.err, result.err
    assert result.code == 1 and said in result.err, result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_strangers_run_folder_brings_no_call(zygote, tmp_path):
    build_tree(tmp_path / "data", train=3, test={"good": 1, "crack": 1})
    assert zygote.run(TINY, tmp_path).code == 0
    config = tmp_path / "run" / "config.yaml"
    text = config.read_text()
    assert "\ntrainer:\n" in text
    evil = f"\ntrainer:\n  plugins: \"${{oc.decode:'[{HARM}]'}}\"\n"
    config.write_text(text.replace("\ntrainer:\n", evil))
    words = ["--config-path", "run", "--config-name", "config", "hydra.run.dir=again"]
    result = zygote.run(words, tmp_path)
    assert result.code == 1 and "_target_=torch.save: a config names" in result.err, result.err
    assert not (tmp_path / "harmed").exists()


@pytest.mark.slow
def test_what_comes_from_the_environment_is_used_and_not_written(zygote, tmp_path):
    build_tree(tmp_path / "data-s3cret-token")
    words = [word for word in TINY if not word.startswith(("data.root", "hydra"))]
    words = ["-m", *words, "data.root=data-${oc.env:TOKEN}", "hydra.sweep.dir=sweep"]
    result = zygote.run(words, tmp_path, {"TOKEN": "s3cret-token"})
    assert result.code == 0, result.err
    for name in ("config.yaml", "job.json"):
        text = (tmp_path / "sweep" / "0" / name).read_text()
        assert "s3cret" not in text and "data-${oc.env:TOKEN}" in text


@pytest.mark.slow
def test_another_value_in_the_environment_is_another_job(zygote, tmp_path):
    build_tree(tmp_path / "data", train=4, test={"good": 2, "crack": 2})
    words = ["-m", *TINY, "image_score=${oc.env:SCORE}", "hydra.sweep.dir=sweep"]
    for value, skipped in (("max", False), ("max", True), ("topk", False)):
        result = zygote.run(words, tmp_path, {"SCORE": value})
        assert result.code == 0 and ("done already" in result.out) == skipped, result.err
        metrics = json.loads((tmp_path / "sweep" / "0" / "metrics.json").read_text())
        assert metrics["image_score"] == value
