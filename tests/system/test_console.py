"""What is only shown costs no result: encodings that lack a character, pipes and disks that end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from _helpers.cli import ROOT, TINY, environment
from _helpers.trees import build_tree, save_image
from rich.table import Table

from padim_lit.cli.messages import one_line
from padim_lit.errors import InputError, told
from padim_lit.system.command_line import say
from padim_lit.system.console import print_facts, print_line, print_table

ENCODINGS = ("gbk", "cp932", "cp949", "latin-1", "ascii")
SHOW = """
import logging, sys
from padim_lit.system.console import never_fail_to_print, print_table, progress
never_fail_to_print()
logging.basicConfig(stream=sys.stdout)
never_fail_to_print()
from rich.table import Table
table = Table("ε", "a")
table.add_row("缺陷", "8×8 → ²")
for _ in range(2):
    print("缺陷 é \\udcff ε")
    print("缺陷 é \\udcff ε", file=sys.stderr)
    logging.getLogger("x").warning("缺陷 %s", "\\udcff")
    print_table(table)
    with progress() as bar:
        list(bar.track(range(3), description="é缺"))
print("done", flush=True)
open("whole", "w").close()
"""


def show(folder: Path, stdout: int, encoding: str) -> subprocess.CompletedProcess:
    env = environment(folder, PYTHONIOENCODING=encoding, PYTHONPATH=str(ROOT))
    return subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=folder, env=env, stdout=stdout, stderr=subprocess.PIPE, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("encoding", [*ENCODINGS, "utf-8"])
def test_what_cannot_be_encoded_is_a_question_mark(tmp_path, encoding):
    result = show(tmp_path, subprocess.PIPE, encoding)
    assert result.returncode == 0 and (tmp_path / "whole").exists(), result.stderr
    assert result.stdout.decode(encoding).splitlines()[-1] == "done"
    assert b"Error" not in result.stderr and b"?" in result.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_a_full_disk_behind_stdout_ends_nothing(tmp_path):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        result = show(tmp_path, full.fileno(), "utf-8")
    assert result.returncode == 0 and (tmp_path / "whole").exists(), result.stderr
    assert b"Error" not in result.stderr


def test_a_pipe_that_nobody_reads_ends_nothing(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    result = show(tmp_path, writing, "utf-8")
    os.close(writing)
    assert result.returncode == 0 and (tmp_path / "whole").exists(), result.stderr
    assert b"Error" not in result.stderr


def test_a_table_in_a_file_is_as_wide_as_it_needs(tmp_path, capsys):
    table = Table("ε", "what it is")
    table.add_row("0.01", "a %s of [bold] " + "long " * 40)
    print_table(table)
    print_facts(("written", tmp_path / "a%sb"))
    text = capsys.readouterr().out
    assert text.count("what it is") == text.count("a%sb") == 1
    assert "a %s of [bold] " + "long " * 39 in text and "\x1b" not in text


HOSTILE = "a\x1b]0;x\x07\x1b[2J\x9b2J\r\n12:00:00  good  b.png"
SHOWN = r"a\x1b]0;x\x07\x1b[2J\x9b2J\r\n12:00:00  good  b.png"


def test_a_name_does_not_command_a_terminal_or_begin_a_line(tmp_path, capsys):
    print_line(HOSTILE)
    print_facts(("", HOSTILE), ("written", tmp_path / HOSTILE))
    say(HOSTILE)
    captured = capsys.readouterr()
    for text in captured:
        assert not set(text.replace("\n", "")) & {*map(chr, range(32)), "\x7f", "\x9b"}
    assert sum(SHOWN in line for line in captured.out.splitlines()) == 3
    assert (
        told(InputError(HOSTILE))
        == one_line(InputError(HOSTILE))
        == r"a\x1b]0;x\x07\x1b[2J\x9b2J 12:00:00 good b.png"
    )


# What PYTHONIOENCODING makes of a process, for one that has begun.
ASCII = """
import sys
sys.stdout.reconfigure(encoding="ascii", errors="strict")
sys.stderr.reconfigure(encoding="ascii", errors="backslashreplace")
"""


# The narrowest stands for all here: the short test above takes each.
@pytest.mark.slow
def test_a_fit_and_a_watch_in_any_encoding(zygote, tmp_path):
    build_tree(tmp_path / "data", train=6, test={"good": 2, "crack": 3})
    save_image(tmp_path / "inbox" / "缺陷.png")
    (tmp_path / "ascii.py").write_text(ASCII)
    watch = ["mode=predict", "ckpt=run/model.ckpt", "images=inbox", "watch=true", "watch_idle=1",
             "watch_settle=0.1", "trainer=cpu", "hydra.run.dir=watched"]  # fmt: skip
    for words in (TINY, watch):
        result = zygote.run(words, tmp_path, {"BEFORE_RUN": str(tmp_path / "ascii.py")})
        assert result.code == 0, result.err
        assert "UnicodeEncodeError" not in result.err and result.out.isascii()
    assert (tmp_path / "run" / "metrics.json").exists()
    assert "缺陷.png" in (tmp_path / "watched" / "predictions.csv").read_text("utf-8")
