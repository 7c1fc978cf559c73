"""What mode=predict writes of scores: a line for each image as it comes; COCO JSON of all."""

import errno
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Any

from padim_lit.checkpoint.format import SHA256, differences
from padim_lit.deploy.drift import NEWEST
from padim_lit.deploy.regions import DIGITS
from padim_lit.errors import InputError, told
from padim_lit.system.atomic import atomically, csv_text, write_csv, write_json, writing
from padim_lit.system.clock import now

log = logging.getLogger(__name__)

# What a run writes at its end. An earlier run's are deleted first, in case this one is killed.
SUMMARIES = ("coco.json", "predict.json")
COLUMNS = ("path", "score", "p_value", "decision", "picture", "at", "threshold", "mask",
           SHA256)  # fmt: skip
# What a user may have changed, of what all scores depend on.
NAMED = (SHA256, "threshold", "source")
#: Errors of reading a file that is not as it was written.
_DAMAGED = ValueError, KeyError, TypeError, RecursionError
CATEGORY = {"id": 1, "name": "defect", "supercategory": "defect"}


@dataclass(frozen=True, slots=True)
class Version:
    """One content of a file, told by its path, size in bytes and time of change."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str | Path) -> "Version":
        """Return the version that is there now; of size and time 0 where none can be looked at."""
        try:
            stat = os.stat(path)  # noqa: PTH116 - once for each file of a watched folder
        except OSError:  # gone in the meantime, or a link that leads nowhere
            return cls(str(path), 0, 0)
        return cls(str(path), stat.st_size, stat.st_mtime_ns)


class ScoredFiles:
    """``predictions.jsonl`` and ``predictions.csv`` in `folder`, one complete line an image.

    A line of the first has all that is known: the file's version, when it was scored (``at``, in
    UTC), and either score, p_value, decision and threshold, or error. The second has only images
    with a score. Summaries of an earlier run are deleted.

    Args:
        folder: made if missing.
        model: primitives on which all scores depend: model, threshold, source.
        resume: continue the files that are there, and flush each line to the disk. An incomplete
            last line is cut off. Other lines that are damaged, as by a power loss, are taken out,
            and their images count as not scored. False scores all anew.

    Attributes:
        done: the last version of each file that has a line; only with `resume`.
        counts: images by decision ("anomalous", "good", ""), and "unreadable".
        p_values: of all images with a score, in order; with `resume` of the last `NEWEST`.

    Raises:
        InputError: the folder cannot be written, or holds the scores of another `model`, or of
            one that is not known.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> log = ScoredFiles(folder, {"threshold": 3.0}, resume=False)
    >>> log.add(Version("a.png", 10, 0), {"score": 4.5, "p_value": 0.01, "decision": "anomalous"})
    >>> log.close()
    >>> (folder / "predictions.csv").read_text().splitlines()
    ['path,score,...,mask,model_sha256', 'a.png,4.5,0.01,anomalous,,...,,,']
    """

    def __init__(self, folder: Path, model: dict[str, Any], resume: bool) -> None:
        self.json, self.csv = folder / "predictions.jsonl", folder / "predictions.csv"
        self.done: dict[str, Version] = {}
        self._resume = resume
        self.counts: Counter[str] = Counter()
        self.p_values = deque[float | None](maxlen=NEWEST if resume else None)
        about, there = folder / "model.json", dict[str, Any]()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                there = dict(json.loads(about.read_text("utf-8")))
            except (OSError, *_DAMAGED) as error:  # missing or damaged
                if self.json.exists():
                    raise InputError(
                        f"{about} is not as it was written ({told(error)}), so which model scored "
                        f"{self.json} is not known; nothing was changed: give another hydra.run.dir"
                    ) from error
            watched = there.pop("resume", False)
            if self.json.exists() and there != model:
                apart = differences(there, {key: model.get(key) for key in NAMED})
                apart = apart or f"see {about}"
                raise InputError(
                    f"{folder} holds scores of another model, threshold or source ({apart}); give "
                    "another hydra.run.dir, or delete the folder, and with it these scores"
                )
            if watched and not resume:
                raise InputError(
                    f"{folder} holds what watch=true has scored, and this would start anew; "
                    "add watch=true, or give another hydra.run.dir"
                )
            for name in SUMMARIES:
                (folder / name).unlink(missing_ok=True)
            if resume and self.json.exists():
                self._take_up()
            else:
                self.json.unlink(missing_ok=True)
                write_csv(self.csv, COLUMNS, ())
            write_json(about, {**model, "resume": resume})  # a run that did not watch may begin it
            # Unbuffered, so that nothing is lost if this process is killed.
            self._files = {path: path.open("ab", buffering=0) for path in (self.json, self.csv)}

    def add(self, version: Version, content: dict[str, Any]) -> None:
        """Write an image's lines: the CSV's first, because the other marks the image as done.

        Args:
            version: of the image's file.
            content: `Prediction.numbers` and more, or "error" where the file cannot be used.

        Raises:
            InputError: one cannot be written. A run with `resume` scores the image anew.
        """
        line = {**asdict(version), "at": now("milliseconds"), **content}
        if "error" not in content:
            row = {column: line.get(column) for column in COLUMNS}
            # Without the CSV's header.
            self._write(self.csv, csv_text(COLUMNS, [row]).partition("\n")[2])
        self._write(self.json, json.dumps(line) + "\n")
        if self._resume:
            self.done[version.path] = version
        self.counts[content.get("decision", "unreadable")] += 1
        if "error" not in content:
            self.p_values.append(line.get("p_value"))

    def close(self) -> None:
        with writing(self.json.parent):
            for file in self._files.values():
                with file:
                    os.fsync(file.fileno())

    def _write(self, path: Path, line: str) -> None:
        # One call a line, so that no signal comes between its parts.
        content, out = line.encode("utf-8", "backslashreplace"), self._files[path]
        with writing(self.json.parent):
            if (written := out.write(content)) != len(content):
                out.truncate(out.tell() - written)  # leaves no half line
                raise OSError(errno.ENOSPC, "no space left")
            there = None  # a share that is away raises other errors
            with suppress(FileNotFoundError, NotADirectoryError):
                there = path.stat()
            if there is None or not os.path.samestat(there, os.fstat(out.fileno())):
                raise InputError(
                    f"{path} was removed or moved meanwhile; leave it there while a run writes it, "
                    "and for a file a day end that one and give the next another hydra.run.dir"
                )
            if self._resume and path == self.json:  # the CSV can be made from it
                os.fsync(out.fileno())

    def _take_up(self) -> None:
        """Read the lines that are there, take out what is broken, and write the CSV anew."""
        rows, whole, damaged = [], 0, set[int]()  # for the CSV; bytes of lines; damaged lines
        for number, line in enumerate(_whole_lines(self.json), start=1):
            whole += len(line)
            try:
                row = dict(json.loads(line))
                cells = None
                if "error" not in row:  # of what else a line has not all is in each
                    cells = dict.fromkeys(COLUMNS) | {key: row[key] for key in COLUMNS[:4]}
                    cells |= {key: row[key] for key in COLUMNS[4:] if key in row}
                self.done[row["path"]] = Version(row["path"], row["size"], row["mtime_ns"])
            except _DAMAGED:
                damaged.add(number)
                continue
            self.counts[str(row.get("decision", "unreadable"))] += 1
            if cells is not None:
                rows.append(cells)
                self.p_values.append(cells["p_value"])
        write_csv(self.csv, COLUMNS, rows)
        os.truncate(self.json, whole)
        if damaged:
            lines = enumerate(_whole_lines(self.json), start=1)
            with atomically(self.json) as temporary, temporary.open("wb") as file:
                file.writelines(line for number, line in lines if number not in damaged)
            log.warning(
                f"{self.json}: {len(damaged)} line(s), the first {min(damaged)}, could not be "
                "read, as after a power loss, and were taken out; their images are scored again"
            )


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the last line of each image in a predictions.jsonl; skip one that has no end yet.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "predictions.jsonl"
    >>> _ = file.write_text('{"path": "a.png", "score": 1}\\n{"path": "a.png", "score": 2}\\n{"')
    >>> read_lines(file)
    [{'path': 'a.png', 'score': 2}]
    """
    rows = map(json.loads, _whole_lines(file))
    return list({row["path"]: row for row in rows}.values())


def _whole_lines(file: Path) -> Iterator[bytes]:
    with file.open("rb") as lines:
        yield from takewhile(lambda line: line.endswith(b"\n"), lines)


def to_coco(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return COCO's dict of the scored images in `lines`: one category, an annotation a region.

    File names are relative to the folder that all images lie in, ``info["root"]``. A segmentation
    is the outer outline, whose holes COCO's polygons cannot have; ``area`` leaves them out.
    ``score`` is the region's peak.

    >>> region = {"box": [1, 2, 4, 8], "polygon": [[1, 2], [4, 2], [4, 8]], "area": 9, "peak": 5.0}
    >>> line = {"path": "in/a.png", "width": 10, "height": 20, "score": 5.0, "regions": [region]}
    >>> found = to_coco([line])
    >>> found["images"]
    [{'id': 1, 'file_name': 'a.png', 'width': 10, 'height': 20, 'score': 5.0}]
    >>> found["annotations"][0]["bbox"], found["annotations"][0]["segmentation"]
    ([1, 2, 3, 6], [[1, 2, 4, 2, 4, 8]])
    """
    lines = [line for line in lines if "error" not in line]
    # abspath, because resolve would follow links.
    folders = [PurePath(os.path.abspath(line["path"])).parent for line in lines]  # noqa: PTH100
    root = os.path.commonpath(folders) if folders else "."
    images, annotations = [], []
    for number, line in enumerate(lines, 1):
        name = PurePath(os.path.relpath(line["path"], root)).as_posix()
        size = {"width": line["width"], "height": line["height"]}
        images.append({"id": number, "file_name": name, **size, "score": line["score"]})
        for region in line["regions"] or ():
            left, top, right, bottom = region["box"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": CATEGORY["id"],
                    "bbox": [left, top, round(right - left, DIGITS), round(bottom - top, DIGITS)],
                    "area": region["area"],
                    "segmentation": [[value for corner in region["polygon"] for value in corner]],
                    "iscrowd": 0,
                    "score": region["peak"],
                }
            )
    return {
        "info": {"description": "regions found by padim_lit", "root": str(root)},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [CATEGORY],
    }
