"""A projection, a density, a dataset and a backbone of one's own, as docs/own.md shows them."""

import csv
import inspect
import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from _helpers.cli import ROOT, TINY, TINY_SWEEP
from _helpers.outcome import require_one_clear_line
from _helpers.tables import long_table
from _helpers.trees import build_tree
from hydra.errors import InstantiationException

from padim_lit import Backbone
from padim_lit.cli import targets
from padim_lit.cli.build import own_code
from padim_lit.cli.messages import one_line
from padim_lit.cli.targets import load
from padim_lit.data import AnomalyData
from padim_lit.errors import InputError

OWN = ["--config-dir", str(ROOT / "examples" / "conf"), "own=[examples]"]
PATH = {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def here(tmp_path_factory, zygote):
    folder = tmp_path_factory.mktemp("own")
    build_tree(folder / "data", train=8, test={"good": 4, "crack": 3})
    data = folder / "data"
    files = [*sorted(data.glob("train/*/*.png")), *sorted(data.glob("test/*/*.png"))]
    rows = [(file.relative_to(data), file.parent.name) for file in files]
    with (data / "labels.csv").open("w", newline="") as table:
        csv.writer(table).writerows([("file", "kind"), *rows])
    args = [
        *OWN,
        *TINY,
        "proj=hash",
        "density=single",
        "backbone=plain_cnn",
        "backbone.weights=random",
    ]
    args = [*[a for a in args if a != "data=folder"], "data=table", "data.test_good=4"]
    args = [
        a for a in args if a not in ("proj=jl", "backbone=resnet18", "backbone.model=test_resnet")
    ]
    result = zygote.run(args, folder, PATH)
    assert result.code == 0, result.err
    return folder


def test_all_four_are_what_ran(here):
    found = json.loads((here / "run" / "metrics.json").read_text())
    assert (found["proj"], found["density"]) == ("hash", "single")
    assert found["backbone"] == "plain_cnn"
    assert found["embedding_dim"] == 32 + 64 + 128
    assert (found["data"], found["fit/images"], found["test/images"]) == ("table/data", 8, 7)
    assert found["test/image_auroc"] is not None and found["test/pixel_auroc"] is None


def test_their_checkpoint_comes_back_where_they_are_imported(zygote, here):
    args = ["mode=predict", "ckpt=run/model.ckpt", "images=data/test", "trainer=cpu"]
    own = ["proj=hash", "density=single", "backbone=plain_cnn"]
    result = zygote.run([*OWN, *args, *own, "hydra.run.dir=p"], here, PATH)
    assert result.code == 0, result.err
    with (here / "run" / "predictions.csv").open(newline="") as file:
        tested = {row["path"]: float(row["score"]) for row in csv.DictReader(file)}
    with (here / "p" / "predictions.csv").open(newline="") as file:
        again = {row["path"]: float(row["score"]) for row in csv.DictReader(file)}
    shared = tested.keys() & again.keys()
    assert len(shared) >= 3
    assert all(again[path] == pytest.approx(tested[path], rel=1e-5) for path in shared)
    result = zygote.run([*args, "hydra.run.dir=q"], here, PATH)
    assert result.code == 1 and len(result.err.strip().splitlines()) == 1
    again = "--config-dir DIR own=[PACKAGE] backbone=plain_cnn; in Python import its module"
    assert f"name it again on the command line: {again}" in result.err


def test_a_module_that_is_not_there_is_one_line(zygote, here):
    result = zygote.run(
        [*TINY, "own=[nowhere]", "proj._target_=nowhere.Thing", "hydra.run.dir=x"], here
    )
    assert result.code == 1 and "proj._target_=nowhere.Thing" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_why_a_module_in_a_package_cannot_be_imported_is_said(tmp_path, monkeypatch):
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "parts.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(targets, "_own", {"own_package"})
    with pytest.raises(InputError, match=r"parts\.Mine.*No module named 'not_installed_anywhere'"):
        load("own_package.parts.Mine")
    (package / "parts.py").write_text("class Other: ...\n")
    with pytest.raises(InputError, match=r"parts\.Mine.*has no attribute 'Mine'"):
        load("own_package.parts.Mine")


def test_a_change_of_own_code_is_a_change(tmp_path, monkeypatch):
    (tmp_path / "changed" / "deep").mkdir(parents=True)
    (tmp_path / "alone.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for text in ("x = 1\n", "x = 2\n"):
        (tmp_path / "changed" / "deep" / "parts.py").write_text(text)
        found.append(own_code(SimpleNamespace(own=["changed", "alone", "nowhere_at_all"])))
    assert [sorted(f) for f in found] == [
        [f"own: {tmp_path / 'alone.py'}", f"own: {tmp_path / 'changed/deep/parts.py'}"]
    ] * 2
    differing = {key for key in found[0] if found[0][key] != found[1][key]}
    assert differing == {f"own: {tmp_path / 'changed/deep/parts.py'}"}


def test_a_table_that_is_not_there_is_one_line(zygote, here):
    args = [a for a in TINY if a != "data=folder"]
    result = zygote.run([*OWN, *args, "data=table", "data.table=no.csv"], here, PATH)
    assert result.code == 1 and "no.csv" in result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.parametrize(("mark", "between"), [("\ufeff", ","), ("", ";")])
def test_a_table_as_excel_writes_it_is_read_or_refused_in_one_line(zygote, here, mark, between):
    text = (here / "data" / "labels.csv").read_text().replace(",", between)
    (here / "data" / "excel.csv").write_text(mark + text)
    args = [a for a in TINY if a not in ("data=folder", "hydra.run.dir=run")]
    args += ["data=table", "data.table=excel.csv", "data.test_good=4", "hydra.run.dir=excel"]
    result = zygote.run([*OWN, *args], here, PATH)
    if mark:
        assert result.code == 0, result.err
        found = json.loads((here / "excel" / "metrics.json").read_text())
        assert (found["fit/images"], found["data/test_defective"]) == (8, 3)
        return
    require_one_clear_line(result, ("excel.csv: columns are ['file;kind']", "by commas"))


def test_what_an_own_class_raises_is_named_with_its_type(tmp_path, monkeypatch):
    (tmp_path / "raises.py").write_text("def mine():\n    return {}['file']\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(targets, "_own", {"raises"})
    with pytest.raises(InstantiationException) as error:
        targets.instantiate({"_target_": "raises.mine"})
    assert one_line(error.value) == "raises.mine: KeyError: 'file'"


def test_objects_are_made_within_objects_and_nothing_is_filled_in():
    half = {"_target_": "padim_lit.model.ridge.Ridge", "eps": 0.5}
    made = targets.instantiate({"all": [half], "text": "${a}"}, more=3)
    assert made["all"][0].eps == 0.5
    assert (made["text"], made["more"]) == ("${a}", 3)
    with pytest.raises(InputError, match=r"_target_=os\.getcwd: a config names classes"):
        targets.instantiate({"all": [{"_target_": "os.getcwd"}]})


@pytest.mark.slow
def test_a_sweep_in_one_pass_does_the_others_where_it_cannot_nest(zygote, here):
    args = [a for a in TINY_SWEEP if a not in ("data=folder", "hydra.run.dir=run")]
    args = [*OWN, *args, "data=table", "data.test_good=4", "proj=hash", "experiment=ablation"]
    result = zygote.run(
        [*args, "projs=[hash,jl]", "dims=[2,4]", "seeds=[0]", "hydra.run.dir=sweep"], here, PATH
    )
    assert result.code == 1 and "hash: a smaller dim is another draw" in result.err
    assert "Traceback" not in result.err
    with (here / "sweep" / "sweep.csv").open(newline="") as file:
        assert {(row["proj"], row["dim"]) for row in csv.DictReader(file)} == {
            ("jl", "2"),
            ("jl", "4"),
        }


# --- Outside of the repository ------------------------------------------------------------------

PROJECTION = """
from padim_lit import Projection

class Blocks(Projection):
    \"\"\"The first D channels from an offset on.

    Args:
        offset: the first of them.
    \"\"\"

    name = "blocks"

    def __init__(self, in_channels: int, dim: int, seed: int = 0, offset: int = 0):
        self.offset = offset
        super().__init__(in_channels, dim, seed)

    def draw(self, generator):
        import torch
        return torch.eye(self.in_channels)[self.offset : self.offset + self.dim]
"""
DATA = """
from dataclasses import dataclass
from pathlib import Path
from padim_lit.data import Item, SeenWhole, Split

@dataclass(eq=False)
class Pairs(SeenWhole):
    \"\"\"Two folders.

    Args:
        root: holds good and bad.
        held_out: good ones to test.
    \"\"\"

    root: str
    held_out: int = 2

    def read(self):
        good, bad = (sorted((Path(self.root) / part).glob("*.png")) for part in ("good", "bad"))
        test = [Item(p) for p in good[:self.held_out]] + [Item(p, "bad") for p in bad]
        return Split("pairs", [Item(p) for p in good[self.held_out:]], test)
"""
BACKBONE = """
from padim_lit import Backbone

class Shallow(Backbone):
    \"\"\"A ResNet18's first stage.\"\"\"

    def __init__(self, depth: int = 1, weights: str = "random", seed: int = 0, state=None):
        super().__init__("resnet18", [depth], weights, name="shallow", seed=seed, state=state)
"""
RUN = ["data=pairs", "data.root=pictures", "proj=blocks", "backbone=shallow", "dim=4",
       "image_size=64", "crop_size=64", "trainer=cpu", "logger=none"]  # fmt: skip


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder with a class and a YAML of each kind, and pictures."""
    folder = tmp_path_factory.mktemp("outside")
    build_tree(folder / "tree", train=6, test={"good": 1, "crack": 2})
    (folder / "pictures").mkdir()
    (folder / "tree/train/good").rename(folder / "pictures/good")
    (folder / "tree/test/crack").rename(folder / "pictures/bad")
    for group, module, text, name in (
        ("proj", "my_proj.Blocks", PROJECTION, "blocks"),
        ("data", "my_data.Pairs", DATA, "pairs"),
        ("backbone", "my_net.Shallow", BACKBONE, "shallow"),
    ):
        (folder / f"{module.partition('.')[0]}.py").write_text(text)
        (folder / "conf" / group).mkdir(parents=True)
        (folder / "conf" / group / f"{name}.yaml").write_text(
            f"defaults:\n  - /class/{module}@_here_\n"
        )
    return folder


def run_outside(zygote, outside, *args: str):
    words = ["--config-dir", "conf", "own=[my_proj,my_data,my_net]", *RUN, *args]
    return zygote.run(words, outside, {"PYTHONPATH": str(outside)})


def test_a_class_and_a_yaml_of_each_kind_add_them(zygote, outside):
    result = run_outside(zygote, outside, "proj.offset=3", "data.held_out=3", "hydra.run.dir=r")
    assert result.code == 0, result.err
    found = json.loads((outside / "r" / "metrics.json").read_text())
    assert (found["proj"], found["proj/offset"], found["backbone"]) == ("blocks", 3, "shallow")
    assert (found["data"], found["fit/images"], found["test/images"]) == ("pairs", 3, 5)
    assert found["embedding_dim"] == 64


def test_they_are_found_in_the_folder_that_one_stands_in(zygote, outside):
    words = ["--config-dir", "conf", *RUN, "--cfg", "job"]
    result = zygote.run(["own=[my_proj,my_data,my_net]", *words], outside)
    assert result.code == 0 and "offset: 0" in result.out, result.err
    assert zygote.run(words, outside).code == 1


def test_their_keys_are_in_the_help_and_in_the_config(zygote, outside):
    out = run_outside(zygote, outside, "--help").out
    assert "proj.offset=0" in out and "the first of them" in out and "good ones to test" in out
    assert "offset: 0" in run_outside(zygote, outside, "--cfg", "job").out


@long_table(
    ("args", "words"),
    [
        (
            "proj.ofset=3",
            "proj.ofset; did you mean proj.offset? known here: proj.name, proj.offset",
        ),
        (
            "+data.heldout=3",
            "data.heldout; did you mean data.held_out? known here: data.root",
        ),
        (
            "++backbone.layers=[1]",
            "backbone.layers; known here: backbone.depth, backbone.weights",
        ),
        ("proj.offset=x", "proj.offset=x"),
        ("data.root=???", "data.root is not set"),
        ("proj._target_=my_data.Pairs", "unknown key proj."),
    ],
    every=3,
)
def test_unknown_keys_of_an_own_class_are_refused_by_name(zygote, outside, args, words):
    result = run_outside(zygote, outside, args, "hydra.run.dir=bad")
    assert result.code == 1 and words in result.err, result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_yaml_may_name_its_class_by_target_alone(zygote, outside):
    plain = outside / "conf" / "proj" / "plain.yaml"
    plain.write_text("_target_: my_proj.Blocks\noffset: 5\n")
    result = run_outside(zygote, outside, "proj=plain", "hydra.run.dir=plain")
    assert result.code == 0, result.err
    assert json.loads((outside / "plain" / "metrics.json").read_text())["proj/offset"] == 5
    result = run_outside(zygote, outside, "proj=plain", "+proj.more=1", "hydra.run.dir=bad")
    assert result.code == 1 and "proj.more; known here: proj.name, proj.offset" in result.err


def labels(root, seed=0, image_size=256, look_back=2) -> AnomalyData:
    """A function that makes data: what a run gives all data is no key."""


def test_signatures_that_a_config_cannot_hold_are_left_to_the_class(monkeypatch):
    def kind(**defaults):
        class Own:
            def __init__(self, depth: "Elsewhere" = 2, seed=1, tiles=4, **more):  # noqa: F821
                pass

        parameters = dict(inspect.signature(Own).parameters)
        for name, value in defaults.items():
            where = inspect.Parameter.POSITIONAL_OR_KEYWORD
            parameters[name] = inspect.Parameter(name, where, default=value)
        del parameters["more"]
        Own.__signature__ = inspect.Signature(list(parameters.values()))
        monkeypatch.setattr(targets, "load", lambda target: Own)
        targets.schema.cache_clear()
        keys = {one.name for one in fields(targets.schema("my.Own"))}
        targets.schema.cache_clear()
        return keys

    monkeypatch.setattr(targets, "load", lambda target: labels)
    targets.schema.cache_clear()
    assert {one.name for one in fields(targets.schema("my.labels"))} == {
        *("_target_", "root", "seed", "look_back")
    }
    assert kind() == {"_target_", "depth", "seed", "tiles"}  # no run gives these to any class
    odd = {"some": {1}, "dtype": torch.float64, "call": torch.relu}
    assert kind(**odd, path=Path("x"), none=None) == {
        *("_target_", "depth", "seed", "tiles", "path", "none")
    }


@pytest.mark.slow
def test_a_seed_of_data_is_a_key_of_the_data(zygote, outside):
    text = DATA.replace("    held_out: int = 2\n", "    held_out: int = 2\n    seed: int = 0\n")
    (outside / "my_seeded.py").write_text(text)
    (outside / "conf/data/seeded.yaml").write_text("defaults:\n  - /class/my_seeded.Pairs@_here_\n")
    words = ["--config-dir", "conf", "own=[my_proj,my_seeded,my_net]", *RUN[1:], "data=seeded"]
    path = {"PYTHONPATH": str(outside)}
    result = zygote.run([*words, "data.seed=3", "--cfg", "job"], outside, path)
    assert result.code == 0 and "seed: 3" in result.out, result.err


@pytest.mark.slow
def test_how_a_config_is_composed_can_be_asked_with_classes_of_ones_own(zygote, outside):
    result = run_outside(zygote, outside, "--info", "defaults")
    assert result.code == 0 and "my_proj.Blocks" in result.out, result.err


def test_weights_of_an_own_architecture_may_have_another_head(tmp_path):
    from examples.own_backbone import PlainCNN

    torch.save(PlainCNN(num_classes=4).state_dict(), tmp_path / "own.pth")
    assert Backbone("plain_cnn", weights=str(tmp_path / "own.pth")).embedding_dim == 32 + 64 + 128
