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
from padim_lit.cli.settings import Settings
from padim_lit.deploy.combine import REPEATS, add_images, gather, remove_images, require_alike
from padim_lit.errors import InputError, require_choice
from padim_lit.model.detector import FULL_PRECISION, Detector
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
        repeats: an image that it holds, or that comes twice: refuse | skip | count (twice)
    """

    mode: str = "update"
    repeats: str = Merge.repeats

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("repeats", self.repeats, REPEATS)


@dataclass
class Remove(GoodImages):
    """Images leave a model.ckpt, such as those that were found to be bad.

    Args:
        images: those to take out: a photo, a folder or a quoted pattern, or a list of them, [a,b]
    """

    mode: str = "remove"
    images: Any = MISSING


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
    given = _given(settings)
    detector, what, without = given.detector, given.what, None
    if settings.repeats != "count" and (without := given.held) is None:
        raise InputError(
            f"ckpt={settings.ckpt}: which images it holds is not known, so repeated ones would go "
            "unnoticed; repeats=count adds them anyway"
        )
    state = given.over(partial(gather, detector), without)
    left = given.left_out()
    if left and settings.repeats == "refuse":
        raise InputError(
            f"{what}: {'; '.join(left)}; repeats=skip leaves them out, repeats=count counts them"
        )
    if state.count == 0:
        raise InputError(f"{what}: nothing new: {'; '.join(left)}")
    add_images(detector, state, "count", what)
    detector.provenance["learnt_elsewhere"] = False  # it may be these that it learnt from
    skipped = given.left.total()
    facts = {**given.parent, "data": what, "images": state.count, "skipped": skipped}
    said = f"{count(state.count, 'image')}; now {detector.count}"
    notes = [f"not counted: {one}" for one in left] + given.sight.notes()
    lines = [("added", said), ("data", what), *(("note", note) for note in notes)]
    finish(detector, folder, "update", facts, *lines, files=given.taken)


def run_remove(settings: Remove, folder: Path) -> None:
    """Take the images of ``settings.images`` out of ``settings.ckpt``.

    Raises:
        InputError: an image that cannot be read or is not there, or too little would be left.
    """
    given = _given(settings)
    detector, what = given.detector, given.what
    state = given.over(partial(gather, detector), None)
    bound = remove_images(detector, state, what)
    _join(detector, {"removed": [key.hex() for key in digests.keys(state.digests)]})
    learnt = [f"{key}={name}" for key, name in learners(detector).items()]
    stays = ""
    if learnt:
        stays = f"; what {' and '.join(learnt)} learnt, maybe from them, stays: fit anew to be sure"
    facts = {**given.parent, "data": what, "images": state.count, "rounding_at_most": bound}
    most = percent(bound, 3)
    exact = f"as a fit without them; rounding moves no score by more than {most}{stays}"
    said = [("removed", f"{count(state.count, 'image')}; now {detector.count}"), ("exact", exact)]
    said += [("note", "a new fit on the same folders would learn them again: move the files away")]
    said += [("note", note) for note in given.sight.notes()]
    finish(detector, folder, "remove", facts, *said, files=given.taken)


def _given(settings: Update | Remove) -> GivenImages:
    """Return the images, and the model without its threshold, which `finish` says."""
    given = GivenImages(settings)
    unset_threshold(given.detector)
    if (precision := given.detector.precision) != FULL_PRECISION:
        raise InputError(
            f"ckpt={settings.ckpt} was fitted with trainer.precision={precision}: its "
            f"features differ from those of mode={settings.mode}, which is in {FULL_PRECISION}"
        )
    return given
