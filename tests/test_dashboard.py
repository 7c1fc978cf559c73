"""The W&B workspace: built without network, and every key that it reads is one that a run logs."""

import re
import subprocess
import sys

import pytest
from _helpers.cli import ROOT, TINY, environment
from _helpers.trees import build_tree
from _helpers.wandb_log import of, records, values

pytest.importorskip("wandb_workspaces")

from padim_lit import dashboard
from padim_lit.dashboard import build, main
from padim_lit.errors import InputError


@pytest.fixture(scope="module")
def workspace():
    return build("team", "padim")


def panels(workspace, kind: str) -> list:
    found = [panel for section in workspace.sections for panel in section.panels]
    return [panel for panel in found if type(panel).__name__ == kind]


def keys_of(panel):
    """The keys that a panel reads, those of the config as config:NAME."""
    y = getattr(panel, "y", None)
    found = [getattr(panel, "x", None), getattr(panel, "groupby", None)]
    found += y if isinstance(y, list) else [y]
    found += [column.metric for column in getattr(panel, "columns", ())]
    for key in filter(None, found):
        name = getattr(key, "name", key)
        yield f"config:{name}" if type(key).__name__ == "Config" else name
    yield from getattr(panel, "media_keys", ())
    legend = getattr(panel, "legend_template", None) or ""
    yield from re.findall(r"\$\{(config:[\w.]+)\}", legend)


@pytest.mark.slow
def test_a_real_run_logs_every_key_that_a_panel_reads(zygote, tmp_path, workspace):
    build_tree(tmp_path / "data", train=4, test={"good": 2, "crack": 2})
    result = zygote.run([*TINY, "logger=wandb"], tmp_path)
    assert result.code == 0, result.err
    (file,) = tmp_path.glob("run/wandb/offline-run-*/*.wandb")
    found = records(file)
    history = values(item for part in of(found, "history") for item in part.item)
    summary = values(item for part in of(found, "summary") for item in part.update)
    config = values(item for part in of(found, "config") for item in part.update)

    def in_config(name: str) -> object:
        value = config
        for part in name.removeprefix("config:").split("."):
            value = value[part]
        return value

    logged = {key.partition("/_type")[0] for key in history}
    for section in workspace.sections:
        for panel in section.panels:
            for key in keys_of(panel):
                if key.startswith("config:"):
                    assert in_config(key) is not None
                elif type(panel).__name__ in ("LinePlot", "MediaBrowser"):
                    assert key in logged, key  # these read the history
                else:
                    assert isinstance(summary[key], int | float), key
    assert in_config("proj.name") == "jl"
    for key in dashboard.PINNED:
        assert summary[key] is not None, key
    assert history["heatmaps/_type"] == history["pictures/_type"] == "images/separated"
    assert summary["test/seconds_per_image"] * 4 == pytest.approx(summary["test/seconds"])


def test_the_panels_show_what_the_sweep_asks(workspace):
    assert (workspace.entity, workspace.project) == ("team", "padim")
    curves = [(p.x, p.y, p.groupby.name) for p in panels(workspace, "LinePlot")]
    for metric in ("test/image_auroc", "test/pixel_auroc"):
        assert ("dim", [metric], "proj.name") in curves
    scatters = {(p.x.name, p.y.name): p for p in panels(workspace, "ScatterPlot")}
    for cost in ("state_bytes", "test/seconds_per_image"):
        assert scatters[cost, "test/image_auroc"].log_x
        assert scatters[cost, "test/image_auroc"].running_ymax
    (together,) = panels(workspace, "ParallelCoordinatesPlot")
    assert [column.metric.name for column in together.columns] == [
        *("proj.name", "dim", "seed", "state_bytes", "test/seconds_per_image"),
        *("test/pixel_auroc", "test/image_auroc"),
    ]
    assert [p.media_keys for p in panels(workspace, "MediaBrowser")] == [["heatmaps"], ["pictures"]]


def test_what_would_be_sent_names_the_same_keys(workspace):
    view = workspace._to_model()
    assert (view.entity, view.project, view.display_name) == ("team", "padim", dashboard.NAME)
    sent = view.spec.model_dump_json(by_alias=True, exclude_none=True)
    for accessor in (
        '"xAxis":"dim"', '"metrics":["test/image_auroc"]', '"groupBy":"proj.value.name"',
        '"xAxis":"summary:state_bytes"', '"config:proj.value.name"', '"mediaKeys":["heatmaps"]',
    ):  # fmt: skip
        assert accessor in sent, accessor


@pytest.mark.slow
def test_no_network_is_one_line(tmp_path):
    base = "http://127.0.0.1:9"
    done = subprocess.run(
        [sys.executable, "-m", "padim_lit.dashboard", "team/padim"], cwd=ROOT,
        env=environment(tmp_path, WANDB_BASE_URL=base, WANDB_API_KEY="0" * 40),
        capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the workspace cannot be saved in team/padim")
    assert base in done.stderr
    assert done.stderr.count("\n") == 1


def failure(capsys, *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(words)
    if isinstance(end.value.code, str):
        return 1, end.value.code
    return end.value.code, capsys.readouterr().err.rstrip("\n")


@pytest.mark.parametrize("target", ["team", "team/", "/padim", "a/b/c", "team/pa dim", "a/b?c"])
def test_a_bad_target_is_one_line(capsys, target):
    status, message = failure(capsys, target)
    assert status == 1 and "\n" not in message
    assert message == f"error: {target!r}: must be ENTITY/PROJECT, such as my-team/padim_lit"


def test_words_that_are_missing_or_unknown_are_one_line(capsys):
    assert failure(capsys)[0] == 2
    status, message = failure(capsys, "team/padim", "--colour")
    assert status == 2 and message.startswith("error: unrecognized") and "\n" not in message


def test_a_missing_package_is_named(capsys, monkeypatch):
    for name in ("wandb_workspaces", "wandb_workspaces.reports.v2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="pip install wandb wandb-workspaces"):
        build("team", "padim")


def test_what_wandb_answers_is_one_line(capsys, monkeypatch, workspace):
    import wandb
    import wandb_workspaces.workspaces as ws

    monkeypatch.setattr(wandb, "login", lambda **_: False)
    assert "there is no W&B API key; run `wandb login`" in failure(capsys, "team/padim")[1]
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    refusal = wandb.errors.CommError("entity team\nnot found")
    monkeypatch.setattr(ws.Workspace, "save", lambda self: (_ for _ in ()).throw(refusal))
    status, message = failure(capsys, "team/padim")
    assert status == 1 and "\n" not in message
    assert "cannot be saved in team/padim (entity team not found)" in message
    monkeypatch.setattr(ws.Workspace, "save", lambda self: self)
    monkeypatch.setattr(ws.Workspace, "url", "https://wandb.ai/team/padim?nw=1")
    main(["team/padim"])
    assert capsys.readouterr().out == "workspace  https://wandb.ai/team/padim?nw=1\n"
