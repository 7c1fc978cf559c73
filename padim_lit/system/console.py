"""What is only shown: printing that cannot fail, tables, progress."""

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from padim_lit.errors import visible

T = TypeVar("T")

MISSING = "—"


class _Shown:
    """A text stream on which nothing fails: what cannot be encoded is a "?", and what nobody
    reads any more (a closed pipe, a full disk) goes nowhere."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._or_nowhere():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._or_nowhere():
            self._stream.flush()

    @contextmanager
    def _or_nowhere(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            # By number, so that what is buffered goes there too, at the interpreter's end at last.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def never_fail_to_print() -> None:
    """Let no print, table, progress bar or log line raise an error in this process.

    To be called at the door, and again once logging is set up. Terminals and files whose encoding
    (gbk, cp932, latin-1, ASCII) lacks a character show "?" in its place.
    """
    logging.raiseExceptions = False  # else each line prints a traceback on a full disk
    handlers = [getattr(handler, "stream", None) for handler in logging.root.handlers]
    for stream in (sys.stdout, sys.stderr, *handlers):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Shown):
            setattr(sys, name, _Shown(stream))


def print_table(table: Table) -> None:
    """Print ``table``; where no terminal limits the width, as wide as it needs, at least 80."""
    console = _console()
    if not console.is_terminal:
        unlimited = console.options.update(width=10_000)
        console.width = max(80, console.width, console.measure(table, options=unlimited).maximum)
    console.print(table)


def print_line(text: str | Text) -> None:
    """Print one line whole, leaving a terminal to wrap it, so that a path can be copied.

    >>> print_line("12:00:00  good  a.png\\n12:00:01  good  b.png")
    12:00:00  good  a.png\\n12:00:01  good  b.png
    """
    text = visible(text) if isinstance(text, str) else text
    _console().print(text, soft_wrap=True, highlight=False)


def percent(share: float, digits: int = 0) -> str:
    """Write `share` in percent; as 0 or 100 only where it is exactly that.

    >>> percent(0.123), percent(1e-5, 2), percent(0.9996), percent(1)
    ('12%', '<0.01%', '>99%', '100%')
    """
    text, least = f"{share:.{digits}%}", 0.01 * 0.1**digits
    if 0 < share < 1 and float(text[:-1]) in (0, 100):
        return f"<{least:.{digits}%}" if share < 0.5 else f">{1 - least:.{digits}%}"
    return text


def score_text(score: float) -> str:
    """Write a score or threshold in four digits, with zeros at the end: 17.00 is not 16.99.

    >>> score_text(16.99866), score_text(0.25), score_text(1234.0)
    ('17.00', '0.2500', '1234')
    """
    return f"{score:#.4g}".removesuffix(".")


def count(n: int, one: str) -> str:
    """Write a number of things in words.

    >>> count(1, "image"), count(1200, "image")
    ('1 image', '1,200 images')
    """
    return f"{n:,} {one}{'' if n == 1 else 's'}"


def pace(images: int, seconds: float) -> str:
    """Write how fast images went by, as the larger of two numbers; both are above 0.

    >>> pace(14, 2.0), pace(14, 323.0)
    ('7.0 per second', '23.1 s an image')
    """
    slow = seconds > images
    return f"{seconds / images:.1f} s an image" if slow else f"{images / seconds:.1f} per second"


def print_facts(*facts: tuple[str, Any]) -> None:
    """Print a line for each name and its value; a path is shown in full."""
    wide = max(7, *(len(name) for name, _ in facts))
    for name, fact in facts:
        text = str(fact.resolve() if isinstance(fact, Path) else fact)
        print_line(Text.assemble((f"{name:<{wide}}  ", "bold"), visible(text)))


def _console() -> Console:
    # rich would read "[a]" in a name or a path as markup, and ":a:" as a picture.
    return Console(markup=False, emoji=False)


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Hide a library's warnings, and what its loggers of these names say below an error.

    >>> with quiet("timm"):
    ...     logging.getLogger("timm").isEnabledFor(logging.WARNING)
    False
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


_BARS = ContextVar("bars", default=True)


@contextmanager
def showing_bars(shown: bool) -> Iterator[None]:
    """Show progress bars within the block, or hide them.

    >>> with showing_bars(False):
    ...     progress().disable
    True
    """
    before = _BARS.set(shown)
    try:
        yield
    finally:
        _BARS.reset(before)


def progress() -> Progress:
    """Return a progress bar with counts and the time left; of several ranks one shows it."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        disable=not _BARS.get() or os.environ.get("LOCAL_RANK", "0") != "0",
    )


def tracked(steps: Iterable[T], what: str) -> Iterator[T]:
    """Yield the steps with a progress bar that is called `what`."""
    with progress() as bar:
        yield from bar.track(steps, description=what)
