"""Print tables so that they read as well in a log file as in a terminal."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


def print_table(table: Table, console: Console) -> None:
    """Print ``table``; where no terminal limits the width, as wide as it needs, at least 80."""
    limit = console.width
    if not console.is_terminal:
        unlimited = console.options.update(width=10_000)
        console.width = max(80, limit, console.measure(table, options=unlimited).maximum)
    try:
        console.print(table)
    finally:
        console.width = limit


def print_line(text: str | Text, console: Console) -> None:
    """Print one line whole, leaving a terminal to wrap it, so that a path can be copied."""
    # Text, because rich would read "[a]" in a path as markup.
    line = text if isinstance(text, Text) else Text(text)
    console.print(line, soft_wrap=True, highlight=False)


MISSING = "—"


def progress() -> Progress:
    """A progress bar with counts and the time that is left."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )
