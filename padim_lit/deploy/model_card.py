"""The model card beside a checkpoint: data, decision, tests and limits, in Markdown."""

from collections.abc import Iterable, Mapping
from typing import Any

from padim_lit.checkpoint.format import SHA256
from padim_lit.checkpoint.state import facts_of
from padim_lit.deploy.calibration import describe
from padim_lit.metric_names import METRICS, of_defective
from padim_lit.model.detector import Detector
from padim_lit.model.region_of_interest import share
from padim_lit.system.clock import now
from padim_lit.system.console import percent
from padim_lit.version import __version__


def model_card(
    detector: Detector,
    sha256: str | None = None,
    tested: Mapping[str, Any] | None = None,
) -> str:
    """Return the model card of a fitted detector, in Markdown.

    Args:
        detector: fitted.
        sha256: of its file, see `padim_lit.checkpoint.format.sha256_of`.
        tested: the content of metrics.json of its test; None where it was not tested.

    >>> model_card(detector).splitlines()[0]
    '# padim_lit model: unknown data'
    """
    provenance, (h, w) = detector.provenance, detector.image_shape
    data = provenance.get("data", "unknown data")
    crop, part = provenance.get("crop_size"), share(detector.anomaly_map)
    size = f"resized to {provenance.get('image_size', f'{h}×{w}')}"
    history = [one for one in provenance.get("history", []) if isinstance(one, dict)]
    since = [one.get("mode") for one in history]
    changed = any(mode in since for mode in ("update", "remove", "merge"))
    model = {
        SHA256: sha256,
        "fitted on": f"{detector.count} good images of {data}"
        f"{', changed since then' if changed else ''}",
        "split": provenance.get("split"),
        **{key: (tested or {}).get(key) for key in ("data_sha256", "version/commit")},
        "sees": f"{h}×{w} pixels, {size}{f', centre crop {crop}' if crop else ''}",
        "counts": f"{percent(part, 1)} of that, by roi" if part < 1 else None,
        **facts_of(detector),
        "card written": f"{now()}, by padim_lit {__version__}",
    }
    decision = "It has no threshold; mode=calibrate sets one from good images."
    if detector.calibration is not None:
        decision = f"By {describe(detector.calibration)}."
    parts = [
        f"# padim_lit model: {data}",
        "Finds what differs from good images of one part, taken in the same way.",
        "## Model\n\n" + _table(model),
        *([f"## Changes since the fit\n\n{_steps(history)}"] if history else []),
        f"## Decision\n\n{decision}",
        f"## Test\n\n{_test(tested)}",
        "## Not tested\n\n" + "\n".join(f"- {line}" for line in _limits(detector, tested)),
    ]
    if tested and tested.get("notes"):
        parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in tested["notes"]))
    return "\n\n".join(parts) + "\n"


def is_card_of(text: str, sha256: str | None) -> bool:
    """Whether a card describes the checkpoint with this digest.

    >>> is_card_of(model_card(detector, "0123456789ab"), "0123456789ab")
    True
    >>> is_card_of(model_card(detector), None)
    False
    """
    return f"| {SHA256} | {sha256} |" in text.splitlines()


def _test(tested: Mapping[str, Any] | None) -> str:
    if not tested:
        return "It was not tested."
    good, bad = tested["data/test_good"], tested["data/test_defective"]
    lines = [f"On {good} good and {bad} defective images of {tested['data']}."]
    if kinds := tested["threshold_misses"]:
        lines[0] += f" Kinds: {', '.join('{kind} ({images})'.format(**one) for one in kinds)}."
    if tested.get("test/false_alarms") is not None:
        alarms, misses = tested["test/false_alarms"], tested["test/misses"]
        lines.append(
            f"At the threshold {alarms} of {good} good images are called defective, and {misses} "
            f"of {bad} defective ones are missed."
        )
        if len(kinds) > 1:
            each = (f"{one['misses']} of {one['images']} {one['kind']}" for one in kinds)
            lines[-1] += f" By kind: {', '.join(each)}."
    part = of_defective(tested)
    found = {
        f"{name}, {part}" if part and "pixel" in name else name: f"{tested[key]:.4f}"
        for key, name in METRICS.items()
        if tested.get(key) is not None
    }
    if found:
        lines.append("AUROC is the chance that a defective one scores above a good one.")
        lines.append(_table(found))
    return "\n\n".join(lines)


def _steps(history: Iterable[Mapping[str, Any]]) -> str:
    """Return a table of what was done to a model, oldest first, and to which one."""
    names = {"mode": "mode", "images": "images", "data": "from", SHA256: "model before"}
    rows = [[one.get(key, one.get("ckpts") if key == "data" else None) for key in names]
            for one in history]  # fmt: skip
    lines = [names.values(), ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _limits(detector: Detector, tested: Mapping[str, Any] | None) -> Iterable[str]:
    yield "Other parts, cameras, lenses, light and positions than those of the images above."
    if not tested:
        yield "Any defect, and any good image that was not in the fit."
    elif not tested["data/test_defective"]:
        yield "Any defect: the test set has none."
    else:
        yield "Other kinds of defects than those above."
    if tested and tested.get("data/test_planted"):
        yield "Real defects' places: pixel metrics count planted, synthetic defects."
    if share(detector.anomaly_map) < 1:
        yield "What lies outside of the region of interest: it does not count."
    if detector.provenance.get("crop_size"):
        yield "What lies outside the centre crop: it is not seen."
    if detector.backbone.source.startswith("random"):
        yield "Anything: the backbone's weights are random."


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {key} | {_cell(value)} |" for key, value in rows.items() if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    # Line breaks and | would end the cell.
    return "" if value is None else " ".join(str(value).split()).replace("|", "\\|")
