"""What the modes that change a checkpoint share: the checkpoint, its good images, the new file."""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from omegaconf import MISSING

from padim_lit import digests
from padim_lit.checkpoint.format import sha256_of
from padim_lit.checkpoint.state import load_identified, save_detector
from padim_lit.cli.build import device_of, listed, make_data
from padim_lit.cli.settings import Loading, WithData
from padim_lit.data.check import nearly_black
from padim_lit.data.files import find_images
from padim_lit.data.items import Item, ItemDataset
from padim_lit.data.sight import Sight
from padim_lit.data.transform import ResizeCrop
from padim_lit.data.tree import GOOD_NAMES, good_folder_of
from padim_lit.deploy.calibration import BY_HAND
from padim_lit.deploy.model_card import model_card
from padim_lit.deploy.over_images import Batches, Loop, over_images
from padim_lit.deploy.prediction import NO_SIZES
from padim_lit.errors import InputError
from padim_lit.model.detector import Detector
from padim_lit.system.atomic import write_json, write_text
from padim_lit.system.console import count, print_facts
from padim_lit.system.versions import written_with

T = TypeVar("T")
#: Why images are left out.
WHY_LEFT_OUT = {
    "known": "that the model holds",
    "repeated": "with the same picture as another one",
    "removed": "that mode=remove took out",
}
#: Why a changed model has no threshold: with other images in the moments, all scores change.
NO_THRESHOLD = (
    "all scores have changed, so this model has no threshold and decides nothing yet; "
    "mode=calibrate ckpt=... images=GOOD_IMAGES sets one, from good images that it does not hold, "
    "or from all that it holds"
)


@dataclass
class GoodImages(Loading):
    """Modes that take good images to a checkpoint.

    Args:
        ckpt: model.ckpt of an earlier run
        images: good images: a photo, a folder or a quoted pattern, or a list of them, [a,b]
    """

    ckpt: str = MISSING
    images: Any = None  # a text, or a list of them

    def __post_init__(self) -> None:
        super().__post_init__()
        given = listed(self.images)
        wrong = not given or not all(isinstance(one, str) for one in given)
        if wrong and not (self.images is None and hasattr(self, "data")):
            raise InputError(
                f"images={self.images}: give a photo, a folder or a quoted pattern, or several, "
                "as in images=[first,second]"
            )


@dataclass
class GoodImagesOrData(WithData, GoodImages):
    """Those that take the training images of a data set too, by data=NAME."""

    #: Keys that need no images.
    alone: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        given = (self.images is not None) + (self.data is not None)
        enough = given or any(getattr(self, key) is not None for key in self.alone)
        if given > 1 or not enough:
            others = " or ".join(f"{key}=NUMBER" for key in self.alone)
            raise InputError(
                f"mode={self.mode}: give images=FILE, FOLDER or PATTERN, or a data set, as in "
                "data=folder data.root=DIR, and not both"
                f"{others and f'; {others} needs neither'}"
            )

    @property
    def unread(self) -> dict[str, str]:
        keys = () if self.data else ("seed", "full_check", "picture_cache")
        more = () if self.data or self.images else ("batch_size", "num_workers")
        return dict.fromkeys(keys, "data=NAME") | dict.fromkeys(more, "images=FILES or data=NAME")


def full_model(path: str) -> tuple[Detector, str]:
    """A checkpoint's model with its moments, and the file's digest.

    Raises:
        InputError: it has no moments.
    """
    detector, sha256 = load_identified(path)
    detector.require_state()
    # For mode=calibrate, where other images take the threshold.
    calibration = detector.calibration
    if calibration is not None and calibration.method != BY_HAND:
        detector.provenance["false_alarm_rate"] = calibration.false_alarm_rate
    return detector, sha256


def unset_threshold(detector: Detector) -> None:
    """Forget a threshold, but for a person to see whether the next one has risen."""
    if detector.calibration is not None:
        detector.provenance["threshold_before"] = detector.calibration.threshold
        detector.calibration = None


class GivenImages:
    """The model of ``ckpt`` and the ``images`` given to it.

    Attributes:
        detector: the model.
        parent: what results say of the checkpoint.
        dataset, what: the images, and what to call them.
        taken: names of the files that `over` gave to its work.
        left: how many were "known", "removed", or "repeated" an earlier one; see `over`.
        known_at: places of the known ones among all that came.
        sight: what the model sees of them.

    Raises:
        InputError: see `full_model` and `images_of`; the checkpoint or images cannot be used.
    """

    def __init__(self, settings: GoodImages) -> None:
        self.detector, sha256 = full_model(settings.ckpt)
        self.parent = {"ckpt": settings.ckpt, "model_sha256": sha256}
        self.mode = settings.mode
        if (given := settings.images) is not None:
            names = listed(given)
            self.what = f"images=[{','.join(names)}]" if given is names else f"images={given}"
            parts = [images_of(one, self.detector) for one in names]
            if self.mode != "remove":  # which may take defects out
                for one, part in zip(names, parts, strict=True):
                    require_good(part, f"images={one}")
            items = dict.fromkeys(item for part in parts for item in part.items)
            self.dataset = ItemDataset(list(items), parts[0].resize_crop)
        else:  # those to learn from, as those look that the checkpoint was fitted on
            data = make_data(settings, size_of(self.detector), test=False)
            self.dataset, self.what = data.train_dataloader().dataset, data.name
        self.loop = Loop(device_of(settings.trainer), settings.batch_size, settings.num_workers)
        self.left, self.known_at = Counter[str](), list[int]()
        self.taken = [str(item.path) for item in self.dataset.items]
        self.sight = Sight(self.dataset.resize_crop)
        self.sight.look([item.path for item in self.dataset.items])

    @property
    def held(self) -> frozenset[bytes] | None:
        """Digests of the images in the model; None where they are not known."""
        held = self.detector.require_state().digests
        return None if held is None else frozenset(digests.keys(held))

    def over(self, work: Callable[[Batches], T], without: Collection[bytes] | None) -> T:
        """Call ``work(batches)`` with each picture once, but for removed ones and `without`.

        Where `without` is None, pictures come as they are.

        Args:
            work: gets batches with ``image`` (B,3,h,w), ``digest`` (B,16) and ``path``.
            without: digests of "known" images.
        """

        def work_on(batches: Batches) -> T:
            return work(batches if without is None else self._each_once(batches, without))

        return over_images(self.detector, self.dataset, work_on, self.loop, self.mode)

    def left_out(self) -> list[str]:
        """Return how many images `over` left out, for each reason."""
        kinds = WHY_LEFT_OUT.items()
        return [f"{count(self.left[key], 'image')} {why}" for key, why in kinds if self.left[key]]

    def _each_once(self, batches: Batches, without: Collection[bytes]) -> Batches:
        self.left, self.known_at = Counter(), []  # a batch too large for a GPU is begun anew
        self.taken = []
        seen: set[bytes] = set()
        came, gone = 0, removed_from(self.detector)
        for batch in batches:
            keep = []
            for i, key in enumerate(digests.keys(batch["digest"])):
                if key in seen:
                    self.left["repeated"] += 1
                elif key in without:
                    self.left["known"] += 1
                    self.known_at.append(came + i)
                elif key in gone:
                    self.left["removed"] += 1
                else:
                    keep.append(i)
                seen.add(key)
            came += len(batch["image"])
            if keep:
                part = {key: batch[key][keep] for key in ("image", "digest")}
                paths = [batch["path"][i] for i in keep]
                self.taken += paths
                yield part | {"path": paths}


def size_of(detector: Detector) -> dict[str, Any]:
    """Return the sizes to which a fit's images were resized and cropped.

    Raises InputError where the checkpoint does not say.
    """
    try:
        return {key: detector.provenance[key] for key in ("image_size", "crop_size")}
    except KeyError:
        raise InputError(NO_SIZES) from None


def images_of(given: str, detector: Detector, key: str = "images") -> ItemDataset:
    """The images of a FILE, FOLDER or PATTERN, the value of `key`, as `detector` sees them."""
    view = ResizeCrop(**size_of(detector))
    files = find_images(given, key)
    nearly_black(files)
    return ItemDataset([Item(path) for path in files], view)


def require_good(images: ItemDataset, given: str) -> None:
    """Raise InputError where the names of folders call some of the images good and others not."""
    paths = [item.path for item in images.items]
    good = good_folder_of(paths)
    others = [path for path, folder in zip(paths, good, strict=True) if folder is None]
    if others and (named := next(filter(None, good), None)):
        raise InputError(
            f"{given}: {len(others)} of {len(paths)} images lie in folders not named "
            f"{', '.join(GOOD_NAMES)}, such as {others[0]}; give good ones alone, as in {named}"
        )


def removed(provenance: dict[str, Any]) -> frozenset[bytes]:
    """Return the digests of images that mode=remove took out; some may have come back."""
    return frozenset(map(bytes.fromhex, provenance.get("removed", [])))


def removed_from(detector: Detector) -> frozenset[bytes]:
    """Return the digests of removed images that have not come back.

    Where the checkpoint does not say which images it holds, these are all removed ones.
    """
    state = detector.fit_state
    held = None if state is None else state.digests
    return removed(detector.provenance).difference([] if held is None else digests.keys(held))


def finish(
    detector: Detector,
    folder: Path,
    what: str,
    facts: dict[str, Any],
    *said: tuple[str, Any],
    files: list[str] | None = None,
) -> None:
    """Write model.ckpt with one more line of history, then WHAT.json, and print `said`.

    `files` are the images' names, for WHAT.json alone.
    """
    detector.provenance["train_images"] = detector.count
    detector.provenance.setdefault("history", []).append({"mode": what, **facts})
    path = folder / "model.ckpt"
    save_detector(detector, path)
    sha256 = sha256_of(path)
    write_text(folder / "model_card.md", model_card(detector, sha256))
    undecided = [("note", NO_THRESHOLD)] if detector.calibration is None else []
    said = *said, ("model", path), *undecided
    results = {
        **facts,
        "new_model_sha256": sha256,
        "train_images": detector.count,
        **({} if files is None else {"files": files}),
        "notes": [text for name, text in said if name == "note"],
        **written_with(),
    }
    write_json(folder / f"{what}.json", results)
    print_facts(*said)
