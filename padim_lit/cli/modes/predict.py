"""mode=predict: scores, decisions and heat maps of images without labels, as they come."""

import hashlib
import logging
import re
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from omegaconf import MISSING

from padim_lit.checkpoint.format import sha256_of
from padim_lit.cli.build import make_predictor
from padim_lit.cli.settings import Deciding
from padim_lit.data.files import find_images
from padim_lit.data.sight import Sight
from padim_lit.deploy.drift import changed, settled
from padim_lit.deploy.explanation import explain
from padim_lit.deploy.folder_watcher import Watcher
from padim_lit.deploy.prediction import ModelInput, Prediction
from padim_lit.deploy.prediction_log import ScoredFiles, Version, read_lines, to_coco
from padim_lit.deploy.predictor import Predictor
from padim_lit.deploy.regions import map_file, mask_file
from padim_lit.errors import InputError, require_choice, told
from padim_lit.system.atomic import write_bytes, write_json
from padim_lit.system.console import count, pace, print_facts, print_line, progress
from padim_lit.system.paths import typed_path
from padim_lit.system.versions import written_with
from padim_lit.visualization import overlay
from padim_lit.visualization.gallery import SCORED, UNKNOWN, GalleryEntry, maps_file

log = logging.getLogger(__name__)

OVERLAYS = ("anomalous", "all", "none")
# A file at rest that cannot be decoded is given up after so many times watch_settle.
PATIENCE_IN_SETTLES = 10
# Seconds between two looks at a folder, at most.
LOOK_SECONDS = 0.5
# Pattern of the digits that end a file's name, see `_stem`.
DIGEST_PATTERN = "[0-9a-f]" * 10
# Key of an image's line that names a file → the file's folder and suffix.
FILES_OF_IMAGE = {
    "picture": ("heatmaps", ".png"),
    "viewer": ("heatmaps", ".npz"),
    "mask": ("masks", ".png"),
    "map": ("maps", ".tif"),
}


@dataclass
class Predict(Deciding):
    """Scores, decisions and heat maps of images without labels.

    Args:
        images: an image, a folder or a quoted pattern
        overlays: pictures with heat maps: of anomalous images | all | none
        masks: true: each image's mask of regions, a PNG of its own size
        maps: true: each image's raw map, a 32-bit TIFF of its own size; NaN: not seen
        coco: true: all regions in one COCO JSON
        explain: true: which layers and positions make each score
        watch: true: score each image that arrives or changes in the folder `images`, until Ctrl-C
        watch_settle: seconds that a file must not have changed
        watch_idle: seconds without a new image after which to stop; null: never
    """

    mode: str = "predict"
    images: str = MISSING
    overlays: str = "anomalous"
    masks: bool = False
    maps: bool = False
    coco: bool = False
    explain: bool = False
    watch: bool = False
    watch_settle: float = 1.0
    watch_idle: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("overlays", self.overlays, OVERLAYS)
        if self.watch and not typed_path(self.images).is_dir():
            raise InputError(f"images={self.images}: watch=true takes an existing folder")

    @property
    def unread(self) -> dict[str, str]:
        keys = () if self.watch else ("undecided", "watch_settle", "watch_idle")
        return dict.fromkeys(keys, "watch=true")


def run(settings: Predict, folder: Path) -> dict[str, Any]:
    """Score ``settings.images`` with ``settings.ckpt``; with ``settings.watch`` what arrives there.

    Returns:
        The content of predict.json.

    Raises:
        InputError: a config or checkpoint that cannot be used, or no image that can.
    """
    files = [] if settings.watch else find_images(settings.images)
    predictor = make_predictor(settings, settings.watch)
    for key in ("masks", "coco"):
        if getattr(settings, key) and predictor.threshold is None:  # empty, all would look good
            raise InputError(
                f"{key}=true: {predictor.threshold_source}, so no defect would be marked; "
                "calibrate it with images=GOOD_IMAGES, or give threshold=NUMBER"
            )
    start = time.perf_counter()
    # What the lines of one folder have in common.
    calibration = predictor.calibration
    keys = ("threshold", "threshold_source", "map_threshold")
    decides = {key: getattr(predictor, key) for key in keys}
    model = {
        # Not its path and time: a copy of a model decides as the model does.
        "model_sha256": predictor.model_sha256,
        "source": str(typed_path(settings.images)),  # with and without a slash at its end
        **decides,
        "image_score": predictor.detector.image_score,
        # The viewer measures drift against these, and has no checkpoint.
        "good_scores": None if calibration is None else calibration.scores.tolist(),
    }
    with closing(ScoredFiles(folder, model, settings.watch)) as scored:
        work = PredictRun(settings, folder, predictor, scored)
        before = scored.counts.total()
        if settings.watch:
            with _signals() as stopped:
                work.watch(stopped)
        else:
            work.score(files)
    seconds = time.perf_counter() - start
    said = changed(scored.p_values)
    results = {
        "images": scored.counts.total() - scored.counts["unreadable"],
        **{name or "undecided": scored.counts[name] for name in ("anomalous", "good", "")},
        "unreadable": scored.counts["unreadable"],
        "seconds": seconds,
        **decides,
        "ckpt": settings.ckpt,
        "model_sha256": predictor.model_sha256,
        "source": settings.images,
        "notes": [*work.sight.notes(), *([said] if said else [])],
        **written_with(predictor.device),
    }
    names = ["predictions.csv", "predictions.jsonl"]
    if settings.coco:
        write_json(folder / "coco.json", to_coco(read_lines(folder / "predictions.jsonl")))
        names.append("coco.json")
    write_json(folder / "predict.json", results)
    written = [folder / name for name in (*names, "predict.json", *work.folders)]
    # Watching is waiting, which is no pace.
    new = 0 if settings.watch else scored.counts.total() - before
    _print(results, new, written, settings.overlays, work.sight.news())
    if said:
        log.warning("%s", said)
    if not settings.watch and not results["images"]:
        raise InputError(f"images={settings.images}: none of {len(files)} files could be read")
    return results


class PredictRun:
    """One run of mode=predict: it scores images and writes what they got."""

    def __init__(
        self, settings: Predict, folder: Path, predictor: Predictor, scored: ScoredFiles
    ) -> None:
        self.settings, self.predictor, self.scored = settings, predictor, scored
        self.sight = Sight(predictor.resize_crop)
        self.patience = PATIENCE_IN_SETTLES * settings.watch_settle
        self.folder = folder
        self.postponed: dict[Version, InputError] = {}  # for no fault of the file's
        self.folders: dict[str, None] = {}  # that files were written into
        self.full = False  # the last of these files could not be written
        self.warned = bool(changed(self.scored.p_values))  # before it was started again
        calibration = predictor.calibration
        maxima = None if calibration is None else calibration.map_maxima.numpy()
        self.scale = overlay.colours(maxima, predictor.map_threshold)
        roi = predictor.detector.anomaly_map.roi
        self.roi = None if roi is None else roi.cpu().numpy()
        side = overlay.EXPLAINED_SIDE if settings.explain else overlay.SIDE
        self.side = side if settings.overlays != "none" else 0
        if predictor.threshold is None:
            pictures = ", no pictures (overlays=all)" if settings.overlays == "anomalous" else ""
            log.warning("%s; no decisions, no regions%s", predictor.threshold_source, pictures)
        if not settings.watch:  # those of an earlier run are of other images
            for name, suffix in FILES_OF_IMAGE.values():
                for picture in (folder / name).glob(f"*-{DIGEST_PATTERN}{suffix}"):
                    picture.unlink()

    def score(self, files: list[Path]) -> None:
        """Score each of the files."""
        with progress() as bar:
            task = bar.add_task("images", total=len(files))

            def refuse(path: Path, error: InputError) -> None:
                self.refuse(Version.of(path), error)
                bar.advance(task)

            for seen, prediction in self.predictor.stream_seen(files, refuse, self.side):
                self.keep(Version.of(seen.path), seen, prediction)
                bar.advance(task)

    def watch(self, stopped: Collection[int]) -> None:
        """Score what comes, until `stopped` holds a signal or for `watch_idle` seconds nothing."""
        settings, done = self.settings, self.scored.done
        folder, idle = typed_path(settings.images), settings.watch_idle

        def known(v: Version) -> bool:  # of a file that went after it was scored, nothing is new
            return v.path in done and v in (done[v.path], Version(v.path, 0, 0))

        watcher = Watcher(folder, settings.watch_settle, known)
        pause = min(LOOK_SECONDS, max(0.02, settings.watch_settle / 2))
        print_line(f"watching {settings.images}; Ctrl-C ends it")
        rested, outage = watcher.rested(), None  # what is wrong at the first look, is no outage
        last = time.monotonic()
        while not stopped:
            for version, rest in takewhile(lambda _: not stopped, rested):
                if line := self.try_one(version, rest):
                    last = time.monotonic()
                    print_line(f"{time.strftime('%H:%M:%S')}  {line}  {version.path}")
            late = idle is not None and time.monotonic() - last >= idle
            if late and outage is not None:
                raise outage
            if late and self.postponed.keys() >= set(watcher.waiting):
                for version in watcher.waiting:
                    self.refuse(version, self.postponed[version])
                return
            start = time.monotonic()
            try:
                rested, outage = watcher.rested(), None
            except (InputError, OSError) as error:  # a share that is away comes back
                if outage is None:
                    log.warning("%s; what comes is scored when it is back", told(error))
                rested, outage = [], InputError(told(error))
            # Looking is to take half of the time at most.
            time.sleep(max(pause, time.monotonic() - start))
        print_line("stopped; the same command goes on")

    def try_one(self, version: Version, rest: float) -> str | None:
        """Score a file that has not changed for `rest` seconds; return the line to print.

        None: the file is left for later.
        """
        try:
            seen = self.predictor.see(Path(version.path), self.side)
        except InputError as error:
            if rest < self.patience or Version.of(version.path) != version:
                return None  # maybe somebody still writes it
            # The system's own errors have a number, those of a broken image have none.
            if getattr(error.__cause__, "errno", None) is None:
                self.refuse(version, error)
                return "unreadable"
            if version not in self.postponed:
                log.warning("tried again later: %s", error)
            self.postponed[version] = error
            return None
        if Version.of(version.path) != version:  # changed while it was read
            return None
        self.postponed.pop(version, None)
        (found,) = self.predictor.score([seen])
        self.keep(version, seen, found)
        said = {True: "defective", False: "good", None: "undecided"}[found.is_anomalous]
        return f"{said:<9}  {found.score:.2f}"

    def keep(self, version: Version, seen: ModelInput, found: Prediction) -> None:
        """Write an image's files, and its lines last."""
        settings, detector = self.settings, self.predictor.detector
        threshold = found.map_threshold
        which = {"model_sha256": self.predictor.model_sha256, "photo_sha256": _digest(version.path)}
        more = found.numbers() | which
        self.sight.add(version.path, found.view.size, seen.paged)
        if settings.watch:  # others say it at their end, of all
            for note in self.sight.news():
                log.warning("%s", note)
        why = explain(detector, seen.tensor(), seen.view) if settings.explain else None
        if why is not None:
            more |= why.numbers()
        wanted = settings.overlays
        if wanted == "all" or (wanted == "anomalous" and found.is_anomalous):
            low, high = float(found.map.min()), float(found.map.max())
            scale = self.scale or (low, max(high, low + 1e-6))
            # Folders often hold files of the same names.
            caption = overlay.caption_of(found, str(PurePath(*PurePath(version.path).parts[-2:])))
            if self.scale is None:
                caption.append("colours span this map alone: compare no others")
            heat = overlay.Heat(found.map, found.view, scale, threshold, self.roi)
            drawn = overlay.side_by_side(np.asarray(seen.picture), heat, caption, why)
            more |= {"map_colours": scale, **self.write("picture", version, drawn)}
            small = GalleryEntry(
                role=SCORED,
                rank=1,
                index=0,
                kind=SCORED,
                label=UNKNOWN,
                path=version.path,
                score=found.score,
                truth=None,
                map=found.map,
                image=seen.values,
                roi=self.roi,
            )
            more |= self.write("viewer", version, maps_file([small]))
        if settings.maps:
            more |= self.write("map", version, map_file(found.full_map()))
        if settings.masks:
            mask = np.zeros(found.view.size, bool) if threshold is None else found.mask()
            more |= self.write("mask", version, mask_file(mask))
        self.record(version, more)

    def write(self, what: str, version: Version, content: bytes) -> dict[str, str | None]:
        """Write one of an image's files; its key and name in the image's line.

        A watch goes on without one that cannot be written, whose name is None.
        """
        folder, suffix = FILES_OF_IMAGE[what]
        # Watching, each version of a file keeps its own; otherwise names are the same in each run.
        which = version if self.settings.watch else version.path
        name = f"{folder}/{_stem(version.path, which)}{suffix}"
        try:
            write_bytes(self.folder / name, content, lasting=self.settings.watch)
        except InputError as error:
            if not self.settings.watch:
                raise
            if not self.full:
                log.warning("%s; scores are written without what does not fit", error)
            self.full = True
            return {what: None}
        self.full = False
        self.folders[folder] = None
        return {what: name}

    def refuse(self, version: Version, error: InputError) -> None:
        """Write that a file cannot be used."""
        self.record(version, {"error": str(error)})
        log.warning("skipped: %s", error)

    def record(self, version: Version, content: dict[str, Any]) -> None:
        """Write the lines of a file and count it."""
        self.scored.add(version, content)
        newest = self.scored.p_values
        if len(newest) == newest.maxlen:  # of a watch; its end says it again
            if not self.warned and (said := changed(newest)):
                log.warning("%s", said)
                self.warned = True
            elif settled(newest):
                self.warned = False


@contextmanager
def _signals() -> Iterator[Collection[int]]:
    """Hold the first Ctrl-C or SIGTERM back, for the block to look at; a second one ends it.

    So what a stopped watch has written and what it has counted are of the same images. Services and
    containers are ended by SIGTERM. What is ignored, as Ctrl-C in a shell's background, stays so.
    """
    came: list[int] = []

    def stop(number: int, _: Any) -> None:  # takes no lock, which the block may hold
        came.append(number)
        signal.signal(number, signal.default_int_handler)

    ours = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is not signal.SIG_IGN]
    before = {which: signal.signal(which, stop) for which in ours}
    try:
        yield came
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def _stem(path: str, which: Version | str) -> str:
    # The digest tells files of one name in different folders apart, and what came by one path.
    stem = re.sub(r"[^\w.-]+", "-", PurePath(path).stem)[:60]
    digest = hashlib.sha256(str(which).encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{stem}-{digest}"


def _digest(path: str) -> str | None:
    with suppress(OSError):  # gone since it was read
        return sha256_of(Path(path))
    return None


def _print(
    results: dict[str, Any], new: int, written: list[Path], overlays: str, notes: list[str]
) -> None:
    said = {"anomalous": "called defective", "good": "good", "undecided": "undecided"}
    decided = ", ".join(f"{results[name]} {text}" for name, text in said.items() if results[name])
    facts = [("scored", f"{count(results['images'], 'image')}{decided and f': {decided}'}")]
    if new:
        took = f"{results['seconds']:.1f} s for {count(new, 'image')}"
        facts.append(("took", f"{took}, {pace(new, results['seconds'])}"))
    if results["unreadable"]:
        files = count(results["unreadable"], "file")
        facts.append(("skipped", f"{files} that cannot be read; predictions.jsonl says which"))
    if results["threshold"] is not None:  # without one a warning has said so
        facts.append(("decided", f"by {results['threshold_source']}"))
    if overlays == "anomalous" and results["good"] and not results["anomalous"]:
        facts.append(("pictures", "none, as no image was called defective; overlays=all draws all"))
    facts += [*(("note", note) for note in notes), *(("written", path) for path in written)]
    print_facts(*facts)
