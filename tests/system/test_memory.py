"""What the process keeps and uses of the machine's memory."""

import ctypes
import mmap
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from padim_lit.system.memory import (
    _within_groups,
    available_bytes,
    keep_freed_memory,
    peak_bytes,
    readable,
    reset_peak,
)

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

FRESH_PAGES = """
import resource, sys, torch
from padim_lit.system.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def batch():
    torch.ones(2**24).add_(1)  # 64 MiB, above what malloc keeps by itself
fewest = 2**24
for _ in range(16):
    before = faults()
    batch()
    fewest = min(fewest, faults() - before)
print(fewest)  # the fewest, because a small allocation between two batches may move the block
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is Linux's")
def test_kept_memory_is_not_asked_for_again():
    def fresh_pages(how):
        command = [sys.executable, "-c", FRESH_PAGES, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this system's allocator has no mallopt")
    assert keep_freed_memory(2**25)
    pages = 2**26 // mmap.PAGESIZE
    assert fresh_pages("keep") < pages / 4
    if not HUGE_PAGES.exists() or "[always]" not in HUGE_PAGES.read_text():
        assert fresh_pages("return") > pages / 2  # else this test could not fail


def test_memory_is_told_in_bytes():
    cpu = torch.device("cpu")
    reset_peak(cpu)
    before = peak_bytes(cpu)
    # Pages of its own: a tensor may get memory that was freed before and is resident already.
    with mmap.mmap(-1, 2**28) as block:
        for page in range(0, 2**28, mmap.PAGESIZE):
            block[page] = 1
    if sys.platform.startswith("linux"):
        assert before is not None and peak_bytes(cpu) - before > 0.5 * 2**28
        total = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024
        assert 2**20 < available_bytes(cpu) <= total
    assert (readable(3 * 2**30), readable(5 * 2**20)) == ("3.0 GiB", "5.0 MiB")


def test_the_limits_of_all_groups_that_a_process_is_in_count(tmp_path):
    job, own = tmp_path / "system.slice/job_7", tmp_path / "own"
    for group, most, used in ((tmp_path, "max", 90), (job.parent, 100, 40), (job, 50, 30)):
        group.mkdir(parents=True, exist_ok=True)
        for name, value in (("max", most), ("current", used), ("stat", "anon 7\ninactive_file 5")):
            (group / f"memory.{name}").write_text(f"{value}\n")
    for text, left in (
        ("4:memory:/old\n0::/system.slice/job_7/step\n", [25, 65]),  # step has no files of its own
        ("0::/system.slice\n", [65]),
        ("0::/\n", []),
    ):
        own.write_text(text)
        assert _within_groups(tmp_path, own) == left
    (tmp_path / "memory.max").write_text("100\n")  # of a container
    assert _within_groups(tmp_path, tmp_path / "missing") == [15]


@pytest.mark.slow
def test_a_gpu_that_nothing_has_used_yet_has_no_peak():
    """A run measures from before its first tensor is there."""
    code = (
        "import torch; from padim_lit.system.memory import peak_bytes, reset_peak; "
        "gpu = torch.device('cuda', 0); reset_peak(gpu); print(peak_bytes(gpu))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr
