"""The table at the end of a run."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.table import Table

from padim_lit.metric_names import METRICS, of_defective
from padim_lit.system.console import (
    MISSING,
    pace,
    percent,
    print_facts,
    print_line,
    print_table,
    score_text,
)
from padim_lit.system.memory import readable

# Short enough for a terminal of 80 columns.
MEANING = {
    "test/image_auroc": "chance that a defective image scores above a good one; 0.5: a coin",
    "test/image_ap": "average precision: how purely the highest scores are defects",
    "test/image_f1max": "found defects, false alarms in balance, at this test's best threshold{at}",
    "test/pixel_auroc": "as image AUROC, for pixels of the heat maps",
    "test/pixel_ap": "as image AP, for pixels",
    "test/pixel_aupro": "share of each defect's area that is found, at few false alarms",
}
#: What `padim_lit.metrics` says of pixel metrics where no mask exists.
NO_MASKS = "no test image has a known mask"
#: What a run was: each part that is known, by the keys of metrics.json.
RUN = {
    "backbone": ("{backbone}", "weights {weights}"),
    "data": ("{data}",),
    "learnt from": ("{fit/images} good",),
    "tested on": (
        "{data/test_good} good",
        "{data/test_defective} defective",
        "{data/test_planted} good ones again, with planted defects",
    ),
    "patches": ("{grid}",),
    "resolution": (
        "a patch is {patch} pixels of a photo; defects much smaller may be missed: set image_size",
    ),
    "projection": (
        "{proj}",
        "{dim} numbers per patch (D)",
        "made from {embedding_dim} channels (C)",
    ),
    "density": (
        "{density}",
        "{positions} for each patch position",
        "{density/components} components for all positions together",
        "a position's own distance counts {own} where a component is nearer",
    ),
    "settings": (
        "eps {eps}",
        "eps_unit {eps_unit}",
        "neighbourhood {neighbourhood}",
        "rotations {rotations}",
        "image_score {image_score}",
        "seed {seed}",
    ),
    "fit": ("{fit}",),
    "test": ("{test}",),
    "peak memory": ("{memory}",),
}


def print_summary(
    results: Mapping[str, Any],
    paths: Mapping[str, str | Path],
    notes: Sequence[str],
    choices: Table | None = None,
) -> None:
    """Print what a run found, what it was, what to know when reading it, and where the files are.

    Args:
        results: the content of metrics.json; a metric that is None says why under ``NAME_why``.
        paths: what each file is, and its path; printed whole.
        choices: what other thresholds would do.
        notes: sentences such as "Pixel metrics count planted defects only.".
    """
    print()
    # Without defects there is no metric, and a note says it.
    told = any(results.get(f"data/test_{what}", 1) for what in ("defective", "planted"))
    told = told or any(results.get(key) is not None for key in METRICS)
    for table in (_metrics(results) if told else None, choices, _run(results)):
        if table is not None:
            print_table(table)
            print()
    for note in notes:
        print_line(f"Note: {note}")
    if paths:
        if notes:
            print()
        print_facts(*paths.items())


def _metrics(results: Mapping[str, Any]) -> Table:
    table = Table(title="Test metrics: 1 is perfect", title_justify="left")
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("what it is, or why it is missing", overflow="fold")
    part = of_defective(results)
    for key, name in METRICS.items():
        value, why = results.get(key), results.get(f"{key}_why")
        if why == NO_MASKS:  # a note says it once
            continue
        shown = MISSING if value is None else f"{value:.4f}"
        best = results.get(f"{key}_threshold")
        at = "" if best is None else f", {score_text(best)}"
        few = f"; {part}" if part and "pixel" in key else ""
        table.add_row(name, shown, why or MEANING[key].format(at=at) + few)
    return table


def _run(results: Mapping[str, Any]) -> Table:
    table = Table(title="Run", title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    known = {key: value for key, value in results.items() if value is not None}
    for key in ("data/test_good", "data/test_defective", "data/test_planted"):
        if not known.get(key):  # not worth a word
            known.pop(key, None)
    if isinstance(known.get("grid"), list | tuple):
        known["grid"] = f"{' x '.join(map(str, known['grid']))} on each image"
    if known.get("density") in ("position", "both") or "position_weight" in known:
        known["positions"] = "a Gaussian"
    if (weight := known.get("position_weight")) is not None:
        known["own"] = percent(weight)
    if isinstance(known.get("patch_pixels"), list | tuple):
        height, width = known["patch_pixels"]
        square = f"{height:g} x {width:g}"
        known["patch"] = square if height == width else f"{height:g} (high) x {width:g} (wide)"
    for stage in ("fit", "test"):
        seconds, images = known.get(f"{stage}/seconds"), known.get(f"{stage}/images")
        if seconds is not None and images is not None:
            how_fast = f", {pace(images, seconds)}" if images and seconds > 0 else ""
            known[stage] = f"{images} images in {seconds:.1f} s{how_fast}"
    if "peak_memory_bytes" in known:
        known["memory"] = readable(known["peak_memory_bytes"])
    for name, parts in RUN.items():
        said = []
        for part in parts:
            with suppress(KeyError):  # not known
                said.append(part.format_map(known))
        if said:
            table.add_row(name, ", ".join(said))
    return table
