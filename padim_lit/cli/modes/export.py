"""mode=export: write a checkpoint for another runtime, compare both, time both on photos."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING
from scipy.stats import spearmanr
from torch import Tensor

from padim_lit import digests
from padim_lit.checkpoint.state import load_identified
from padim_lit.cli.good_images import images_of, removed_from, require_good
from padim_lit.cli.settings import Settings
from padim_lit.data.tree import good_folder_of
from padim_lit.deploy.export import DTYPES, FORMATS, WRITERS, exported, metadata
from padim_lit.deploy.int8 import as_given, int8
from padim_lit.deploy.runtimes import (
    RUNTIMES,
    Run,
    largest_difference,
    milliseconds,
    require,
    run_detector,
)
from padim_lit.errors import InputError, require_choice
from padim_lit.metrics import ImageMetrics
from padim_lit.model.detector import Detector
from padim_lit.system.atomic import private_folder, put, write_json
from padim_lit.system.console import count, print_facts, score_text, tracked
from padim_lit.system.paths import typed_path
from padim_lit.system.versions import written_with

#: Largest relative difference to the checkpoint's scores, and to any pixel of its maps, that is
#: written. A map's lowest values move most, and say least.
TOLERANCES = {
    "fp32": {"score_difference": 1e-4, "map_difference": 1e-4},
    "fp16": {"score_difference": 2e-2, "map_difference": 1e-1},
    # In graphs to the Gaussians that were fitted on onnxruntime's INT8 convolutions: others round
    # otherwise.
    "int8": {"score_difference": 2e-2, "map_difference": 1e-1},
}
#: What must be installed for format=NAME.
NEEDS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
COMPARED_IMAGES = 5  # the first alone, the others as one batch
TIMED_ROUNDS, TIMED_SECONDS = 30, 20.0


@dataclass
class Export(Settings):
    """A model.ckpt as one file for another runtime: docs/export.md.

    Args:
        ckpt: model.ckpt of an earlier run
        format: onnx | openvino | torch: a slim checkpoint
        precision: fp32 | fp16: half the size | int8: torch: less still; graphs: the convolutions
        preprocess: true: the graph takes uint8 (B,h,w,3) instead of float32 (B,3,h,w) in [0, 1]
        output: file to write; null: model.onnx, model.xml or slim.ckpt in the run's folder
        threshold: of graphs: score from which an image is called defective; null: the checkpoint's
        images: to compare and time both: one, a folder or a quoted pattern; null: good, or untimed
        good: int8 graphs: good images for their Gaussians and threshold, best those of the fit
    """

    mode: str = "export"
    ckpt: str = MISSING
    format: str = "onnx"
    precision: str = "fp32"
    preprocess: bool = False
    output: str | None = None
    threshold: float | None = None
    images: str | None = None
    good: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("format", self.format, FORMATS)
        require_choice("precision", self.precision, DTYPES)
        if self.format == "torch" and (self.preprocess or self.threshold is not None):
            raise InputError(
                "format=torch writes a slim checkpoint: preprocess and threshold are of graphs; "
                "leave them out, and give threshold to mode=predict or mode=serve"
            )
        if self.refits != (self.good is not None):
            raise InputError(
                f"good={self.good}: graphs with precision=int8 need good images, best those of the "
                "fit: good=FOLDER or PATTERN; all else takes none"
            )

    @property
    def refits(self) -> bool:
        """Whether Gaussians are fitted again, because rounded convolutions give other features."""
        return self.precision == "int8" and self.format != "torch"


def run(settings: Export, folder: Path) -> dict[str, Any]:
    """Export ``settings.ckpt``; the files come into place only after they gave its scores.

    Returns:
        The content of export.json.

    Raises:
        InputError: a config, checkpoint, package, image or path that cannot be used, or a file
            that does not give the checkpoint's scores.
    """
    require(settings.format, *NEEDS[settings.format])
    source, target = typed_path(settings.ckpt), _target(settings, folder)
    given, sha256 = load_identified(settings.ckpt)
    ckpt_bytes = source.stat().st_size  # now, as another may lie there when all is compared
    detector, notes = given, list[str]()
    detector.require_fitted()
    if settings.refits:
        images, what = images_of(settings.good, given, "good"), f"good={settings.good}"
        require_good(images, what)
        detector = int8(given, images, settings.preprocess, what)
        fitted = digests.keys(detector.require_state().digests)
        if back := removed_from(given).intersection(fitted):
            raise InputError(
                f"{what}: {len(back)} of {len(fitted)} images were taken out by mode=remove, and "
                "would count again; give it without them"
            )
    threshold = detector.threshold if settings.threshold is None else settings.threshold
    if threshold is None:
        notes.append("No decision: the checkpoint holds no threshold; mode=calibrate sets one.")
    about = metadata(detector, threshold, settings.precision, settings.preprocess)
    about["model_sha256"] = sha256
    if settings.refits:
        about["good"] = settings.good  # `data` is what projection and centroids are of
    seen = settings.images or settings.good
    compared = _images(seen, detector)
    with private_folder(target) as folder_beside:
        part = folder_beside / target.name
        WRITERS[settings.format](detector, part, about)
        threads = torch.get_num_threads()
        ours, theirs = run_detector(detector), RUNTIMES[settings.format](part, threads)
        found = _compare(ours, theirs, compared, settings.preprocess, threshold)
        _require_close(found, settings)
        if settings.precision == "int8" and settings.images is not None:
            found |= _agreement(given, theirs, settings, threshold)
        times = [None, None]
        if seen is not None:  # noise costs torch's search for the nearest far more
            plain, first = (as_given(compared[:1], as_is) for as_is in (False, settings.preprocess))
            times = milliseconds(
                [lambda: ours(plain), lambda: theirs(first)], TIMED_ROUNDS, TIMED_SECONDS
            )
        theirs = None  # OpenVINO keeps its file open, which Windows would not let be moved
        files = _place(part, target, settings.format)
    if detector.backbone.source.startswith("random"):
        notes.append("The backbone's weights are random: the scores say nothing about defects.")
    results = {
        "format": settings.format,
        **about,
        "files": [str(file.resolve()) for file in files],
        "ckpt": str(source.resolve()),
        "bytes": sum(file.stat().st_size for file in files),
        "ckpt_threshold": given.threshold,
        "ckpt_bytes": ckpt_bytes,
        **found,
        "compared": seen or "random images",
        "good": settings.good,
        "ms": times[1],
        "ckpt_ms": times[0],
        "threads": threads,
        **written_with(torch.device("cpu")),
        **{f"version/{name}": packages.version(name) for name in NEEDS[settings.format]},
        "notes": notes,
    }
    # Last: with export.json the folder is complete.
    write_json(folder / "export.json", results)
    _print(results)
    return results


def _target(settings: Export, folder: Path) -> Path:
    suffix = FORMATS[settings.format][0]
    if settings.output is None:
        name = "slim" if settings.format == "torch" else "model"
        return folder / f"{name}{suffix}"
    target = typed_path(settings.output)
    if target.suffix != suffix or target.is_dir():
        raise InputError(
            f"output={settings.output}: format={settings.format} writes a file NAME{suffix}; "
            "give such a name"
        )
    return target


def _place(part: Path, target: Path, format: str) -> list[Path]:
    # The one to open comes last: where it is, the others are.
    files = [target.with_suffix(suffix) for suffix in FORMATS[format]]
    ours = exported(target)
    for file in files:
        new = part.with_suffix(file.suffix)
        if not ours and file.exists() and file.read_bytes() != new.read_bytes():
            raise InputError(
                f"{file} is there already, and no export of padim_lit; nothing was written: move "
                "it away, or give another output"
            )
    for file in reversed(files):
        put(part.with_suffix(file.suffix), file)
    return files


def _images(given: str | None, detector: Detector) -> Tensor:
    """Return images (B,3,h,w) in [0, 1]: a few of the user's as the model sees them, or random."""
    if given is None:
        shape = (COMPARED_IMAGES, *detector.image_shape, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    dataset = images_of(given, detector)
    chosen = range(0, len(dataset), max(1, len(dataset) // COMPARED_IMAGES))[:COMPARED_IMAGES]
    return torch.stack([dataset[i]["image"] for i in chosen])


def _compare(
    ours: Run, theirs: Run, images: Tensor, preprocess: bool, threshold: float | None
) -> dict[str, float]:
    """Return the largest relative differences.

    One is infinite where a decision does not follow from its score.
    """
    found = {"score_difference": 0.0, "map_difference": 0.0}
    for part in filter(len, (images[:1], images[1:])):
        expected, given = ours(as_given(part, False)), theirs(as_given(part, preprocess))
        for key in found:
            name = key.removesuffix("_difference")
            found[key] = max(found[key], largest_difference(expected[name], given[name]))
        if "decision" in given and (given["decision"] != (given["score"] >= threshold)).any():
            found["score_difference"] = math.inf
    return found


def _agreement(
    given: Detector, theirs: Run, settings: Export, threshold: float | None
) -> dict[str, Any]:
    """Return how far the file's scores of all ``images`` agree with the checkpoint's.

    In folders named as good ones are good images, in all others defective ones.
    """
    dataset = images_of(settings.images, given)
    if len(dataset) < 2:  # one image has no rank
        return {}
    scores, ours = [], run_detector(given)
    for sample in tracked(dataset, "compare"):
        image = sample["image"][None]
        pair = ours(as_given(image, False)), theirs(as_given(image, settings.preprocess))
        scores.append([float(outputs["score"][0]) for outputs in pair])
    before, after = torch.tensor(scores).T
    found: dict[str, Any] = {"agreement_images": len(scores)}
    if len(before.unique()) > 1 and len(after.unique()) > 1:  # copies of one image have no order
        found["rank_correlation"] = float(spearmanr(before, after).statistic)
    good = good_folder_of([item.path for item in dataset.items])
    labels = torch.tensor([folder is None for folder in good])
    for key, values in (("ckpt_image_auroc", before), ("image_auroc", after)):
        metric = ImageMetrics()
        metric.update(values, labels)
        found[key] = metric.compute()["image_auroc"]
    if threshold is not None and (old := given.threshold) is not None:
        found["other_decisions"] = int(((before >= old) != (after >= threshold)).sum())
    return found


def _require_close(found: dict[str, float], settings: Export) -> None:
    for name, allowed in TOLERANCES[settings.precision].items():
        if not found[name] <= allowed:
            better = "format=torch" if settings.precision == "fp32" else "precision=fp32"
            raise InputError(
                f"format={settings.format} gives a {name.removesuffix('_difference')} that differs "
                f"from the checkpoint's by {found[name]:.1e}, allowed is {allowed:.0e}; nothing "
                f"was written; use {better}"
            )


def _said_of_agreement(results: dict[str, Any]) -> Iterator[tuple[str, str]]:
    said = []
    if "rank_correlation" in results:
        said.append(f"rank correlation {results['rank_correlation']:.4f}")
    if "other_decisions" in results:
        said.append(count(results["other_decisions"], "other decision"))
    if said:
        yield "agree", f"{', '.join(said)}, on {results['agreement_images']} images"
    if results.get("image_auroc") is not None:
        before, after = results["ckpt_image_auroc"], results["image_auroc"]
        change = f"{after:.4f} in INT8 ({after - before:+.4f})"
        yield "AUROC", f"{before:.4f} in the checkpoint, {change}"


def _print(results: dict[str, Any]) -> None:
    timed = results["ms"] is not None

    def cost(whose: str) -> str:
        size = f"{results[f'{whose}bytes'] / 1e6:.1f} MB"
        return f"{size}, {results[f'{whose}ms']:.1f} ms per image" if timed else size

    how = f"in batches of 1, median, {results['threads']} threads each"
    score, pixel = results["score_difference"], results["map_difference"]
    files = [Path(file) for file in results["files"]]
    facts = [
        ("checkpoint", cost("ckpt_")),
        (files[0].name, f"{cost('')}, for {results['format']} in {results['precision']}"),
        ("timed", how if timed else "not: give images=GOOD_IMAGES"),
        ("differ", f"by {score:.1e} in a score and {pixel:.1e} in a map at most, relatively"),
        ("compared", f"on {results['compared']}"),
        *_said_of_agreement(results),
    ]
    if (threshold := results["threshold"]) is not None:
        old = results["ckpt_threshold"]
        before = f" (the checkpoint's: {score_text(old)})" if old not in (None, threshold) else ""
        facts.append(("decides", f"by threshold {score_text(threshold)}{before}"))
    notes = [("note", note) for note in results["notes"]]
    print_facts(*facts, *notes, *(("written", file) for file in files))
