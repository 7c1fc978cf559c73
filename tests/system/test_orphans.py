"""What a killed run started does not go on."""

import os
import subprocess
import sys
import time

import pytest

SCRIPT = """
import os, time
from padim_lit.system.orphans import end_with_parent
child = os.fork()
if not child:
    end_with_parent()
    time.sleep(60)
print(child, flush=True)
time.sleep(0.2)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_ends_with_its_parent():
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True) as run:
        child = int(run.stdout.readline())
        run.wait()
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
