"""What a command that was given something bad must leave, and what makes a file bad."""

from pathlib import Path

from _helpers.cli import Result

RESULTS = ("metrics.json", "predictions.csv", "model.ckpt", "model.ckpt.part", "heatmaps")


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def require_one_clear_line(result: Result, words: tuple[str, ...]) -> None:
    everything = f"{result.out}\n{result.err}"
    assert result.code == 1, everything
    assert "Traceback" not in everything
    assert "Error executing job" not in everything
    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and result.err.rstrip().endswith(lines[0]), result.err
    for word in words:
        assert word in lines[0]


def leftovers(folder: Path) -> list[str]:
    """Result files, whole or in part, anywhere below `folder`."""
    names = {path.name for path in folder.rglob("*")}
    return sorted(n for n in names if n in RESULTS or n.endswith((".part", ".tmp")))
