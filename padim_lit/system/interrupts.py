"""Ctrl-C that counts wherever it arrives, and SIGTERM that counts as Ctrl-C."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_came = False


def remember_interrupts() -> None:
    """From here on Ctrl-C is remembered, besides being raised where the program stands.

    Python drops what is raised in a finaliser or while a process is forked, with a traceback, and
    some libraries catch everything: without this a sweep went on to its end. A process told to
    ignore Ctrl-C, as in the background, goes on so.
    """
    tell = sys.unraisablehook

    def remember(number: int, frame: FrameType | None) -> None:
        global _came
        _came = True
        signal.default_int_handler(number, frame)

    def tell_others(dropped: "sys.UnraisableHookArgs") -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            tell(dropped)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, remember)
        sys.unraisablehook = tell_others


def raise_lost_interrupt() -> None:
    """Raise KeyboardInterrupt if there was one; for where work could still begin, or go on.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed since `remember_interrupts`.
    """
    if _came:
        raise KeyboardInterrupt


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within, SIGTERM raises KeyboardInterrupt as Ctrl-C does.

    Services and containers are ended by it, and the first process of a container would ignore it.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
