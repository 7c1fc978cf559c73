"""Ctrl-C counts where Python would drop it, and is left alone where it is ignored."""

import signal
import subprocess
import sys

import pytest

LOST = """
import contextlib, io, signal, sys
from padim_lit.system.console import tracked
from padim_lit.system.interrupts import raise_lost_interrupt, remember_interrupts

class Finalised:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

# A test in a shell's background hands down that Ctrl-C is ignored.
ignored = sys.argv[1] == "ignored"
signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
remember_interrupts()
raise_lost_interrupt()  # there was none
try:
    Finalised()
except KeyboardInterrupt:
    sys.exit("raised after all")
print("went on", flush=True)
try:
    raise_lost_interrupt()
except KeyboardInterrupt:
    print("told")
with contextlib.redirect_stdout(io.StringIO()):  # its bar
    try:
        done = list(tracked([1, 2], "work"))
    except KeyboardInterrupt:
        done = "nothing"
print("done:", done)
"""


@pytest.mark.parametrize(
    ("disposition", "told"),
    [("default", "went on\ntold\ndone: nothing\n"), ("ignored", "went on\ndone: [1, 2]\n")],
)
def test_an_interrupt_in_a_finaliser_is_told_before_the_next_work(disposition, told):
    command = [sys.executable, "-c", LOST, disposition]
    found = subprocess.run(command, text=True, capture_output=True, check=True)
    assert (found.stdout, found.stderr) == (told, "")


def test_an_interrupt_is_raised_where_the_program_stands():
    script = """
import signal
from padim_lit.system.interrupts import remember_interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
remember_interrupts()
signal.raise_signal(signal.SIGINT)
"""
    result = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    assert result.returncode in (-signal.SIGINT, 130)
    assert "KeyboardInterrupt" in result.stderr
