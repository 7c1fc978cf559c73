"""Read the files that runs and jobs leave, typed; a broken one is named in one line.

JSON and npz keep their types: metrics.json of a fit, rows.json, scores.npz and resamples.npz of an
ablation, distortion.json. CSVs are for people, but for a fit's
predictions.csv.
"""

import csv
import json
import math
import os
import re
import shlex
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from padim_lit.errors import InputError, refusing

#: Written last of all: what the job was. A folder without it is half-finished.
DONE = "job.json"
#: Why the job failed.
FAILED = "failed.json"
#: Which sweep a job, or a folder of jobs, is of.
SWEEP = Path(".hydra") / "padim_lit_sweep"
#: Keys of metrics.json and rows.json that hold a number, or None where it is undefined.
MEASURED = re.compile(
    r"^(test/(?!.*_why$).*|threshold(_rate)?|state_bytes|position_weight|.*/(\w+_)?seconds"
    r"|.*/ms_per_image|test_(good|defective|planted|groups))$"
)
#: Prefix of the kinds that do not count in image metrics, where the data plant defects.
PLANTED = "planted_"
#: Errors that damaged arrays cause.
BROKEN = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
#: Bytes of an npz file's arrays at most; a small file may claim any number. 24 pictures of
#: 2048 × 2048 pixels hold 600 MB.
MOST_BYTES = 2**31
#: Columns of predictions.csv.
PREDICTIONS = ("path", "kind", "label", "score", "p_value", "decision")
#: Arrays of scores.npz that are not scores.
IMAGE_ARRAYS = ("path", "kind", "label", "count_image")


@dataclass(frozen=True)
class Scores:
    """N test images and each configuration's image scores (N,), by PROJ-DIM-SEED."""

    path: list[str]
    kind: list[str]
    label: np.ndarray
    count_image: np.ndarray
    scores: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Job:
    """One job of a sweep.

    Attributes:
        name: its folder's name, "0", "1", ...; of an ablation's configuration "3/jl/100/0".
        status: "done" (it has metrics.json or what its mode writes instead), "failed"
            (failed.json) or "unfinished" (neither).
        overrides: what was typed for it, without leading "+"; "~key" keeps its tilde.
        results: the content of metrics.json; empty unless done.
        error: the message of failed.json; empty unless failed.
    """

    name: str
    status: str
    overrides: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def folder(self) -> str:
        """Its folder's name, also of one configuration of an ablation."""
        return self.name.partition("/")[0]


def find(paths: Iterable[str | os.PathLike], *names: str) -> list[Path]:
    """Every file of one of the names in or below the folders `paths`, each once, "2" before "10".

    A name may have a folder in front, "heatmaps/overview.png".

    Raises:
        InputError: a path is no folder.
        PermissionError: one in it may not be read.
    """

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError):  # what is gone by now is no error
            raise error

    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise InputError(f"{path} is no folder; give folders of results, such as outputs/")
        tops = [Path(top) for top, _, _ in os.walk(path, onerror=refuse)]
        files = [top / name for top in tops for name in names if (top / name).is_file()]
        for file in sorted(files, key=natural):
            found.setdefault(file.resolve(), file)
    return list(found.values())


def collect(sweep_dir: str | os.PathLike) -> list[Job]:
    """Read the job folders in ``sweep_dir``, "2" before "10".

    A job folder has a ``.hydra`` folder, a metrics.json or a failed.json, or a number for a name.
    An ablation's folder holds rows.json instead: each of its configurations is a job here. Folders
    that another sweep left there are no jobs of this one; see `left_behind`.

    Raises:
        InputError: ``sweep_dir`` is missing, or one of those files cannot be read.
    """
    sweep_dir = Path(sweep_dir)
    if not sweep_dir.is_dir():
        raise InputError(f"{sweep_dir} is no folder; give the folder of a multirun")
    sweep, folders = sweep_of(sweep_dir), _job_folders(sweep_dir)
    return [job for f in folders if sweep_of(f) == sweep for job in _read_job(f)]


def left_behind(sweep_dir: Path) -> list[str]:
    """Return the job folders in `sweep_dir` that another, earlier sweep left."""
    sweep = sweep_of(sweep_dir)
    return [folder.name for folder in _job_folders(sweep_dir) if sweep_of(folder) != sweep]


def sweep_of(folder: Path) -> str | None:
    """Return which sweep a job's or a sweep's folder belongs to; None where nothing says so."""
    file = folder / SWEEP
    with reading(file, OSError, ValueError):
        return file.read_text("utf-8") if file.exists() else None


def as_job(row: dict[str, Any], folder: str, overrides: dict[str, str]) -> Job:
    """Return one configuration of an ablation as a job of a sweep."""
    chosen = {key: str(row.get(key)) for key in ("proj", "dim", "seed")}
    kept = {k: v for k, v in overrides.items() if k not in ("projs", "dims", "seeds")}
    if "seed" in kept:  # which is the split's and the centroids'
        kept["ablation's seed"] = kept["seed"]
    return Job("/".join([folder, *chosen.values()]), "done", {**kept, **chosen}, row)


def read_results(file: Path) -> list[dict[str, Any]]:
    """Read the rows of a rows.json, or the one row of a metrics.json; check measured values.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    many = file.name == "rows.json"
    rows = load(file, list) if many else [load(file, dict)]
    for number, row in enumerate(rows, 1):
        where = f"{file}, row {number}" if many else file
        if not isinstance(row, dict):
            raise InputError(f"{where} is no JSON object; run the job again")
        require(row, where, dict.fromkeys(filter(MEASURED.match, row), float))
    return rows


def read_distortion(file: Path) -> list[dict[str, Any]]:
    """The rows of a distortion.json: proj, dim, seed, quantity and the statistics.

    None where there is no number: a rank correlation belongs to distances alone.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    with reading(file, KeyError):
        return load(file, dict)["rows"]


def read_predictions(file: Path, plants: bool) -> Scores:
    """Read a fit's predictions.csv; its scores are called "score".

    `plants`: the data plant defects, whose images do not count in the image metrics.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    with (
        reading(file, OSError, csv.Error, *BROKEN),
        file.open(encoding="utf-8", newline="") as opened,
    ):
        rows = list(csv.DictReader(opened, strict=True))
        path, kind = [row["path"] for row in rows], [row["kind"] for row in rows]
        label = np.array([("0", "1").index(row["label"]) for row in rows], np.int64)
        score = np.array([float(row["score"]) for row in rows])
        if not np.isfinite(score).all():
            raise ValueError("a score is not finite")
    counted = np.array([not (plants and name.startswith(PLANTED)) for name in kind], dtype=bool)
    return Scores(path, kind, label, counted, {"score": score})


def read_scores(file: Path) -> Scores:
    """Read a scores.npz: `IMAGE_ARRAYS`, and each configuration's image scores, all (N,).

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    arrays = read_arrays(file)
    with reading(file, KeyError):
        path, kind, label, counted = (arrays.pop(key) for key in IMAGE_ARRAYS)
    return Scores(path.tolist(), kind.tolist(), label, counted, arrays)


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an npz file, all of one shape.

    Of a resamples.npz image and pixel AUROC (2,R) on resampled test images, by PROJ-DIM-SEED.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    arrays = load_arrays(file)
    shapes = {array.shape for array in arrays.values()}
    with reading(file, ValueError):
        if len(shapes) > 1:
            raise ValueError(f"its arrays are of shapes {sorted(shapes)}")
    return arrays


def typed_command(folder: Path) -> str:
    """Return what was typed to make `folder`, from the files that Hydra leaves; "" without them.

    Raises:
        InputError: such a file cannot be read.
    """
    if (typed := _overrides(folder)) is not None:
        return shlex.join(["python", "run.py", *typed])
    if not (many := folder / "multirun.yaml").exists():
        return ""
    with reading(many, TypeError, KeyError):
        typed = load(many, dict)["hydra"]["overrides"]["task"]
        return shlex.join(["python", "run.py", "-m", *_texts(many, typed)])


def finite(value: Any) -> Any:
    """Return `value` as JSON can hold it: numbers that are not finite become None.

    >>> finite({"a": (np.nan, np.int64(2))})
    {'a': [None, 2]}
    """
    text = json.dumps(value, default=lambda one: one.item() if hasattr(one, "item") else str(one))
    return json.loads(text, parse_constant=lambda name: None)


def natural(path: str | os.PathLike) -> list[tuple[int, int, str]]:
    """Return a key that sorts "2" before "10"."""
    # Numbers and words carry a rank of their own: Python does not compare int with str.
    parts = re.findall(r"\d+|\D+", str(path))
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def load(file: Path, kind: type) -> Any:
    """Read a JSON or YAML file whose content is of type `kind`.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    # RecursionError: nested deeper than Python's stack.
    with reading(file, OSError, ValueError, RecursionError, yaml.YAMLError):
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
        if not isinstance(content, kind):
            what = "object" if kind is dict else "list"
            raise ValueError(f"no {file.suffix[1:].upper()} {what}")
        return content


def require(row: Mapping[str, Any], where: str | Path, kinds: Mapping[str, type]) -> None:
    """Check the values of `row` under the keys of `kinds`: texts, whole numbers, `float` or None.

    Raises:
        InputError: a value is of another type; it names `where`.
    """
    for key, kind in kinds.items():
        value = row.get(key)
        # As NumPy and pandas hold them: JSON knows no limit.
        whole = type(value) is int and abs(value) < 2**63
        number = value is None or whole or (type(value) is float and math.isfinite(value))
        fits, said = {
            str: (isinstance(value, str) and value != "", "a text"),
            int: (whole, "a whole number"),
            float: (number, "a finite number"),
        }[kind]
        if not fits:
            raise InputError(f"{where}: {key}={value!r} must be {said}; run the job again")


def load_arrays(file: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an npz file; no pickle in it is loaded.

    Raises:
        InputError: the file cannot be read, or holds more than `MOST_BYTES`.
    """
    # What a broken file makes NumPy and zipfile raise is no closed list.
    with reading(file, Exception), file.open("rb") as opened:  # NumPy leaves a broken one open
        with zipfile.ZipFile(opened) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MOST_BYTES:
            raise ValueError(f"{size} bytes unpacked, at most {MOST_BYTES} are read")
        opened.seek(0)
        with np.load(opened, allow_pickle=False) as content:
            return {key: content[key] for key in content.files}


def reading(file: Path, *kinds: type[Exception]) -> AbstractContextManager[None]:
    """Turn errors of the block into one line that names `file`."""
    todo = "run the job again, or remove its folder"
    return refusing(f"{file} cannot be read", todo, *kinds)


def _job_folders(sweep_dir: Path) -> list[Path]:
    found = [folder for folder in sweep_dir.iterdir() if folder.is_dir() and _is_job(folder)]
    return sorted(found, key=natural)


def _is_job(folder: Path) -> bool:
    names = (".hydra", "metrics.json", FAILED)
    return folder.name.isdecimal() or any((folder / name).exists() for name in names)


def _read_job(folder: Path) -> list[Job]:
    overrides = dict(map(_override, _overrides(folder) or ()))
    if (file := folder / FAILED).exists():
        error = str(load(file, dict).get("error", "no reason recorded"))
        return [Job(folder.name, "failed", overrides, error=error)]
    if (file := folder / "metrics.json").exists():
        return [Job(folder.name, "done", overrides, *read_results(file))]
    if (file := folder / "rows.json").exists():
        return [as_job(row, folder.name, overrides) for row in read_results(file)]
    # Other modes write neither.
    status = "done" if (folder / DONE).exists() else "unfinished"
    return [Job(folder.name, status, overrides)]


def _overrides(folder: Path) -> list[str] | None:
    """Return what was typed for the one run in `folder`; None where Hydra's files do not say."""
    file = folder / ".hydra" / "overrides.yaml"
    return _texts(file, load(file, list)) if file.exists() else None


def _texts(file: Path, content: Any) -> list[str]:
    """Check for a list of texts.

    `str` of anything else may make gigabytes, where YAML repeats by name.
    """
    with reading(file, ValueError):
        if not isinstance(content, list) or not all(isinstance(text, str) for text in content):
            raise ValueError("no list of texts")
        return content


def _override(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return key.lstrip("+"), value
