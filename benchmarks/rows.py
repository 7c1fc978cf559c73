"""What benchmarks do with their rows: measure one in a process of its own, show all, keep them."""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table


def apart(name: str, what: Any) -> dict[str, Any]:
    """What ``python -m benchmarks NAME --row WHAT`` prints last: its peak memory is its own.

    Raises CalledProcessError where it fails.
    """
    command = [sys.executable, "-m", "benchmarks", name, "--row", json.dumps(what)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(
    columns: Iterable[str], rows: Iterable[Sequence[str]], title: str = "", width: int = 140
) -> None:
    """Print a table, all of it aligned to the right."""
    table = Table(*(Column(name, justify="right") for name in columns), title=title or None)
    for row in rows:
        table.add_row(*row)
    Console(width=width).print(table)


def keep(path: Path | None, content: Any) -> None:
    """Write the numbers as JSON, where ``--json`` asks for it."""
    if path:
        path.write_text(json.dumps(content, indent=1) + "\n")
