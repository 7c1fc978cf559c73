"""The notes that a run of mode=fit prints: on its data, its fit and its threshold."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from padim_lit import digests
from padim_lit.checkpoint import format as checkpoint_format
from padim_lit.cli import build
from padim_lit.cli.good_images import removed
from padim_lit.cli.settings import Embedding
from padim_lit.data import AnomalyData
from padim_lit.deploy.calibration import FALSE_ALARM_RATE, needed
from padim_lit.model.both import MAX_POSITION_WEIGHT
from padim_lit.model.detector import Detector
from padim_lit.model.region_of_interest import share
from padim_lit.model.ridge import variances
from padim_lit.system.console import percent, score_text

if TYPE_CHECKING:
    from padim_lit.cli.modes.fit import Fit

# Below so small a share of the variance within a Gaussian, ε changes nothing; above all of it,
# little else counts.
LEAST_EPS_SHARE = 1e-3
# Patches of the grid that the rule for w was set on (docs/choices.md).
RULE_PATCHES = 28 * 28
# Below so much a position's own distance counts little.
LITTLE_WEIGHT = 0.4
# A rate that few images can set.
MORE_ALARMS = 0.05


def before(settings: "Fit", data: AnomalyData, detector: Detector) -> Iterator[str]:
    """Yield the notes that are known before a fit or a test."""
    yield from build.notes_on(data, detector.backbone.source)
    if detector.projection.name == "identity" and settings.dim != detector.projection.dim:
        yield f"proj=identity keeps all {detector.projection.dim} channels; dim is not used."
    if settings.ckpt and settings.calibration != type(settings).calibration:
        yield (
            f"calibration={settings.calibration} is of a fit: the threshold of ckpt="
            f"{settings.ckpt} stays; mode=calibrate sets another."
        )
    if (part := share(detector.anomaly_map)) < 1:
        yield (
            f"Region of interest: {percent(part, 1)} of what the model sees counts; the rest "
            "counts neither for scores nor for thresholds and metrics."
        )
    # Photos of other proportions are distorted when they are turned, but for a half turn.
    squeezed = data.sight.squeezed(detector.rotations > 2)
    if squeezed and not data.mixed_proportions:  # which has a note, and no cure by a size
        yield squeezed


def on_fit(settings: "Fit", detector: Detector) -> Iterator[str]:
    """Yield the notes on a fit: ε, images that count twice, and images that were seen before."""
    state = detector.require_state()
    within, projection = float(variances(state.moments).mean()), detector.projection
    yield from on_eps(settings, [(projection.name, projection.dim, within)])
    seen = settings.learnt_from and not detector.provenance["learnt_elsewhere"]
    if seen and settings.calibration:
        none = "there is no threshold; mode=calibrate sets one, from all of them or from others"
        anew = "the threshold is set by fits that learn anew"
        yield (
            f"learnt_from={settings.learnt_from} may have learnt from some of these images, so "
            f"{anew if detector.calibration else none}."
        )
    weight = detector.density.learnt.get("position_weight", 1)
    finer = detector.positions > RULE_PATCHES
    if finer and weight < LITTLE_WEIGHT and "position_weight" not in detector.density.options:
        yield (
            f"How much a position's own distance counts ({percent(weight)}) is learnt by a rule "
            "that was set on 28 x 28 patches. On this finer grid density.position_weight="
            f"{MAX_POSITION_WEIGHT:g} may find more, if parts lie the same way in all photos."
        )
    yield from _few(detector, weight)
    # Repeats that the look at the files missed, because full_check was too low.
    if state.digests is not None and (twice := digests.repeats(state.digests)):
        yield (
            f"Training images that are the same picture as another one: {twice}. Each counts, and "
            "the threshold is too low; a larger full_check finds them first."
        )


def on_eps(settings: Embedding, found: Iterable[tuple[str, int, float]]) -> list[str]:
    """Return a note for each projection to whose features an absolute ε is nothing, or everything.

    `found` holds projections, their D, and the mean variance of what they give.
    """
    notes, eps = {}, settings.eps
    for proj, dim, variance in found if settings.eps_unit == "feature" and eps else ():
        ratio = eps / variance if variance else math.inf
        if not LEAST_EPS_SHARE <= ratio <= 1:
            small, large = "too small to steady the covariances", "larger than it, so it decides"
            notes[proj] = (
                f"eps={eps:g} is {ratio:.2g} times the mean variance of the features (proj={proj} "
                f"dim={dim}), {small if ratio < 1 else large}; eps_unit=variance, the default, "
                "means the same for every backbone."
            )
    return list(notes.values())


def _few(detector: Detector, weight: float) -> Iterator[str]:
    """Yield the cure where so few images set a threshold that nothing but plain defects is found.

    `weight` says how much places count: parts that lie alike need no turned images.
    """
    known = detector.calibration
    images = 0 if known is None else len(known.scores)
    if known is None or known.method != "largest" or images >= needed(FALSE_ALARM_RATE):
        return
    helps = [f"{needed(FALSE_ALARM_RATE)} good images or more"]
    if images >= needed(MORE_ALARMS):
        helps.append(f"false_alarm_rate={MORE_ALARMS:g}, at more false alarms")
    if detector.rotations == 1 and weight < LITTLE_WEIGHT and detector.anomaly_map.roi is None:
        helps.append("rotations=8, if parts may lie in any direction")
    yield (
        f"The threshold is the highest score of only {images} good images, so faint defects are "
        f"missed. What helps: {'; '.join(helps)}."
    )


def may_have_seen(path: str, detector: Detector) -> bool:
    """Whether the parts that a checkpoint has learnt may have seen an image of this fit."""
    other = checkpoint_format.read(path)[checkpoint_format.KEY]
    theirs, mine = other["digests"], detector.require_state().digests
    # A part that it took over itself may have learnt from any image.
    if theirs is None or mine is None or "learnt_from" in other["provenance"]:
        return True
    seen = removed(other["provenance"]).union(digests.keys(theirs))
    return not seen.isdisjoint(digests.keys(mine))


def patch_pixels(data: AnomalyData, detector: Detector) -> list[float]:
    """Return the height and width of a patch in pixels of the largest photo.

    Nothing smaller is told apart.
    """
    return [round(n / of, 1) for n, of in zip(_seen(data), detector.map_grid, strict=True)]


def stretch(data: AnomalyData, detector: Detector) -> float:
    """Return a model pixel's width over its height in the photos; 1.0 where these differ in it."""
    (height, width), (h, w) = _seen(data), detector.image_shape
    return 1.0 if data.mixed_proportions else (width / w) / (height / h)


def _seen(data: AnomalyData) -> tuple[float, float]:
    """Return how much the model sees of the largest photo, (height, width) in its pixels."""
    return max(map(data.sight.seen, data.sight.photos), key=lambda size: (math.prod(size), size))


def headline(data: AnomalyData, detector: Detector) -> str:
    """Return one line on the data and on what describes a patch, for the start of a run."""
    height, width = detector.map_grid
    kinds = Counter(item.kind for item in data.test_items if item.label)
    bad = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    learns = f"{data.provenance['train_images']} good images to learn from, " * data.fits
    return (
        f"{data.name}: {learns}{len(data.test_items)} to test"
        f"{bad and f' (with defects: {bad})'}. Each is seen as {height}×{width} patches; "
        f"{detector.backbone.name} ({detector.backbone.source}) describes a patch by "
        f"{detector.backbone.embedding_dim} channels (C), "
        f"proj={detector.projection.name} turns these into {detector.projection.dim} numbers (D)"
    )


def sentence(words: str) -> str:
    """Return a line of the log as a sentence."""
    return f"{words[0].upper()}{words[1:]}."


def on_threshold(results: Mapping[str, Any]) -> list[str]:
    """Return the notes on the threshold, from the content of metrics.json."""
    if "threshold" not in results:
        return ["No threshold: this model decides nothing yet; mode=calibrate sets one."]
    if results["threshold"] is None:
        return [f"No threshold: {results['threshold_why']}."]
    good, bad = results["data/test_good"], results["data/test_defective"]
    alarms, misses = results["test/false_alarms"], results["test/misses"]
    if results["fit/seconds"] is None:
        said = results["threshold_said"]
        note = f"{sentence(said)} An image from it on is called defective."
    else:  # a fit has said so much when it chose the threshold
        low, high = (percent(results[f"threshold_rate_{end}"], 2) for end in ("low", "high"))
        note = (
            f"An image from the threshold {score_text(results['threshold'])} on is called "
            f"defective, as {low} to {high} of good ones are."
        )
    if alarms is None:
        return [note]
    missed = f", and {misses} of {bad} defective ones are missed" if bad else ""
    kinds = results["threshold_misses"]
    if misses and len(kinds) > 1:
        most = sorted(kinds, key=lambda one: -one["misses"] / one["images"])
        named = (f"{k['misses']} of {k['images']} {k['kind']}" for k in most if k["misses"])
        missed += f": {', '.join(named)}"
    return [f"{note} On the test set that is {alarms} of {good} good images{missed}."]


def contradiction(results: Mapping[str, Any]) -> list[str]:
    """Return a note where the test set contradicts what is promised of the threshold."""
    if not results.get("threshold_contradicted"):
        return []
    return [
        f"The test set contradicts the interval: {results['test/false_alarms']} of "
        f"{results['data/test_good']} good images are more, or fewer, false alarms than chance "
        "explains. Its good images differ from the training images (light, camera, parts), or some "
        "of the training images show defects."
    ]
