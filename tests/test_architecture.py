"""The house rules that a program can check: who may import whom, format, lint and types.

The map of rooms in CONTRIBUTING.md is the rule: each line names a room (a folder or file of
padim_lit/), its level, and the rooms that it may import.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "padim_lit"
LEVELS = 8
# Where else a framework may be imported than in a room's own extra: paths below padim_lit/.
FRAMEWORKS = {
    "lightning": ("padim.py", "data/datamodule.py", "data/trainer.py", "cli/"),
    "wandb": ("dashboard.py", "cli/tracking.py"),
    "wandb_workspaces": ("dashboard.py",),
    "fastapi": ("deploy/server.py",),
    "uvicorn": ("cli/modes/serve.py",),
    "hydra": ("cli/",),
    "hydra._internal": ("cli/hydra_internals.py",),
    "omegaconf": ("cli/", "sweep/jobs.py"),
}


def read_map(text: str) -> dict[str, tuple[int, set[str]]]:
    """Room: its level and what it may import, of the lines ``| 3 | `model` | ... | errors |``."""
    line = re.compile(r"^\| (\d) \| `(\w+)/?(?:\.py)?` \|.*\| ([^|]*) \|$", flags=re.MULTILINE)
    found = line.findall(text)
    return {room: (int(level), set(re.findall(r"\w+", may))) for level, room, may in found}


ROOMS = read_map((ROOT / "CONTRIBUTING.md").read_text())


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def imports_of(path: Path, text: str) -> tuple[str, ...]:
    return tuple(_imports(path, text))


def _imports(path: Path, text: str) -> Iterator[str]:
    """Dotted names of the modules that a file imports, at its top or inside a function."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:  # a module of this package, or a name out of one
                inside = ROOT.joinpath(*module.split("."), alias.name)
                is_module = inside.is_dir() or inside.with_suffix(".py").exists()
                yield f"{module}.{alias.name}" if is_module else module


def arrows() -> Iterator[tuple[Path, str, str]]:
    """File, its room, and another room that it imports."""
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")]):
        for name in imports_of(path, path.read_text()):
            top, *rest = name.split(".")
            if top == "padim_lit" and (other := rest[0] if rest else "__init__") != room_of(path):
                yield path.relative_to(ROOT), room_of(path), other


def test_every_room_is_on_the_map():
    assert {room_of(path) for path in PACKAGE.rglob("*.py")} == set(ROOMS)


def test_no_room_imports_what_the_map_does_not_allow():
    wrong = {f"{file} imports {to}" for file, room, to in arrows() if to not in ROOMS[room][1]}
    assert not wrong


def test_the_map_allows_nothing_that_nobody_needs():
    needed = {(room, to) for _, room, to in arrows()}
    allowed = {(room, to) for room, (_, may) in ROOMS.items() for to in may}
    assert allowed <= needed


def test_the_map_has_no_circle_and_its_levels_are_right():
    levels: dict[str, int] = {}
    # Raises CycleError where rooms import each other.
    for room in TopologicalSorter({room: may for room, (_, may) in ROOMS.items()}).static_order():
        levels[room] = 1 + max((levels[below] for below in ROOMS[room][1]), default=0)
    assert levels == {room: level for room, (level, _) in ROOMS.items()}
    assert max(levels.values()) <= LEVELS


def test_the_method_needs_nothing_but_errors_and_system():
    assert ROOMS["model"][1] == {"errors", "system"}


def test_the_method_can_be_read_in_an_hour():
    names = ("detector", "embedding", "moments", "gaussian", "anomaly_map")
    files = [PACKAGE / "padim.py", PACKAGE / "metrics.py"]
    files += [PACKAGE / "model" / f"{name}.py" for name in names]
    assert sum(len(file.read_text().splitlines()) for file in files) <= 1150


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_frameworks_stay_where_they_belong(framework):
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(
            f"{name}.".startswith(f"{framework}.") for name in imports_of(path, path.read_text())
        )
    }
    assert users and not {user for user in users if not user.startswith(FRAMEWORKS[framework])}


def test_imports_are_found_wherever_and_however_they_are_written():
    text = (
        "import padim_lit.cli.build as b\nfrom padim_lit import digests, load\n"
        "def f():\n    from . import gaussian\n    from ..data import items\n    import wandb\n"
    )
    assert list(imports_of(PACKAGE / "model" / "x.py", text)) == [
        "padim_lit.cli.build",
        "padim_lit.digests",
        "padim_lit",
        "padim_lit.model.gaussian",
        "padim_lit.data.items",
        "wandb",
    ]


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff(command):
    out = subprocess.run(
        [sys.executable, "-m", "ruff", *command, str(ROOT)], capture_output=True, text=True
    )
    assert out.returncode == 0, out.stdout


@pytest.mark.slow
def test_types_of_the_public_api():
    command = [sys.executable, "-m", "mypy", "--no-incremental"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout
