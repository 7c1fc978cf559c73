"""Text arrives as the user typed it, whatever Hydra's grammar would make of it."""

import os
import sys
from types import ModuleType

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from padim_lit.cli import start, targets
from padim_lit.cli.build import alone
from padim_lit.cli.config import CONF
from padim_lit.cli.main import prepare
from padim_lit.cli.messages import one_line
from padim_lit.cli.overrides import GROUPS, as_typed, folders, read_overrides
from padim_lit.cli.targets import schema
from padim_lit.errors import InputError
from padim_lit.version import __version__


def read(word: str, many: bool = False):
    (override,) = OverridesParser.create().parse_overrides(as_typed([word], many))
    value = override.value()
    values = getattr(value, "list", value)
    if isinstance(values, list):
        return [getattr(one, "text", one) for one in values]
    return getattr(value, "text", value)


@pytest.mark.parametrize(
    "text",
    [
        *("2024_01_15", "12.30", "1e3", "1_0", "007", "true", "False", "a b", "ü/ß é", "数据/x"),
        *("R&D", "run#3", "epoch=0.ckpt", "~/data", "a[7].png", "**/*.png", "{a}", "(1)", "k:v"),
        *("it's", 'a"b', "100%", "[7", "C:\\x", "x" * 300, " lead", "trail "),
        *(r"\\nas\parts", r"a\\b"),
    ],
)
def test_a_text_stays_what_it_is(text):
    assert str(read(f"data.root={text}")) == text
    swept = read(f"data.root={text}", many=True)
    assert str(swept[0] if isinstance(swept, list) else swept) == text


@pytest.mark.parametrize(
    "path",
    [
        *(
            r"C:\parts\new",
            "C:\\parts\\",
            "C:",
            r"..\new\*.png",
            r"\\nas\parts",
            r"C:\a b\(1)",
            r"\\?\C:\a",
        ),
        *(r"C:\new\ 1", r"C:\,a", r"C:\=a", r"C:\(a", r"C:\new\1_0", r"C:\数\[7]\#1"),
    ],
)
def test_a_path_of_windows_keeps_its_backslashes(path, monkeypatch):
    monkeypatch.setattr(os, "sep", "\\")
    assert str(read(f"data.root={path}")) == path
    assert read(r"ckpts=[C:\a\m.ckpt,D:\b c\ m.ckpt]") == [r"C:\a\m.ckpt", r"D:\b c\ m.ckpt"]


def test_numbers_lists_and_what_is_quoted_stay_too():
    words = ["dim=100", "eps=0.01", "watch=True", "dims=[50,100]", "seed=null", "x=${y}", "~ckpt"]
    words += ["trainer.x=1e-3", "logger.offline=false", "hydra.verbose=true", "data.root='a b'"]
    assert as_typed(words) == words
    assert read("ckpts=[1e3,2_0/a,b c]") == ["1e3", "2_0/a", "b c"]
    assert read("ckpts=[run#3/a.ckpt,数/b.ckpt]") == ["run#3/a.ckpt", "数/b.ckpt"]


def test_commas_part_the_values_of_a_sweep_alone():
    assert read("data.root=2024_01,数据,run#3", many=True) == ["2024_01", "数据", "run#3"]
    words = ["seed=0,1", "dims=[1],[2]", "eps=range(0,3)", "x=choice(1,2)"]
    assert as_typed(words, many=True) == words
    with pytest.raises(InputError, match=r"add -m for a run .* type data.root='\"a,1\"'"):
        as_typed(["data.root=a,1"])
    with pytest.raises(InputError, match=r"add -m for a run .* number, type eps=0.01"):
        as_typed(["eps=0,01"])
    for word in ("seed=0,1,0", "dim=20, 20"):
        with pytest.raises(InputError, match="a value is there twice"):
            as_typed([word], many=True)


@pytest.mark.parametrize(
    "typed",
    [
        ["dim=4", "--config-dir", "a=b", "seed=0,1", "-m"],
        ["dim=4", "-m", "seed=0,1", "-cd=a=b"],
    ],
)
def test_options_and_keys_stand_anywhere(typed):
    """Lightning adds keys at the end for further ranks."""
    asked, _ = prepare(typed)
    assert asked.config_dir == "a=b" and asked.overrides[:2] == ["dim=4", "seed=0,1"]
    assert asked.multirun
    assert all("hydra." in word for word in asked.overrides[2:])


def test_a_config_that_would_be_passed_over_is_refused(tmp_path):
    """Hydra takes the packaged config.yaml before one in --config-dir, without a word."""
    (tmp_path / "config.yaml").write_text("dim: 50\n")
    for more in ([], ["--config-name", "config"], ["-cn=config.yaml"]):
        with pytest.raises(InputError, match=f"to run it type -cp {tmp_path} -cn config, else"):
            prepare(["--config-dir", str(tmp_path), *more])
    itself = ["--config-path", str(tmp_path), "--config-name", "config"]
    prepare([*itself, "--config-dir", str(tmp_path)])
    (tmp_path / "config.yaml").rename(tmp_path / "mine.yaml")
    prepare(["--config-dir", str(tmp_path), "--config-name", "mine"])


def test_an_experiment_that_is_a_sweep_is_run_as_one():
    words = ["experiment=table1", "data.root=DIR", "seed=0,1"]
    assert prepare(words)[0].multirun
    asked, _ = prepare(["--cfg", "job", *words])
    assert asked.cfg == "job" and not asked.multirun


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["data.root=MY", "DATA"],
            "in double quotes where the shell would part it",
        ),
        (["-m", "--cfg", "job"], "leave -m out"),
        (["--experimental-rerun", "x"], "reads a pickle"),
        (["dim=5", "--dim=5"], "unrecognized arguments: --dim=5; keys are KEY=VALUE"),
    ],
)
def test_options_that_do_not_go_are_one_line(words, said):
    with pytest.raises((InputError, OverrideParseException)) as error:
        prepare(words)
    assert said in one_line(error.value)


@pytest.mark.parametrize("word", ["data.root=", "+images="])
def test_a_shell_variable_that_is_not_set_is_no_value(word):
    with pytest.raises(InputError, match="has no value; give one"):
        as_typed([word])


def test_the_home_folder_is_meant_where_results_go_too(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = ["hydra.run.dir=~/out", "hydra.sweep.dir=~/a b", "ckpt=~/m.ckpt"]
    expected = ["hydra.run.dir=/home/me/out", "hydra.sweep.dir=/home/me/a b", 'ckpt="~/m.ckpt"']
    assert as_typed(words) == expected


@given(
    st.text(st.characters(exclude_characters=",$\\\"'", exclude_categories=("C", "Z")), min_size=1)
)
def test_any_text_is_read_as_it_is_or_as_a_value_that_says_the_same(text):
    found = read(f"data.root={text}")
    assert isinstance(found, list | dict) or str(found) == text or found is None


@pytest.mark.parametrize("words", [["dim =5"], ["=x"], ["dim", "=", "5"], ["dim =5,6"]])
def test_blanks_around_the_equals_sign_are_told(words):
    with pytest.raises(InputError, match="without blanks around the ="):
        as_typed(words)


def test_an_argument_without_a_type_takes_that_of_its_default(monkeypatch):
    class Mine:
        def __init__(self, in_channels, dim, flag=True, share=0.5, scale: int | float = 1.0):
            pass

    module = ModuleType("mine")
    module.Mine, Mine.__module__ = Mine, "mine"
    monkeypatch.setitem(sys.modules, "mine", module)
    monkeypatch.setattr(targets, "_own", {"mine"})
    typed = {"flag": "false", "share": ".25", "scale": "1e-3"}  # as words of a command line come
    node = OmegaConf.merge(OmegaConf.structured(schema("mine.Mine")), typed)
    assert (node.flag, node.share, node.scale) == (False, 0.25, 0.001)


def test_a_trainer_of_one_device_is_alone_however_it_is_typed():
    assert all(alone({"devices": one}) for one in (1, [0], [3])) and alone(None)
    assert not any(alone({"devices": more}) for more in (2, [0, 1], "auto", -1))
    assert not alone({"devices": 1, "num_nodes": 2})


def test_the_version_is_that_of_the_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["padim-lit", "--version"])
    start.main()
    out = capsys.readouterr().out
    assert out.startswith(f"padim_lit {__version__} (torch {torch.__version__.partition('+')[0]}")
    assert "Hydra 1." in out and len(out.splitlines()) == 1


@pytest.mark.parametrize("text", ["true", "True", "yes", "on", "1", "'true'"])
def test_what_watches_goes_on_in_one_folder(text):
    words = read_overrides(["mode=predict", f"watch={text}"])
    assert any(word.startswith("hydra.run.dir=outputs/predict-") for word in folders(words))


@pytest.mark.parametrize("text", ["false", "False", "no", "off", "0", "null"])
def test_what_does_not_watch_has_a_folder_of_its_own(text):
    words = read_overrides(["mode=predict", f"watch={text}"])
    assert not any(word.startswith("hydra.run.dir") for word in folders(words))


def test_groups_are_the_folders_of_conf():
    """Of another, GROUP=7 would be Hydra's traceback."""
    folders = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    assert set(GROUPS) == folders - {"hydra"}
