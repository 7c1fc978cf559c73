"""What benchmarks do with their rows: measure one in a process of its own, show all, keep them."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from padim_lit.system.versions import made_with


def parser_of(doc: str) -> argparse.ArgumentParser:
    """Described by a docstring's first line; ``--json`` says where `keep` writes."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    return parser


def apart(name: str, arguments: argparse.Namespace, **own: Any) -> dict[str, Any]:
    """The row that a benchmark measures in a process of its own: its peak memory is its own.

    Args:
        name: of the benchmark.
        arguments: what it was called with.
        own: what is this row's.

    Raises:
        CalledProcessError: it fails.
    """
    given = {**vars(arguments), **own, "json": None, "row": None}
    command = [sys.executable, "-m", "benchmarks", name, "--row", json.dumps(given)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def asked_for(
    arguments: argparse.Namespace, measure: Callable[[argparse.Namespace], dict[str, Any]]
) -> bool:
    """Whether this is such a process: then its row is measured and printed."""
    if arguments.row is None:
        return False
    print(json.dumps(measure(argparse.Namespace(**arguments.row))))
    return True


def show(
    columns: Iterable[str], rows: Iterable[Sequence[str]], title: str = "", width: int = 140
) -> None:
    """Print a table, all of it aligned to the right."""
    table = Table(title=title or None)
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=width).print(table)


def keep(path: Path | None, device: str = "cpu", **content: Any) -> None:
    """Write the numbers as JSON, where ``--json`` asks for it, and what they were made with."""
    if path:
        content["machine"] = made_with(torch.device(device))
        path.write_text(json.dumps(content, indent=1) + "\n")
