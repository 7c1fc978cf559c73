"""Run ``run.py`` from tests: in a process of its own, or in a fork of one that has imported it all.

Importing torch, Lightning and Hydra takes seconds, hundreds of times what a tiny run takes. A
`Zygote` imports them once and forks a child per command. It never runs a torch operation itself,
because OpenMP's threads do not survive a fork.
"""

import atexit
import gc
import itertools
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 120.0  # seconds a command may take; far more than it needs
#: A run of a second on the tree that lies in data/ of the working directory.
TINY = [
    "data=folder", "data.root=data", "backbone=resnet18", "backbone.weights=random",
    "backbone.model=test_resnet", "image_size=64", "crop_size=64", "proj=jl", "dim=8",
    "trainer=cpu", "logger=none", "hydra.run.dir=run",
]  # fmt: skip
#: The same with a network of the usual size, which takes four times as long.
RESNET18 = [word for word in TINY if not word.startswith("backbone.model=")]
#: Those that the one-pass experiments read too.
TINY_SWEEP = [word for word in TINY if not word.startswith(("proj=", "dim=", "logger="))]


class Result(NamedTuple):
    """What a command left: exit status, standard output and error, seconds."""

    code: int
    out: str
    err: str
    seconds: float


def environment(home: Path, **extra: str) -> dict[str, str]:
    """Variables for a run without accounts, caches, proxies, network or GPU; one thread."""
    kept = {k: os.environ[k] for k in ("PATH", "LANG", "LC_ALL", "TMPDIR") if k in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # the discard port: nothing answers
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        **extra,
    }


def run_plain(args: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Result:
    """``python run.py ARGS`` in a process of its own."""
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *args],
        cwd=cwd, env=env, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)  # further ranks and loaders too
        out, err = process.communicate()
        raise TimeoutError(f"run.py {' '.join(args)}: no end\n{out}\n{err}") from error
    return Result(process.returncode, out, err, time.monotonic() - start)


class Zygote:
    """One process that has imported everything and forks a child for each command.

    Commands are ``PYTHON SCRIPT ARGS``, by default those of run.py.
    """

    def __init__(
        self, folder: Path, script: Path = ROOT / "run.py", python: str | Path = sys.executable
    ):
        self.folder, self.script = folder, script
        self._numbers = itertools.count()
        self.process = subprocess.Popen(
            [str(python), str(Path(__file__).resolve()), str(script)],
            cwd=folder, env=environment(folder), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._answer(TIMEOUT)

    def run(self, args: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> Result:
        """``python run.py ARGS`` in `cwd`, with `env` added to the environment.

        A fit's pictures are blank unless `env` has ``PICTURES``.
        """
        with self.start(args, cwd, env) as command:
            return command.wait()

    def start(
        self,
        args: Sequence[str],
        cwd: Path,
        env: Mapping[str, str] | None = None,
        script: Path | None = None,
    ) -> "Running":
        """The same without waiting for its end; `script` may be another one."""
        name = self.folder / str(next(self._numbers))
        files = [str(name.with_suffix(suffix)) for suffix in (".out", ".err")]
        argv = [str(script or self.script), *args]
        order = {"argv": argv, "cwd": str(cwd), "env": dict(env or {}), "files": files}
        return Running(self, " ".join(argv), files, self.ask(order, TIMEOUT))

    def ask(self, order: dict, timeout: float) -> int | None:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._answer(timeout)

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def _answer(self, timeout: float) -> int | None:
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            self.process.kill()
            raise TimeoutError(f"the zygote did not answer within {timeout} s")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the zygote ended with status {self.process.wait()}")
        return json.loads(line)


class Running:
    """A command that a zygote has started; `pid` is its process group too."""

    def __init__(self, zygote: Zygote, words: str, files: list[str], pid: int):
        self.pid, self.start = pid, time.monotonic()
        self._zygote, self._words, self._files = zygote, words, [Path(file) for file in files]
        self._code: int | None = None

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        """No process of the group goes on, and no file stays."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)  # further ranks and loaders too
            self.poll(TIMEOUT)
        for file in self._files:
            file.unlink(missing_ok=True)

    def poll(self, seconds: float = 0.0) -> int | None:
        """The exit status, or None where it has not ended within `seconds`."""
        if self._code is None:
            order = {"wait": self.pid, "seconds": seconds}
            self._code = self._zygote.ask(order, seconds + 10)
        return self._code

    def wait(self, seconds: float = TIMEOUT) -> Result:
        code = self.poll(seconds)
        out, err = (file.read_text(errors="replace") for file in self._files)
        if code is None:
            raise TimeoutError(f"{self._words}: no end after {seconds} s\n{out}\n{err}")
        return Result(code, out, err, time.monotonic() - self.start)


def _serve() -> None:
    """The zygote's side: one JSON order a line in, one exit status or process a line out."""
    sys.path[0] = str(Path(sys.argv[1]).parent)  # as for the script itself
    from hydra import compose, initialize_config_dir

    from padim_lit.cli import config, main  # noqa: F401 - for its imports
    from padim_lit.cli.modes import MODES

    for mode in MODES.values():
        mode.settings_class()
    # Hydra looks for its plugins, and its parser is slow at what it sees for the first time.
    config.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
        compose("config", TINY)
    gc.freeze()  # a collection in a child would copy every page that it looks at
    print("0", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(json.dumps(_exit_status(order["wait"], order["seconds"])), flush=True)
        elif os.fork() == 0:
            _become_run(order)


def _become_run(order: dict) -> NoReturn:
    # Those of the zygote's imports would remove what the next child needs (a temporary folder).
    atexit._clear()
    os.setsid()  # so that its loader processes can be ended too
    print(os.getpid(), flush=True)
    # A test in a shell's background would hand down that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(order["cwd"])
    os.environ.update(order["env"])
    sys.path[1:1] = [p for p in order["env"].get("PYTHONPATH", "").split(os.pathsep) if p]
    files = [os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for file in order["files"]]
    for source, target in zip((os.open(os.devnull, os.O_RDONLY), *files), (0, 1, 2), strict=True):
        os.dup2(source, target)
    sys.argv = order["argv"]
    code = 0
    try:
        if "PICTURES" not in order["env"]:
            _blank_pictures()
        if "BEFORE_RUN" in order["env"]:  # a script that prepares a fault
            runpy.run_path(order["env"]["BEFORE_RUN"])
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code and code is not end.code:
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    # What the interpreter does at its end, but for taking every imported module apart: on pages
    # shared with the zygote that takes longer than most commands.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _blank_pictures() -> None:
    """A fit's pictures are there, but empty: drawing them takes half the time of a tiny run."""
    from PIL import Image

    from padim_lit.visualization import heatmaps

    heatmaps.draw_one = heatmaps.draw_all = lambda *_: heatmaps.png([Image.new("RGB", (9, 9))])


def _exit_status(child: int, seconds: float) -> int | None:
    """The child's status, or None where it has not ended in time."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.01)


if __name__ == "__main__":
    _serve()
