"""A sweep that was ended goes on: folders of the same name, and jobs that are skipped."""

import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from _helpers.cli import TINY, TINY_SWEEP
from _helpers.outcome import require_one_clear_line
from _helpers.trees import build_tree
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from padim_lit.analysis.result_files import sweep_of
from padim_lit.cli.overrides import as_typed, folder_name, folders, read_overrides
from padim_lit.cli.trainer_parts import interruptible
from padim_lit.errors import InputError
from padim_lit.sweep.jobs import begin, begin_sweep

SWEEP = ["-m", *TINY]


# --- The name of the folder --------------------------------------------------------------------


def name(*words: str) -> str:
    return folder_name(read_overrides(words))


def test_a_name_can_be_read():
    assert re.fullmatch(
        r"proj-jl-subset_seed-0-1_data-mvtec_root-all-v2-[0-9a-f]{10}",
        name("data=mvtec", "proj=jl,subset", "data.root=/x/all_v2/", "seed=0,1"),
    )
    assert re.fullmatch(r"root-all-v2-[0-9a-f]{10}", name(r"data.root=C:\x\all_v2"))
    assert re.fullmatch(
        r"ablation-dims-1-2-[0-9a-f]{10}", name("experiment=ablation", "dims=[1,2]")
    )


def test_order_matters_only_where_it_numbers_the_jobs():
    assert name("dim=8", "eps=1", "seed=0,1") == name("seed=0,1", "eps=1", "dim=8")
    assert name("dim=4,8", "seed=0,1") != name("seed=0,1", "dim=4,8")
    assert name("dim=8", "dim=4") == name("dim=4") != name("dim=8")


def test_what_changes_no_result_changes_no_name():
    plain = name("dim=8")
    assert name("dim=8", "num_workers=2", "hydra/launcher=basic", "hydra.job.chdir=true") == plain
    assert name("dim=8", "num_workers=0,2") != plain  # jobs of their own
    assert name("dim=9") != plain != name("+dim=8")


@pytest.mark.slow
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
        st.text(st.characters(codec="utf-8"), max_size=3000),
        max_size=40,
    )
)
def test_any_name_is_a_plain_folder(keys):
    change, element = OverrideType.CHANGE, ValueType.ELEMENT
    overrides = [Override(change, k, element, v, input_line=f"{k}={v}") for k, v in keys.items()]
    found = folder_name(overrides)
    assert re.fullmatch(r"[A-Za-z0-9._-]{0,200}", found) and found[:1] not in (".", "-")
    assert folder_name(overrides[::-1]) == found


@pytest.mark.parametrize("value", ["/a b/c'd", "ü/ß é", "x" * 5000, "a=b", "~/x", r"C:\x", "[1,2]"])
def test_any_value_gives_a_name(value):
    quoted = "'" + value.replace("'", r"\'") + "'"
    assert re.fullmatch(r"[A-Za-z0-9._-]{10,200}", name(f"data.root={quoted}"))


def test_folders_join_the_overrides_unless_they_are_given():
    def added(*words: str) -> list[str]:
        return folders(read_overrides(words))

    sweep = f"hydra.sweep.dir=multirun/{name('dim=4,8')}"
    assert added("dim=4,8") == [sweep]
    assert added() == ["hydra.sweep.dir=multirun/sweep"]
    assert added("dim=4,8", "hydra.sweep.dir=x") == []
    ablation = name("experiment=ablation")
    assert added("experiment=ablation") == [
        f"hydra.sweep.dir=multirun/{ablation}", f"hydra.run.dir=outputs/{ablation}",
    ]  # fmt: skip
    for words in (["dim=8", "mode=fit"], ["mode=update"], ["experiment=padim", "dim=8"]):
        assert not any("run.dir" in word for word in added(*words))
    compared = ["experiment=padim", "mode=ablation"]
    for typed in (["mode=predict", "watch=true"], ["mode=predict", "watch=1"], compared):
        words = as_typed(typed)
        assert f"hydra.run.dir=outputs/{name(*words)}" in added(*words)


# --- Jobs that are there are skipped -----------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return build_tree(tmp_path_factory.mktemp("tree"), train=4, test={"good": 2, "crack": 2})


@pytest.fixture
def here(tree, tmp_path) -> Path:
    shutil.copytree(tree, tmp_path / "data")
    return tmp_path


def the_sweep(here: Path) -> Path:
    (folder,) = (here / "multirun").iterdir()
    return folder


def skipped(out: str) -> list[str]:
    return re.findall(r"^Job (\d+): done already, skipped; ", out, flags=re.MULTILINE)


def ages(sweep: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in sweep.glob("*/metrics.json")}


@pytest.mark.slow
def test_another_modes_result_is_not_taken_for_a_jobs(zygote, here):
    fits = ["-m", *TINY[:-1], "seed=1", "hydra.sweep.dir=both"]
    sweep = ["-m", *TINY_SWEEP[:-1], "experiment=ablation", "projs=[jl]", "dims=[2]", "seeds=[3]"]
    assert zygote.run(fits, here).code == 0
    before = {path: path.read_bytes() for path in (here / "both").rglob("*") if path.is_file()}
    result = zygote.run([*sweep, "resamples=0", "hydra.sweep.dir=both"], here)
    require_one_clear_line(result, ("both/0/metrics.json", "give another hydra.sweep.dir"))
    assert {p: p.read_bytes() for p in (here / "both").rglob("*") if p.is_file()} == before
    assert skipped(zygote.run(fits, here).out) == ["0"]
    # A sweep over modes goes on where it was.
    both = ["-m", *TINY_SWEEP[:-1], "experiment=ablation,distortion", "projs=[jl]", "dims=[2]"]
    both = [*both, "seeds=[3]", "hydra.sweep.dir=modes"]
    for _ in range(2):
        result = zygote.run(both, here)
        assert "another mode" not in result.err + result.out, result.err


def test_another_sweep_in_a_folder_waits_for_the_first(tmp_path):
    begin_sweep(tmp_path, "one")
    with pytest.raises(InputError, match="another sweep is running"):
        begin_sweep(tmp_path, "another")
    assert sweep_of(tmp_path) == "one"
    begin_sweep(tmp_path, "one")  # the same command once more, which shares its jobs


def test_a_job_that_is_run_again_leaves_no_earlier_run_of_a_tracker(tmp_path):
    for name in ("wandb/offline-run-1/a.wandb", "mlflow/0/meta.yaml", "tensorboard/events", "mine"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    begin(tmp_path, "metrics.json")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_folders_in_folders_are_refused(zygote, here):
    """No table would find their jobs, and a sweep that failed would end well."""
    result = zygote.run(["-m", *TINY, "dim=4,8", "hydra.sweep.subdir=a/${hydra.job.num}"], here)
    require_one_clear_line(result, ("hydra.sweep.subdir=", "choose names without /"))


@pytest.mark.slow
def test_the_same_command_does_what_is_missing(zygote, here):
    args = [*SWEEP, "proj=jl,subset", "dim=4,8"]
    first = zygote.run(args, here)
    assert first.code == 0 and skipped(first.out) == []
    sweep = the_sweep(here)
    before = ages(sweep)
    assert set(before) == set("0123")
    # 1 half-finished: all is there but the last file. 2 of another version. 3 taken away.
    (sweep / "1" / "metrics.json").unlink()
    job = json.loads((sweep / "2" / "job.json").read_text())
    (sweep / "2" / "job.json").write_text(json.dumps({**job, "version/padim_lit": "0.0"}))
    shutil.rmtree(sweep / "3")
    second = zygote.run([*args, "num_workers=1"], here)
    assert second.code == 0, second.err
    assert skipped(second.out) == ["0"]
    assert f"delete {sweep.relative_to(here) / '0'}" in second.out.replace(f"{here}/", "")
    after = ages(sweep)
    assert after["0"] == before["0"] and all(after[job] > before[job] for job in "123")
    assert second.out.count("│ jl ") == first.out.count("│ jl ")  # the table is complete
    third = zygote.run(args, here)
    assert skipped(third.out) == list("0123") and ages(sweep) == after


@pytest.mark.slow
def test_a_failed_job_is_the_only_one_that_runs_again(zygote, here):
    args = [*SWEEP, "proj=subset", "dim=4,449,8"]
    for attempt in range(2):
        result = zygote.run(args, here)
        assert result.code == 1
        assert result.err.splitlines()[-1].startswith("error: 1 of 3 jobs failed")
        assert "Job 1 failed" in result.out and "dim=449 exceeds" in result.out
        assert skipped(result.out) == (["0", "2"] if attempt else [])
    sweep = the_sweep(here)
    assert not (sweep / "1" / "job.json").exists() and not (sweep / "0" / "failed.json").exists()


@pytest.mark.slow
def test_a_job_that_failed_for_its_data_succeeds_when_it_is_mended(zygote, here):
    args = [*(a for a in SWEEP if not a.startswith("data.root")), "data.root=data,more"]
    assert zygote.run(args, here).code == 1
    shutil.copytree(here / "data", here / "more")
    result = zygote.run(args, here)
    assert result.code == 0, result.err
    assert skipped(result.out) == ["0"]
    assert not (the_sweep(here) / "1" / "failed.json").exists()


@pytest.mark.slow
def test_another_config_in_the_same_folder_is_run_and_overwrites(zygote, here):
    args = [*SWEEP, "dim=4,8", "hydra.sweep.dir=sweep"]
    assert zygote.run(args, here).code == 0
    result = zygote.run([*args, "eps=0.1"], here)
    assert result.code == 0 and skipped(result.out) == []
    assert json.loads((here / "sweep" / "0" / "metrics.json").read_text())["eps"] == 0.1
    # What fails leaves nothing of the older result behind.
    assert zygote.run([*args, "grid=99"], here).code == 1
    assert not list((here / "sweep").glob("*/metrics.json"))
    args = [*SWEEP, "hydra.sweep.dir=new", "seed=0"]
    assert zygote.run([*args, "dim=0"], here).code == 1  # before anything is held
    assert zygote.run(args, here).code == 0


def exchange(file: Path, other: Path) -> None:
    """Other content under the same name, size of name and time of change."""
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    shutil.copy(other, file)
    os.utime(file, ns=times)


@pytest.mark.slow
def test_what_lies_in_the_files_decides_and_not_their_names(zygote, here):
    args = [*SWEEP, "seed=0"]
    assert zygote.run(args, here).code == 0
    shutil.copytree(here / "data", here / "copy")  # other times, same content
    shutil.rmtree(here / "data")
    (here / "copy").rename(here / "data")
    assert skipped(zygote.run(args, here).out) == ["0"]
    for name in ("train/good/000.png", "test/crack/000.png", "ground_truth/crack/000_mask.png"):
        file = here / "data" / name
        with Image.open(file) as image:
            Image.new("L", image.size, 255).save(here / "other.png")
        exchange(file, here / "other.png")
        assert skipped(zygote.run(args, here).out) == [], name
        assert skipped(zygote.run(args, here).out) == ["0"], name


@pytest.mark.slow
def test_what_lies_in_files_that_other_keys_name_decides_too(zygote, here):
    fit, scored = [*SWEEP, "seed=0", "roi=roi.png"], here / "data" / "test" / "good"
    with Image.open(scored / "000.png") as image:
        whole = Image.new("L", image.size, 255)
    whole.save(here / "roi.png")
    assert zygote.run(fit, here).code == 0
    whole.crop((-9, 0, whole.width - 9, whole.height)).save(here / "roi.png")
    assert skipped(zygote.run(fit, here).out) == []
    assert skipped(zygote.run(fit, here).out) == ["0"]
    ckpt = next(here.glob("multirun/*/0/model.ckpt"))
    predict = ["-m", "mode=predict", f"ckpt={ckpt}", f"images={scored}", "trainer=cpu"]
    assert zygote.run(predict, here).code == 0
    shutil.copy(scored / "000.png", scored / "more.png")
    assert skipped(zygote.run(predict, here).out) == []
    assert skipped(zygote.run(predict, here).out) == ["0"]


@pytest.mark.slow
def test_jobs_of_another_sweep_in_the_same_folder_do_not_count(zygote, here):
    args = [*SWEEP, "hydra.sweep.dir=sweep"]
    assert zygote.run([*args, "seed=0,1,2"], here).code == 0
    fewer = zygote.run([*args, "seed=7"], here)
    assert fewer.code == 0 and "of an earlier sweep in this folder: 1, 2" in fewer.out
    lines = (here / "sweep" / "sweep.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["job", "0"]
    more = zygote.run([*args, "seed=7,1,2"], here)
    assert skipped(more.out) == ["0", "1", "2"] and "earlier sweep" not in more.out


@pytest.mark.slow
def test_ablations_are_skipped_too(zygote, here):
    args = [
        "-m",
        *(a for a in TINY_SWEEP if not a.startswith("hydra.run.dir")),
        *("experiment=ablation", "projs=[jl]", "dims=[4]", "seeds=[0]", "eps=0.01,0.02"),
    ]
    assert zygote.run(args, here).code == 0
    result = zygote.run(args, here)
    assert result.code == 0 and skipped(result.out) == ["0", "1"]
    assert the_sweep(here).name.startswith("ablation-eps-0.01-0.02_")


# --- Killed ------------------------------------------------------------------------------------


def end_in_job_1(zygote, args: list[str], here: Path, number: int) -> int:
    """Start a sweep, send the signal when its second job has begun; the exit status."""
    with zygote.start(args, here) as process:
        end = time.monotonic() + 60
        while not list(here.glob("multirun/*/1/run.log")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        os.killpg(process.pid, number)
        return process.wait(30).code


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(zygote, here):
    args = [*SWEEP, "seed=0,1,2,3"]
    assert end_in_job_1(zygote, args, here, signal.SIGKILL) == -signal.SIGKILL
    before = ages(the_sweep(here))
    assert "0" in before and not {"2", "3"} & set(before)
    result = zygote.run(args, here)
    assert result.code == 0, result.err
    again = skipped(result.out)
    assert again in (["0"], ["0", "1"])  # two where the kill came just too late
    after = ages(the_sweep(here))
    assert set(after) == set("0123")
    assert [job for job in "0123" if after[job] != before.get(job)] == list("0123")[len(again) :]


@pytest.mark.slow
def test_ctrl_c_ends_the_sweep_and_the_same_command_goes_on(zygote, here):
    args = [*SWEEP, "seed=0,1,2,3"]
    assert end_in_job_1(zygote, args, here, signal.SIGINT) == 130
    sweep = the_sweep(here)
    assert not list(sweep.glob("*/failed.json")) and not {"2", "3"} & set(ages(sweep))
    result = zygote.run(args, here)
    assert result.code == 0, result.err
    assert skipped(result.out) in (["0"], ["0", "1"])


@pytest.mark.parametrize("end", [None, SystemExit(1)])
def test_ctrl_c_during_a_fit_is_an_interrupt_however_lightning_takes_it(end):
    for interrupted, terminated in ((True, False), (False, True)):
        trainer = SimpleNamespace(interrupted=interrupted, received_sigterm=terminated)
        if end is None or interrupted:
            with pytest.raises(KeyboardInterrupt), interruptible(trainer):
                if end:
                    raise end
    trainer = SimpleNamespace(interrupted=False, received_sigterm=False)
    with pytest.raises(SystemExit), interruptible(trainer):
        sys.exit(1)
    with interruptible(trainer):
        pass
