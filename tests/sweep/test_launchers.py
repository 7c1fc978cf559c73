"""Sweeps through Hydra's launchers: jobs in other processes end, fail and resume as in this one."""

import csv
import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from _helpers.cli import ROOT, TINY, Result, environment, run_plain
from _helpers.trees import build_tree
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from padim_lit.cli import build
from padim_lit.cli.messages import error_line
from padim_lit.sweep import launchers
from padim_lit.sweep.gpus import visible


def needs(plugin: str, extra: str) -> pytest.MarkDecorator:
    spec = importlib.util.find_spec("hydra_plugins")
    there = spec is not None and importlib.util.find_spec(f"hydra_plugins.{plugin}") is not None
    return pytest.mark.skipif(not there, reason=f"needs pip install -e '.[{extra}]'")


JOBLIB = needs("hydra_joblib_launcher", "joblib")
SLURM = needs("hydra_submitit_launcher", "slurm")
RAY = needs("hydra_ray_launcher", "ray")
SWEEP = ["-m", *(a for a in TINY if not a.startswith(("data", "hydra"))), "num_workers=1"]
DEADLY = ["own=[_helpers]", "data=folder", "data._target_=_helpers.deadly.DeadlyFolder"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return build_tree(tmp_path_factory.mktemp("tree"), train=4, test={"good": 2, "crack": 2})


def launch(args: list[str], here: Path, **extra: str) -> Result:
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"  # of the jobs' processes, too
    env = environment(here, PYTHONPATH=path, RAY_USAGE_STATS_ENABLED="0", **extra)
    del env["OMP_NUM_THREADS"]  # the launchers are to share the cores out
    return run_plain(args, here, env)


def skipped(out: str) -> list[str]:
    return sorted(re.findall(r"Job (\d+): done already, skipped; ", out))


# --- The presets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("processes", {"n_jobs": 2}, marks=JOBLIB),
        pytest.param(
            "slurm", {"gpus_per_node": 1, "tasks_per_node": 1, "max_num_timeout": 0}, marks=SLURM
        ),
        pytest.param("slurm_local", {"gpus_per_node": None, "timeout_min": 240}, marks=SLURM),
        pytest.param("ray_local", {"ray": {"max_retries": 0, "num_gpus": 0}}, marks=RAY),
    ],
)
def test_a_preset_is_the_plugins_launcher_with_our_values(zygote, tmp_path, name, expected):
    result = zygote.run(
        [f"hydra/launcher={name}", "--cfg", "hydra", "-p", "hydra.launcher"], tmp_path
    )
    assert result.code == 0, result.err
    found = OmegaConf.to_container(OmegaConf.create(result.out), resolve=False)
    found["ray"] = found.get("ray", {}).get("remote")
    if "ray" in expected:
        assert expected["ray"].items() <= found["ray"].items()
    else:
        assert expected.items() <= found.items()
    assert found["_target_"].startswith("hydra_plugins.hydra_")


@pytest.mark.parametrize(("name", "extra"), launchers.EXTRAS.items())
def test_a_launcher_that_is_not_installed_names_its_extra(name, extra):
    error = MissingConfigException("Could not load", f"hydra/launcher/{name}", ["basic"])
    assert error_line(error).endswith(f"pip install -e '.[{extra}]'")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("processes", marks=JOBLIB),
        pytest.param("slurm_local", marks=[SLURM, pytest.mark.slow]),
    ],
)
def test_own_classes_are_known_in_a_launchers_processes(tree, tmp_path, name):
    (tmp_path / "conf/proj").mkdir(parents=True)
    shutil.copy(ROOT / "examples/conf/proj/hash.yaml", tmp_path / "conf/proj/hash.yaml")
    own = ["--config-dir", "conf", "own=[examples]", "proj=jl,hash", f"hydra/launcher={name}"]
    args = [word for word in SWEEP if word != "proj=jl"]
    result = launch([*args, "data=folder", f"data.root={tree}", *own], tmp_path)
    assert result.code == 0, result.err
    (sweep,) = (tmp_path / "multirun").iterdir()
    metrics = [json.loads(file.read_text()) for file in sorted(sweep.glob("*/metrics.json"))]
    assert [one["proj"] for one in metrics] == ["jl", "hash"]


# --- A sweep with a job that fails and one that is killed --------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "reason"),
    [
        pytest.param(["processes"], "TerminatedWorkerError", marks=JOBLIB),
        pytest.param(
            ["ray_local", "hydra.launcher.ray.init.num_cpus=2"], "WorkerCrashedError", marks=RAY
        ),
    ],
    ids=lambda p: p[0] if isinstance(p, list) else "",
)
def test_jobs_that_were_killed_or_failed_are_done_by_the_same_command(
    zygote, tree, tmp_path, preset, reason
):
    for name in ("good", "killer"):
        shutil.copytree(tree, tmp_path / name)
    (tmp_path / "killer" / "deadly").touch()
    command = [*SWEEP, *DEADLY, "data.root=good,missing,killer"]
    args = [*command, f"hydra/launcher={preset[0]}", *preset[1:]]

    killed = launch(args, tmp_path)
    assert killed.code == 1
    assert "Traceback" not in killed.err
    (line,) = re.findall(r"^error: .*", killed.err, flags=re.MULTILINE)
    assert f"launcher ended early ({reason}: " in line and "the same command again" in line
    (sweep,) = (tmp_path / "multirun").iterdir()
    assert not (sweep / "2" / "metrics.json").exists()

    (tmp_path / "killer" / "deadly").unlink()
    job = "0"
    if preset[0] != "slurm_local":  # which takes half a minute more; below is a failed job of SLURM
        job = "2"
        failed = launch(args, tmp_path)
        assert failed.code == 1
        assert failed.err.splitlines()[-1].startswith("error: 1 of 3 jobs failed")
    assert "missing" in json.loads((sweep / "1" / "failed.json").read_text())["error"]
    metrics = json.loads((sweep / job / "metrics.json").read_text())
    root = {"0": "good", "2": "killer"}[job]
    assert metrics["version/padim_lit"] and metrics["data"] == f"folder/{root}"
    threads = int(re.search(r"(\d+) threads", metrics["device"])[1])
    if preset[0] == "processes":
        import joblib

        assert threads == max(joblib.cpu_count() // 2, 1)
    elif preset[0] == "ray_local":
        assert threads == 1
    config = OmegaConf.load(sweep / job / "config.yaml")
    assert config.data.root == root and (sweep / job / ".hydra" / "hydra.yaml").exists()

    # The folder is the command's, whoever runs it.
    shutil.copytree(tree, tmp_path / "missing")
    last = zygote.run(command, tmp_path, {"PYTHONPATH": str(ROOT / "tests")})
    assert last.code == 0, last.err
    assert skipped(last.out) == sorted({"0", job})
    with (sweep / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["done"] * 3


class TestSlurm:
    """Apart from the others, so that two processes of tests share the waiting."""

    @SLURM
    @pytest.mark.slow
    def test_jobs_that_were_killed_or_failed_are_done_by_the_same_command(
        self, zygote, tree, tmp_path
    ):
        test_jobs_that_were_killed_or_failed_are_done_by_the_same_command(
            zygote, tree, tmp_path, ["slurm_local"], "UncompletedJobError"
        )


@pytest.mark.slow
@JOBLIB
def test_ctrl_c_ends_the_worker_processes_too(zygote, tree, tmp_path):
    shutil.copytree(tree, tmp_path / "data")
    (tmp_path / "data" / "endless").touch()
    args = [*SWEEP, *DEADLY, "data.root=data", "seed=0,1,2", "hydra/launcher=processes"]
    with zygote.start(args, tmp_path, {"PYTHONPATH": str(ROOT / "tests")}) as process:
        end = time.monotonic() + 90
        while not list(tmp_path.glob("multirun/*/1/run.log")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        code, _, err, _ = process.wait(30)
    assert code == 130
    assert "interrupted" in err and "error:" not in err
    assert not list(tmp_path.glob("multirun/*/*/failed.json"))
    with pytest.raises(ProcessLookupError):  # soon nobody is left of the group
        for _ in range(200):
            os.killpg(process.pid, 0)
            time.sleep(0.1)


# --- What is said ------------------------------------------------------------------------------


def from_launcher(engine: str, error: Exception) -> Exception:
    """`error` as it comes out of that plugin."""
    module = {"__name__": f"hydra_plugins.hydra_{engine}_launcher._core", "error": error}
    try:
        exec("raise error", module)
    except Exception as found:
        return found
    raise AssertionError


def test_one_line_names_the_job_and_what_its_log_ends_with():
    text = textwrap.dedent("""\
        Job 7 (task: 0) with path a/7_0_result.pkl
        has not produced any output (state: FAILED)
        Look at stdout: a/7_0_log.out
        ----------------------------------------
        Traceback (most recent call last):
          File "x.py", line 1
        ModuleNotFoundError: No module named 'padim_lit'
    """)
    assert launchers.error_line(from_launcher("submitit", RuntimeError(text))) == (
        "the submitit launcher ended early (RuntimeError: Job 7 (task: 0) with path "
        "a/7_0_result.pkl: has not produced any output (state: FAILED): ModuleNotFoundError: No "
        "module named 'padim_lit'); the same command again does the jobs that are missing"
    )


def test_errors_from_elsewhere_stay_what_they_are():
    try:
        raise RuntimeError("x")
    except RuntimeError as error:
        assert launchers.error_line(error) is None
    assert launchers.error_line(from_launcher("joblib", RuntimeError(""))) is not None


@SLURM
def test_a_machine_without_slurm_says_so_in_one_line(zygote, tree, tmp_path):
    if shutil.which("srun"):
        pytest.skip("this machine has SLURM")
    shutil.copytree(tree, tmp_path / "data")
    args = [*SWEEP, "data=folder", "data.root=data", "hydra/launcher=slurm"]
    result = zygote.run(args, tmp_path)
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith("error: the submitit launcher ended early")
    assert "srun" in result.err and "Traceback" not in result.err


# Runs the tasks of a job array here, one after the other, after it has said that they are queued.
SBATCH = """\
import os, re, subprocess, sys
from pathlib import Path
script = Path(sys.argv[-1]).read_text()
Path("sbatch.txt").write_text(script)
if os.fork():
    print("Submitted batch job 7")
    sys.exit()
os.setsid()
log = os.open("sbatch.log", os.O_WRONLY | os.O_CREAT)
os.dup2(log, 1)
os.dup2(log, 2)
one = dict.fromkeys(["SLURM_NODEID", "SLURM_LOCALID", "SLURM_PROCID"], "0")
one |= dict.fromkeys(["SLURM_NTASKS", "SLURM_JOB_NUM_NODES"], "1")
for i in range(int(re.search(r"--array=0-(\\d+)", script)[1]) + 1):
    task = {"SLURM_JOB_ID": f"{7 + i}", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": f"{i}"}
    subprocess.run(["bash", "-c", script], env={**os.environ, **one, **task})
"""


@SLURM
@pytest.mark.slow
def test_slurm_gets_an_array_of_jobs_with_a_gpu_each(zygote, tree, tmp_path):
    shutil.copytree(tree, tmp_path / "data")
    commands = {
        "sbatch": f"#!{sys.executable}\n{SBATCH}",
        "srun": '#!/bin/sh\nshift 3\nexec "$@"\n',  # --unbuffered --output FILE COMMAND...
        "sacct": "#!/bin/sh\nprintf 'JobID|State|NodeList\\n7_0|RUNNING|x\\n7_1|RUNNING|x\\n'\n",
    }
    for name, text in commands.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    args = [*SWEEP, "data=folder", "data.root=data", "proj=subset", "dim=8,449"]
    preset = ["hydra/launcher=slurm", "hydra.launcher.partition=p1"]
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = zygote.run([*args, *preset], tmp_path, path)
    assert result.code == 1, result.err
    assert result.err.splitlines()[-1].startswith("error: 1 of 2 jobs failed")
    asked = (tmp_path / "sbatch.txt").read_text()
    for option in ("array=0-1%2", "gpus-per-node=1", "cpus-per-task=8", "partition=p1"):
        assert f"#SBATCH --{option}\n" in asked
    assert len(list(tmp_path.glob("multirun/*/0/metrics.json"))) == 1


# --- One GPU a job -----------------------------------------------------------------------------


CLAIMS = """
import os, signal, sys, time
from pathlib import Path
from padim_lit.errors import InputError
from padim_lit.sweep.gpus import claim

def child():
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        return pid, os.read(read, 9).decode()
    try:
        first, again = claim(("a/0", "b"), Path("locks")), claim(("a/0", "b"), Path("locks"))
        answer = str(first) if first == again else "changed"
        if os.fork() == 0:  # a loader's process lives on for a while
            time.sleep(1)
            os._exit(0)
    except InputError as error:
        answer = "all held" if "at most 2" in str(error) else "?"
    os.write(write, answer.encode())
    time.sleep(60)

(one, a), (two, b), (three, c) = child(), child(), child()
os.kill(one, signal.SIGKILL)
os.waitpid(one, 0)
four, d = child()
for pid in (two, three, four):
    os.kill(pid, signal.SIGKILL)
print(a, b, c, d, sep=",")
"""


def test_a_process_keeps_one_gpu_of_its_own_until_it_ends(zygote, tmp_path):
    (tmp_path / "claims.py").write_text(CLAIMS)
    with zygote.start([], tmp_path, script=tmp_path / "claims.py") as claims:
        found = claims.wait()
    assert found.out.strip() == "0,1,all held,0", found.err


def test_gpus_have_one_name_for_all_processes():
    assert visible(2, {}) == ("0", "1")
    assert visible(2, {"CUDA_VISIBLE_DEVICES": "3, 1"}) == ("3", "1")
    assert visible(2, {"CUDA_VISIBLE_DEVICES": "3"}) == ("0", "1")  # set after CUDA had started


@pytest.mark.parametrize(
    ("mode", "gpus", "asked", "devices"),
    [
        ("MULTIRUN", 4, {}, [2]),
        ("MULTIRUN", 1, {}, 1),
        ("RUN", 4, {}, 1),
        ("MULTIRUN", 4, {"accelerator": "cpu"}, 1),
        ("MULTIRUN", 4, {"devices": [3]}, [3]),
    ],
)
def test_a_job_of_a_sweep_takes_its_own_of_several_gpus(monkeypatch, mode, gpus, asked, devices):
    seen = {}

    def trainer(node, **_):
        seen.update(node)
        device = SimpleNamespace(type="cuda")
        return SimpleNamespace(strategy=SimpleNamespace(root_device=device), world_size=1)

    hydra = SimpleNamespace(
        mode=build.RunMode[mode], runtime=SimpleNamespace(output_dir="."), sweep=None
    )
    monkeypatch.setattr(build, "HydraConfig", SimpleNamespace(get=lambda: hydra))
    monkeypatch.setattr(build, "instantiate", trainer)
    monkeypatch.setattr(build, "claim", lambda names: 2)
    monkeypatch.setattr(build.torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(build.torch.cuda, "is_available", lambda: True)
    asked = {"accelerator": "auto", "devices": 1, "max_epochs": 1, **asked}
    node = dict(asked)
    build.make_trainer(node)
    assert seen["devices"] == devices
    assert node == asked  # what is recorded is what was asked
