"""mode=merge, update and remove: the images of checkpoints as sums, without the old images."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from padim_lit import digests
from padim_lit.cli.good_images import (
    GivenImages,
    GoodImages,
    GoodImagesOrData,
    finish,
    full_model,
    unset_threshold,
)
from padim_lit.cli.modes.calibrate import by_images
from padim_lit.cli.settings import Settings
from padim_lit.deploy.combine import REPEATS, add_images, gather, remove_images, require_alike
from padim_lit.errors import InputError, require_choice
from padim_lit.model.detector import FULL_PRECISION, Detector
from padim_lit.model.fit_state import FitState
from padim_lit.model.warm_up import learners
from padim_lit.system.console import count, percent


@dataclass
class Merge(Settings):
    """One model.ckpt of several, equal to one fit on all their images.

    Args:
        ckpts: model.ckpt of two or more fits, as in [a.ckpt,b.ckpt]
        repeats: images that are in more than one: refuse | count (twice)
    """

    mode: str = "merge"
    ckpts: list[str] = MISSING
    repeats: str = "refuse"

    def __post_init__(self) -> None:
        if len(self.ckpts) < 2:
            raise InputError(f"ckpts={self.ckpts}: give two or more, as in ckpts=[a.ckpt,b.ckpt]")
        require_choice("repeats", self.repeats, ("refuse", "count"))


@dataclass
class Update(GoodImagesOrData):
    """New good images join a model.ckpt, without the old ones.

    Args:
        good: good images that set the threshold at once, as mode=calibrate does; null: none is set
        repeats: an image that it holds, or that comes twice: refuse | skip | count (twice)
    """

    mode: str = "update"
    repeats: str = Merge.repeats
    good: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("repeats", self.repeats, REPEATS)


@dataclass
class Remove(GoodImages):
    """Images leave a model.ckpt, such as those that were found to be bad.

    Args:
        images: those to take out: a photo, a folder or a quoted pattern, or a list of them, [a,b]
        good: good images that set the threshold at once, as mode=calibrate does; null: none is set
    """

    mode: str = "remove"
    images: Any = MISSING
    good: Any = None


def run_merge(settings: Merge, folder: Path) -> None:
    """Merge ``ckpts`` into ``model.ckpt`` in `folder`.

    Raises:
        InputError: checkpoints of different configs, or with images in common.
    """
    paths = settings.ckpts
    counts, digests_of_files, elsewhere = [], [], []
    for path in paths:
        part, sha256 = full_model(path)
        counts.append(part.count)
        digests_of_files.append(sha256)
        about = part.provenance
        elsewhere.append(about.get("learnt_elsewhere"))
        # Of the merged one alone nobody could tell whose step each was.
        about["history"] = [{"parent": path, **step} for step in about.get("history", [])]
        if len(counts) == 1:
            whole = part
            unset_threshold(whole)  # `finish` says so
            continue
        require_alike(whole, part, (paths[0], path))
        add_images(whole, part.require_state(), settings.repeats, path)
        _join(whole, about)
        del part  # before the next is read
    whole.provenance["learnt_elsewhere"] = all(elsewhere)
    merged = f"{' + '.join(map(str, counts))} = {whole.count} images"
    facts = {"ckpts": paths, "model_sha256": digests_of_files, "images": counts}
    finish(whole, folder, "merge", facts, ("merged", merged))


def _join(detector: Detector, other: dict[str, Any]) -> None:
    """Add to a detector's provenance what another one's says: names, history, removed images."""
    ours = detector.provenance
    # Each may be of several itself.
    given = [one["data"] for one in (ours, other) if one.get("data")]
    names = {"data": " + ".join(dict.fromkeys(" + ".join(given).split(" + ")))} if given else {}
    lists = {key: [*ours.get(key, []), *other.get(key, [])] for key in ("history", "removed")}
    lists["removed"] = list(dict.fromkeys(lists["removed"]))  # it may have come back in between
    detector.provenance = {**ours, **names, **lists}


def run(settings: Update, folder: Path) -> None:
    """Add the good images of ``settings.images`` or ``settings.data`` to ``settings.ckpt``.

    Raises:
        InputError: no such file, an image that cannot be read or is there already.
    """
    skip = settings.repeats == "skip"
    given, good, state = _gather(settings, skip)
    detector, what, left = given.detector, given.what, given.left
    if state.count == 0:
        raise InputError(
            f"{what}: nothing new: {count(left.total(), 'image')}, in the checkpoint or removed"
        )
    if settings.repeats == "refuse":
        if twice := digests.repeats(state.digests):
            raise InputError(
                f"{what}: {twice} of {state.count} images are the same picture as another of them; "
                "remove them; repeats=skip takes each once, repeats=count counts them all"
            )
        if back := given.gone.intersection(digests.keys(state.digests)):
            raise InputError(
                f"{what}: {len(back)} of {state.count} images were taken out by mode=remove; "
                "repeats=skip leaves them out, repeats=count adds them again"
            )
    add_images(detector, state, "count" if skip else settings.repeats, what)
    detector.provenance["learnt_elsewhere"] = False  # it may be these that it learnt from
    facts = {**given.parent, "data": what, "images": state.count, "skipped": left.total()}
    said = f"{count(state.count, 'image')}; now {detector.count}"
    lines = [("added", said), ("data", what), *given.notes(), *_decide(settings, good, facts)]
    finish(detector, folder, "update", facts, *lines, files=given.taken)


def run_remove(settings: Remove, folder: Path) -> None:
    """Take the images of ``settings.images`` out of ``settings.ckpt``.

    Raises:
        InputError: an image that cannot be read or is not there, or too little would be left.
    """
    given, good, state = _gather(settings)
    detector, what = given.detector, given.what
    error = remove_images(detector, state, what)
    _join(detector, {"removed": [key.hex() for key in digests.keys(state.digests)]})
    learnt = [f"{key}={name}" for key, name in learners(detector).items()]
    stays = ""
    if learnt:
        stays = f"; what {' and '.join(learnt)} learnt, maybe from them, stays: fit anew to be sure"
    facts = {**given.parent, "data": what, "images": state.count, "error": error}
    exact = f"scores are those of a fit without them, to {percent(error, 3)}{stays}"
    said = [("removed", f"{count(state.count, 'image')}; now {detector.count}"), ("exact", exact)]
    said += [("note", "a new fit on the same folders would learn them again: move the files away")]
    said += [*given.notes(), *_decide(settings, good, facts)]
    finish(detector, folder, "remove", facts, *said, files=given.taken)


def _decide(
    settings: Update | Remove, good: GivenImages | None, facts: dict[str, Any]
) -> list[tuple[str, Any]]:
    """Set a changed model's threshold by `good` images, complete `facts`, return the lines."""
    if good is None:
        return []
    found, said = by_images(good, None)
    del found["data"]
    facts |= {"good": settings.good, "good_images": found.pop("images"), **found}
    return said


def _gather(
    settings: Update | Remove, skip: bool = False
) -> tuple[GivenImages, GivenImages | None, FitState]:
    """Return the model and its images, the ``good`` ones, and sums over those not to `skip`."""
    given = GivenImages(settings)
    good = None if settings.good is None else GivenImages(settings, given)
    if good is not None:
        good.require_held()
    unset_threshold(given.detector)  # `finish` says so
    if (precision := given.detector.precision) != FULL_PRECISION:
        raise InputError(
            f"ckpt={settings.ckpt} was fitted with trainer.precision={precision}: its "
            f"features differ from those of mode={settings.mode}, which is in {FULL_PRECISION}"
        )
    if skip and given.held is None:
        raise InputError(f"ckpt={settings.ckpt}: its images are not known; give repeats=count")
    return given, good, given.over(partial(gather, given.detector), given.held if skip else None)
