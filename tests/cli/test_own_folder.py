"""Runs leave what is not theirs, do not read what they wrote, and do not write at the same time."""

import json
import shutil
from pathlib import Path

import pytest
from _helpers.cli import TINY, TINY_SWEEP
from _helpers.outcome import require_one_clear_line
from _helpers.tables import long_table
from _helpers.trees import build_tree, save_image

import padim_lit
from padim_lit.system.atomic import run_folder, written_by_runs

PREDICT = ["mode=predict", "ckpt=run/model.ckpt", "trainer=cpu", "images=data/test"]
ABLATION = ["experiment=ablation", "projs=[jl]", "dims=[2]", "seeds=[0]"]
EXPORT = ["mode=export", "ckpt=run/model.ckpt", "format=torch"]


@pytest.fixture(scope="module")
def here(tmp_path_factory, zygote) -> Path:
    here = tmp_path_factory.mktemp("here")
    build_tree(here / "data", train=6, test={"good": 2, "crack": 3})
    save_image(here / "more" / "a.png", seed=99)
    result = zygote.run(TINY, here)
    assert result.code == 0, result.err
    return here


def content(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@long_table(
    ("words", "names"),
    [
        (PREDICT, ["heatmaps/mine.png"]),
        (PREDICT, ["predictions.csv"]),
        (PREDICT, ["predictions.jsonl", "model.json"]),
        ([*TINY_SWEEP, *ABLATION], ["runs/mine.txt"]),
        ([*TINY_SWEEP, *ABLATION], ["features/mine.txt"]),
        (TINY, ["config.yaml"]),
        (TINY, ["model.ckpt"]),
        (EXPORT, ["slim.ckpt"]),
        ([*EXPORT, "output=mine/other.ckpt"], ["other.ckpt"]),
    ],
    every=3,
)
def test_a_folder_with_a_users_own_files_is_refused(zygote, here, words, names):
    mine = here / "mine"
    for path in sorted(mine.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    for name in names:
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text("mine")
    before = content(mine)
    result = zygote.run([*words, "hydra.run.dir=mine"], here)
    require_one_clear_line(result, (names[0].partition("/")[0],))
    after = content(mine)
    assert {path: after[path] for path in before} == before
    left = {p.name for p in after.keys() - before.keys() if ".hydra" not in p.parts}
    assert left <= {"run.log"}


@pytest.mark.slow
def test_the_same_run_again_and_exports_again_are_no_reason(zygote, here):
    for words in (PREDICT, [*PREDICT, "overlays=all"], [*EXPORT, "output=out/slim.ckpt"]):
        for _ in range(2):
            result = zygote.run([*words, f"hydra.run.dir=again-{words[0][5:]}"], here)
            assert result.code == 0, result.err


@long_table(
    "words",
    [
        TINY,
        [*PREDICT, "overlays=all"],
        [*TINY_SWEEP, *ABLATION, "resamples=5"],
        ["mode=update", "ckpt=run/model.ckpt", "images=more", "trainer=cpu"],
    ],
    every=4,
)
def test_a_mode_says_all_that_it_writes(zygote, here, words, tmp_path):
    result = zygote.run([*words, f"hydra.run.dir={tmp_path}"], here)
    assert result.code == 0, result.err
    made = {path.name for path in tmp_path.iterdir()} - {".hydra", "run.log"}
    assert made and made <= written_by_runs(tmp_path)


@pytest.mark.slow
def test_a_picture_of_the_users_in_a_runs_heatmaps_stays(zygote, here):
    words = [*PREDICT, "overlays=all", "hydra.run.dir=pictures"]
    assert zygote.run(words, here).code == 0
    made = sorted(p.name for p in (here / "pictures" / "heatmaps").iterdir())
    save_image(here / "pictures" / "heatmaps" / "mine.png")
    assert len(made) == 2 * 5 and zygote.run([*words, "overlays=none"], here).code == 0
    assert [p.name for p in (here / "pictures" / "heatmaps").iterdir()] == ["mine.png"]


@long_table(
    ("words", "names"),
    [
        ([*PREDICT, "images=more"], ["another mode's results (metrics.json)"]),
        ([*TINY, "ckpt=other.ckpt"], ["run/model.ckpt", "ckpt=other.ckpt"]),
        (
            ["mode=merge", "ckpts=[run/model.ckpt,run/model.ckpt]", "repeats=count"],
            ["another mode's results"],
        ),
    ],
    every=3,
)
def test_results_of_two_modes_are_not_mixed(zygote, here, words, names):
    before, claimed = content(here / "run"), written_by_runs(here / "run")
    shutil.copy(here / "run" / "model.ckpt", here / "other.ckpt")
    require_one_clear_line(zygote.run([*words, "hydra.run.dir=run"], here), names)
    after = content(here / "run")
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    assert all(path.name == "run.log" or ".hydra" in path.parts for path in changed)
    # A file of a name that was refused would be the user's own.
    assert written_by_runs(here / "run") == claimed


@pytest.mark.slow
def test_a_refit_takes_an_earlier_runs_results_away(zygote, here):
    words = [*TINY, "hydra.run.dir=refit"]
    assert zygote.run(words, here).code == 0
    (here / "refit" / "heatmaps" / "highest_defect-1_gone_000_9.99.png").write_bytes(
        b"of an earlier run"
    )
    (here / "before.py").write_text(
        "import os, signal, sys\n"
        "def hook(event, args):\n"
        "    if event == 'os.rename' and str(args[1]).endswith('model.ckpt'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.addaudithook(hook)\n"
    )
    assert zygote.run(words, here, {"BEFORE_RUN": str(here / "before.py")}).code == -9
    assert not (here / "refit" / "metrics.json").exists()
    assert not list((here / "refit" / "heatmaps").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("where", [".", "below"])
def test_watch_does_not_score_what_runs_write(zygote, here, where):
    watched = here / f"watched-{where.strip('.')}"
    save_image(watched / "a.png")
    watch = ["images=.", "watch=true", "watch_settle=0.05", "watch_idle=1", "overlays=all"]
    model = ["mode=predict", f"ckpt={here}/run/model.ckpt", "trainer=cpu"]
    words = [*model, *watch, f"hydra.run.dir={where}"]
    for count in (1, 2):
        result = zygote.run(words, watched)
        assert result.code == 0, result.err
        found = (watched / where / "predictions.csv").read_text().splitlines()
        assert len(found) == 1 + count, found
        assert len(list((watched / where / "heatmaps").glob("*.png"))) == count
        save_image(watched / "b.png", seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("images", [".", "**/*.png", "below/.."])
def test_predict_does_not_score_what_runs_wrote_unless_that_is_named(zygote, here, images):
    there = here / f"again{images.count('*')}{len(images)}"
    save_image(there / "a.png")
    model = ["mode=predict", f"ckpt={here}/run/model.ckpt", "trainer=cpu", "overlays=all"]
    for folder in ("below", "below", "other"):
        words = [*model, f'images="{images}"', f"hydra.run.dir={folder}"]
        result = zygote.run(words, there)
        assert result.code == 0, result.err
        assert len((there / folder / "predictions.csv").read_text().splitlines()) == 2
    named = zygote.run([*model, "images=below/heatmaps", "hydra.run.dir=third"], there)
    assert "scored   1 image" in named.out, named.err


def test_a_folder_that_another_run_holds_is_refused(zygote, here):
    before = (here / "run" / "model.ckpt").read_bytes()
    with run_folder(here / "run", []):
        result = zygote.run([*TINY, "hydra.run.dir=run"], here)
    require_one_clear_line(result, ("another run is writing", "run"))
    assert (here / "run" / "model.ckpt").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("root", ["good_parts", "good_parts/train/good"])
def test_good_images_alone_give_a_model_that_decides(zygote, here, root):
    build_tree(here / "good_parts", train=12, test={"good": 1})
    shutil.rmtree(here / "good_parts" / "test")
    words = [*TINY, f"data.root={root}", "false_alarm_rate=0.2", "hydra.run.dir=good_alone"]
    result = zygote.run(words, here)
    assert result.code == 0, result.err
    assert "No test images: what is found and missed was not measured" in result.out
    assert "AUROC" not in result.out and "tested on" not in result.out
    assert not (here / "good_alone/predictions.csv").exists() and "predictions" not in result.out
    metrics = json.loads((here / "good_alone/metrics.json").read_text())
    assert metrics["test/image_auroc"] is None is metrics["test/misses"]
    assert metrics["test/image_auroc_why"] == "there are no test images"
    found = padim_lit.load(here / "good_alone/model.ckpt")(here / "data/test/crack/000.png")
    assert found.threshold == metrics["threshold"] and found.is_anomalous is not None
    sweep = zygote.run([*TINY_SWEEP, *ABLATION, f"data.root={root}", "hydra.run.dir=sweep"], here)
    require_one_clear_line(sweep, ("has no test images",))


def test_good_images_that_came_since_are_not_tested_beside_those_that_were_fitted(zygote, tmp_path):
    for i in range(10):
        save_image(tmp_path / "data/good" / f"{i}.png", seed=i)
    save_image(tmp_path / "data/crack/0.png", seed=99)
    assert zygote.run(TINY, tmp_path).code == 0
    again = [*TINY, "ckpt=run/model.ckpt", "hydra.run.dir=again"]
    assert zygote.run(again, tmp_path).code == 0
    for i in range(10, 20):
        save_image(tmp_path / "data/good" / f"{i}.png", seed=i)
    result = zygote.run(again, tmp_path)
    require_one_clear_line(result, ("2 of 10 good images held out", "fit again, or put new ones"))
