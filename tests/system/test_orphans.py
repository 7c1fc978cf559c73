"""What a killed run started does not go on."""

import os
import subprocess
import sys
import time

import pytest

SCRIPT = """
import os, sys, time
from padim_lit.system.orphans import be_parent, end_with_parent
be_parent()
child = os.fork()
if not child:
    time.sleep(float(sys.argv[1]))
    end_with_parent()
    time.sleep(60)
print(child, flush=True)
time.sleep(0.2)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("late", ["0", "0.5"])  # after its parent's end
def test_a_child_ends_with_its_parent(late):
    command = [sys.executable, "-c", SCRIPT, late]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        child = int(run.stdout.readline())
        run.wait()
        time.sleep(float(late))
        end = time.monotonic() + 10
        while time.monotonic() < end and _runs(child):
            time.sleep(0.05)
        assert not _runs(child)


def _runs(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
