"""The table at the end of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from padim_lit.metrics import METRICS
from padim_lit.system.console import MISSING, print_facts, print_line, print_table

# Short enough for a terminal of 80 columns.
MEANING = {
    "test/image_auroc": "chance that a defective image scores above a good one; 0.5: a coin",
    "test/image_ap": "average precision: few good images among the highest scores",
    "test/image_f1max": "found defects against false alarms, at the best threshold",
    "test/pixel_auroc": "as image AUROC, for pixels of the heat maps",
    "test/pixel_ap": "as image AP, for pixels",
    "test/pixel_aupro": "share of each defect's area that is found, at few false alarms",
}


def print_summary(
    results: Mapping[str, Any],
    paths: Mapping[str, str | Path],
    notes: Sequence[str],
    *,
    console: Console | None = None,
) -> None:
    """Print what a run found, what it was, what to know when reading it, and where the files are.

    Args:
        results: the content of metrics.json; a metric that is None says why under ``NAME_why``.
        paths: what each file is, and its path; printed whole.
        notes: sentences such as "Pixel metrics count planted defects only.".
        console: where to print; standard output if None.
    """
    console = console or Console()
    console.print()
    print_table(_metrics(results), console)
    console.print()
    print_table(_run(results), console)
    if notes:
        console.print()
    for note in notes:
        print_line(f"Note: {note}", console)
    if paths:
        console.print()
        print_facts(*paths.items(), console=console)


def _metrics(results: Mapping[str, Any]) -> Table:
    table = Table(title="Test metrics: 1 is perfect", title_justify="left")
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("what it is, or why it is missing", overflow="fold")
    for key, name in METRICS.items():
        value, why = results.get(key), results.get(f"{key}_why")
        shown = MISSING if value is None else f"{value:.4f}"
        table.add_row(*map(Text, (name, shown, why or MEANING.get(key, ""))))
    return table


def _run(results: Mapping[str, Any]) -> Table:
    table = Table(title="Run", title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    planted = {"data/test_planted": results.get("data/test_planted") or None}
    rows = {
        "backbone": _join(results, ("backbone", "{}"), ("weights", "weights {}")),
        "data": _join(results, ("data", "{}")),
        "learnt from": _join(results, ("data/train_images", "{} good")),
        "tested on": _join(
            {**results, **planted},  # 0 where nothing is planted at all: not worth a word
            ("data/test_good", "{} good"),
            ("data/test_defective", "{} defective"),
            ("data/test_planted", "{} good ones again, with planted defects"),
        ),
        "patches": _grid(results.get("grid")),
        "projection": _join(
            results,
            ("proj", "{}"),
            ("dim", "{} numbers per patch (D)"),
            ("embedding_dim", "made from {} channels (C)"),
        ),
        "settings": _join(results, ("eps", "eps {}"), ("seed", "seed {}")),
        "fit": _pace(results, "fit"),
        "test": _pace(results, "test"),
        "peak memory": _memory(results.get("peak_memory_bytes")),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(value))
    return table


def _join(results: Mapping[str, Any], *parts: tuple[str, str]) -> str:
    known = [form.format(results[key]) for key, form in parts if results.get(key) is not None]
    return ", ".join(known)


def _grid(grid: Any) -> str:
    if not isinstance(grid, list | tuple):
        return str(grid or "")
    return f"{' x '.join(map(str, grid))} on each image"


def _pace(results: Mapping[str, Any], stage: str) -> str:
    seconds, images = results.get(f"{stage}/seconds"), results.get(f"{stage}/images")
    if seconds is None or images is None:
        return ""
    pace = f", {images / seconds:.1f} per second" if seconds > 0 else ""
    return f"{images} images in {seconds:.1f} s{pace}"


def _memory(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
