"""Images added to fitted detectors, or removed, without the other images of the fit.

Moments add and subtract (Chan, Golub and LeVeque 1979), so the result is the detector that one fit
on all (remaining) images gives, up to rounding.
"""

import logging
from collections.abc import Iterator

import torch
from torch import Tensor

from padim_lit import digests
from padim_lit.checkpoint.format import differences
from padim_lit.checkpoint.state import spec_of
from padim_lit.deploy.over_images import Batches
from padim_lit.errors import InputError
from padim_lit.model.detector import Detector
from padim_lit.model.fit_state import FitState
from padim_lit.model.moments import Moments, covariance
from padim_lit.model.ridge import Ridge

log = logging.getLogger(__name__)

#: What to do with an image that the detector holds already.
REPEATS = ("refuse", "skip", "count")
# Gaussians whose covariances are made at once.
POSITIONS_AT_ONCE = 64


@torch.no_grad()  # tensors of inference mode could not be changed later
def gather(detector: Detector, batches: Batches) -> FitState:
    """Return the sums over the images of `batches`, on the CPU; the detector does not change.

    >>> gather(detector, [{"image": torch.rand(3, 3, 64, 64)}]).count
    3
    """
    device, state = detector.projection.matrix.device, detector.empty_state()
    for batch in batches:
        state = detector.update_state(state, batch | {"image": batch["image"].to(device)})
    return state.map(Tensor.cpu)


def require_alike(first: Detector, second: Detector, names: tuple[str, str]) -> None:
    """Raise InputError unless the moments of both detectors can be added.

    That takes equal options, weights, preprocessing and Π; a Π that is learnt differs with the
    images.

    >>> require_alike(detector, detector, ('a.ckpt', 'b.ckpt'))
    """
    specs = []
    for detector in (first, second):
        spec = spec_of(detector) | {"precision": detector.precision}
        # Names of weights and backbone do not matter.
        spec["backbone"] |= {"weights": detector.backbone.source_sha256, "name": ""}
        looks = {key: detector.provenance.get(key) for key in ("image_size", "crop_size")}
        specs.append(spec | looks)
    if wrong := differences(specs[1], specs[0]):
        raise InputError(f"{names[1]} is of another config than {names[0]}: {wrong}")
    roi, other = first.anomaly_map.roi, second.anomaly_map.roi
    if (roi is not other) if roi is None or other is None else not torch.equal(roi, other):
        raise InputError(f"{names[1]} has another roi than {names[0]}; fit both with the same")
    for key in ("projection", "density"):
        ours, theirs = (getattr(detector, key).state_dict() for detector in (first, second))
        if any(not torch.equal(ours[name], theirs[name]) for name in ours):
            kind = f"{key.replace('projection', 'proj')}={getattr(second, key).name}"
            raise InputError(
                f"{names[1]} has learnt another {kind} than {names[0]}, from its own images; fit "
                f"it again with learnt_from={names[0]} (in Python `adopt` before the fit), or use "
                "mode=update"
            )


def adopt(detector: Detector, other: Detector, name: str) -> None:
    """Let a detector take over, before its fit, what another one has learnt, so that both merge.

    The fit then learns nothing itself. An image of it that `other` was fitted on scores too low,
    and the threshold with it.

    Args:
        detector: changed; forgets an earlier fit.
        other: fitted, with the same backbone and options.
        name: of the other's file, for messages and the detector's provenance.

    Raises:
        InputError: the other is of another config.

    >>> from copy import deepcopy
    >>> second = deepcopy(detector)
    >>> adopt(second, detector, "a.ckpt")
    >>> second.provenance, second.count
    ({'learnt_from': 'a.ckpt'}, 0)
    """
    asked, kept = spec_of(detector), ("proj", "dim", "proj_options", "density", "density_options")
    wrong = differences(spec_of(other), {key: asked[key] for key in kept})
    if wrong or other.backbone.source_sha256 != detector.backbone.source_sha256:
        raise InputError(
            f"learnt_from={name} is of another config: {wrong or 'other backbone weights'}; give "
            "the same keys"
        )
    detector.reset()
    detector.projection.adopt(other.projection.matrix)
    detector.density.adopt(other.density)
    detector.provenance["learnt_from"] = name


def add_images(detector: Detector, state: FitState, repeats: str, what: str) -> None:
    """Add images to those that `detector` holds.

    All scores change, so its ``calibration`` becomes None, and it decides nothing until
    `padim_lit.deploy.calibration.calibrate` gives it another. Whether another detector's sums may
    be added, `require_alike` says; this does not ask.

    Args:
        detector: fitted, with its state; changed.
        state: sums over the new images, made by the detector (`gather`) or by one that is alike.
        repeats: "refuse" or "count" images that are in both.
        what: names the new images in messages.

    Raises:
        InputError: an image that is to be refused is in both, or the images are not known.

    >>> more = detector.update_state(detector.empty_state(), {'image': torch.rand(3, 3, 64, 64)})
    >>> before = detector.count
    >>> add_images(detector, more, 'count', 'new images')
    >>> detector.count - before
    3
    """
    ours = detector.require_state()
    if repeats != "count":
        if state.digests is None or ours.digests is None:
            raise InputError(
                f"{what}: which images the checkpoint holds is not known (one of a plain Trainer), "
                "so repeated ones would go unnoticed; repeats=count adds them anyway"
            )
        if twice := digests.shared(ours.digests, state.digests):
            raise InputError(
                f"{what}: {twice} of {len(state.digests)} images are in the checkpoint already; "
                "repeats=count counts them twice; for a merge mode=remove takes them out of "
                "one, and repeats=count merges it then"
            )
    _set_state(detector, ours.merge(_beside(detector, state)), what)


def remove_images(detector: Detector, state: FitState, what: str) -> float:
    """Remove images from those that `detector` holds.

    All scores change, so its ``calibration`` becomes None, as by `add_images`.

    Args:
        detector: fitted, with its state; changed.
        state: sums over the images to remove, made by the detector.
        what: names them in messages.

    Returns:
        A bound: by which share of itself rounding may have moved a distance, and so a score, at
        most. It is far above what is seen: the largest variance is taken to be rounded where the
        smallest, ε included, lies.

    Raises:
        InputError: an image is not held, fewer than 2 would stay, or rounding errors are larger
            than what would be left.

    >>> batch = {'image': torch.rand(4, 3, 64, 64), 'digest': torch.arange(64).view(4, 16).byte()}
    >>> detector.set_state(detector.update_state(detector.empty_state(), batch))
    >>> part = {name: values[:1] for name, values in batch.items()}
    >>> gone = detector.update_state(detector.empty_state(), part)
    >>> remove_images(detector, gone, 'bad images') < 1e-3, detector.count
    (True, 3)
    """
    whole, gone = detector.require_state(), state.digests
    if whole.digests is None or gone is None:
        raise InputError(
            f"{what}: which images the checkpoint holds is not known (one of a plain Trainer), so "
            "removing others would go unnoticed; fit it again"
        )
    left = digests.without(whole.digests, gone)
    if left is None:
        strangers = len(gone) - digests.shared(gone, whole.digests)
        raise InputError(
            f"{what}: {strangers or 'some'} of {len(gone)} images are not in the checkpoint (or "
            "more often than it holds them); give those that it was fitted on, unchanged"
        )
    empty = detector.density.empty_means(detector.positions)
    rest = whole.subtract(_beside(detector, state), left, empty)
    found: list[tuple[float, int]] = []
    for part, some in detector.density.parts(detector.positions):
        ridge = part.shrinking(detector.ridge)
        found += _rounding(whole.moments.at(some), rest.moments.at(some), ridge)
    errors, negatives = zip(*found, strict=True)
    if any(negatives):
        raise InputError(
            f"{what}: at {sum(negatives)} positions rounding is larger than what would be left; "
            "fit again without these images"
        )
    _set_state(detector, rest, what)
    # Of a squared distance: of a distance half of it, to which `Both`'s scale may add as much.
    return max(errors)


def _beside(detector: Detector, state: FitState) -> FitState:
    return state.map(lambda x: x.to(detector.mean.device))


def _set_state(detector: Detector, state: FitState, what: str) -> None:
    decided = detector.threshold is not None
    detector.set_state(state)
    if decided:  # else `if found.is_anomalous` would pass every part, and nobody know
        log.warning(
            "%s: all scores have changed, so the detector has no threshold and decides nothing "
            "until detector.calibration is set (calibrate(measure(...)))",
            what,
        )


def _rounding(whole: Moments, rest: Moments, ridge: Ridge) -> Iterator[tuple[float, int]]:
    """Yield for some Gaussians at a time a bound of d²'s relative error, and how many are spoilt.

    It is the scatter's rounding over the smallest variance that is left, ε included.
    """
    unit = torch.finfo(whole.scatter.dtype).eps
    eps, prior = ridge.of(rest)
    weight = 0.0 if prior is None else prior[1]
    for start in range(0, len(whole.mean), POSITIONS_AT_ONCE):
        block = slice(start, start + POSITIONS_AT_ONCE)
        before, after = (
            covariance(m.at(block), 0, symmetric=False, prior=prior) for m in (whole, rest)
        )
        freedom, left = ((m.counts[block] - 1).clamp(min=0) + weight for m in (whole, rest))
        # The trace is an upper bound of the norm, and so of what rounding the whole has moved.
        rounding = unit * freedom / left * before.diagonal(dim1=1, dim2=2).sum(dim=1)
        # On the CPU: a GPU takes far longer for many small matrices.
        smallest = torch.linalg.eigvalsh(after.cpu())[:, 0].to(after.device)
        error = float((rounding / (smallest.clamp(min=0) + eps)).max())
        yield error, int((smallest < -rounding - eps / 2).sum())
