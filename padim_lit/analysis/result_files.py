"""Read the files that runs and jobs leave, typed; a broken one is named in one line.

Numbers come from JSON (metrics.json of a fit, rows.json of an ablation), which keeps their types.
CSV is for people, but for scores.csv and distortion.csv, whose columns have types of their own.
"""

import csv
import json
import math
import os
import re
import shlex
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from padim_lit.errors import InputError

#: Written last of all: what the job was. A folder without it is half-finished.
DONE = "job.json"
#: Why the job failed.
FAILED = "failed.json"
#: Keys of metrics.json and rows.json that hold a number, or None where it is undefined.
MEASURED = re.compile(
    r"^(test/(?!.*_why$).*|threshold(_rate)?|state_bytes|.*/(\w+_)?seconds|.*/ms_per_image)$"
)
#: Of kinds whose images do not count in the image metrics, where the data plant defects.
PLANTED = "planted_"
BROKEN_ARCHIVE = (
    *(OSError, ValueError, LookupError, TypeError, EOFError, AttributeError),
    *(NotImplementedError, zipfile.BadZipFile, zlib.error, struct.error),
)


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


@dataclass(frozen=True)
class Scores:
    """scores.csv: N test images and each configuration's image scores (N,), by PROJ-DIM-SEED."""

    path: list[str]
    kind: list[str]
    label: np.ndarray
    count_image: np.ndarray
    scores: dict[str, np.ndarray]


def collect(sweep_dir: str | os.PathLike) -> list[Job]:
    """Read the job folders in ``sweep_dir``, "2" before "10".

    A job folder has a ``.hydra`` folder, a metrics.json or a failed.json, or a number for a name.
    An ablation's folder holds rows.json instead: each of its configurations is a job here.

    Raises:
        InputError: ``sweep_dir`` is missing, or one of those files cannot be read.
    """
    sweep_dir = Path(sweep_dir)
    if not sweep_dir.is_dir():
        raise InputError(f"{sweep_dir} is no folder; give the folder of a multirun")
    folders = [folder for folder in sweep_dir.iterdir() if folder.is_dir() and _is_job(folder)]
    return [job for folder in sorted(folders, key=natural) for job in _read_job(folder)]


def as_job(row: dict[str, Any], folder: str, overrides: dict[str, str]) -> Job:
    """One configuration of an ablation as a job of a sweep."""
    chosen = {key: str(row.get(key)) for key in ("proj", "dim", "seed")}
    kept = {k: v for k, v in overrides.items() if k not in ("projs", "dims", "seeds")}
    return Job("/".join([folder, *chosen.values()]), "done", {**kept, **chosen}, row)


def read_results(file: Path) -> list[dict[str, Any]]:
    """The rows of a rows.json, or the one row that a metrics.json is; measured values are checked.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    many = file.name == "rows.json"
    rows = _load(file, list) if many else [_load(file, dict)]
    for number, row in enumerate(rows, 1):
        where = f"{file}, row {number}" if many else file
        if not isinstance(row, dict):
            raise InputError(f"{where} is no JSON object; run the job again")
        for key, value in row.items():
            if MEASURED.match(key) and not _is_number(value):
                raise InputError(
                    f"{where}: {key}={value!r} must be a finite number; run the job again"
                )
    return rows


def read_scores(file: Path) -> Scores:
    """A scores.csv; raises as `read_table`."""
    rows = read_table(file, ("path", "kind"), ("label", "count_image"))
    columns = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
    path, kind, label, counted = (
        columns.pop(key, []) for key in ("path", "kind", "label", "count_image")
    )
    return Scores(
        path,
        kind,
        np.array(label, dtype=np.int64),
        np.array(counted, dtype=bool),
        {key: np.array(values, dtype=np.float64) for key, values in columns.items()},
    )


def read_predictions(file: Path, plants: bool) -> Scores:
    """A predictions.csv, its scores as "score"; raises as `read_table`.

    `plants`: the data plant defects, whose images do not count in the image metrics.
    """
    rows = read_table(file, ("path", "kind"), ("label",))
    for number, row in enumerate(rows, 1):
        label, score = row["label"], row.get("score")
        if label not in (0, 1) or score is None or not math.isfinite(score):
            values = f"label={label}, score={score}"
            raise InputError(f"{file} cannot be read (row {number}: {values}); run the job again")
    kinds = [row["kind"] for row in rows]
    return Scores(
        [row["path"] for row in rows],
        kinds,
        np.array([row["label"] for row in rows], dtype=np.int64),
        np.array([not (plants and kind.startswith(PLANTED)) for kind in kinds], dtype=bool),
        {"score": np.array([row["score"] for row in rows], dtype=np.float64)},
    )


def read_distortion(file: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of a distortion.csv: proj, dim, seed, quantity and the statistics as floats.

    Empty cells are None: a rank correlation belongs to distances alone.
    """
    return read_table(Path(file), ("proj", "quantity"), ("dim", "seed"))


def read_table(
    file: Path, texts: Sequence[str], whole: Sequence[str]
) -> list[dict[str, str | int | float | None]]:
    """Rows of a CSV with columns of `texts`, of `whole` numbers, and of floats, None where empty.

    Raises:
        InputError: the file cannot be read, or a cell is of another type; it names the line.
    """
    rows = []
    try:
        # A file name on disk need not be valid UTF-8.
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
            reader = csv.DictReader(opened, strict=True)
            columns = list(reader.fieldnames or ())
            for key in (*texts, *whole):
                if key not in columns:
                    raise InputError(f"{file}, line 1: no column {key!r}; is it a sweep's file?")
            if len(set(columns)) < len(columns):
                raise InputError(f"{file}, line 1: a column is there twice; keep one")
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise InputError(
                        f"{where}: must have {len(columns)} columns; was it cut off? run the job "
                        "again"
                    )
                rows.append({key: _typed(key, row[key], texts, whole, where) for key in columns})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(file, error) from error
    return rows


def read_resamples(file: Path) -> dict[str, np.ndarray]:
    """A resamples.npz: image and pixel AUROC (2,R) on resampled test images, by PROJ-DIM-SEED.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as content:
            arrays = {key: content[key] for key in content.files}
    except BROKEN_ARCHIVE as error:
        raise _unreadable(file, error) from error
    shapes = {array.shape for array in arrays.values()}
    for key, array in arrays.items():
        if array.ndim != 2 or len(array) != 2 or len(shapes) > 1 or array.dtype.kind != "f":
            raise InputError(
                f"{file}: {key} has shape {array.shape} and type {array.dtype}; all must be floats "
                "of one shape (2, R); run the ablation again"
            )
    return arrays


def typed_command(folder: Path) -> str:
    """What was typed to make `folder`, from the files that Hydra leaves; "" without them.

    Raises:
        InputError: such a file cannot be read.
    """
    run, many = folder / ".hydra" / "overrides.yaml", folder / "multirun.yaml"
    if run.exists():
        return shlex.join(["python", "run.py", *map(str, _load(run, list))])
    if not many.exists():
        return ""
    try:
        typed = _load(many, dict)["hydra"]["overrides"]["task"]
        return shlex.join(["python", "run.py", "-m", *map(str, typed)])
    except (TypeError, KeyError) as error:
        raise _unreadable(many, ValueError("no list of hydra.overrides.task")) from error


def natural(path: str | os.PathLike) -> list[tuple[int, int, str]]:
    """A key that sorts "2" before "10"."""
    # Numbers and words carry a rank of their own: Python does not compare int with str.
    parts = re.findall(r"\d+|\D+", str(path))
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def _is_job(folder: Path) -> bool:
    names = (".hydra", "metrics.json", FAILED)
    return folder.name.isdecimal() or any((folder / name).exists() for name in names)


def _read_job(folder: Path) -> list[Job]:
    overrides = {}
    if (file := folder / ".hydra" / "overrides.yaml").exists():
        overrides = dict(_override(str(text)) for text in _load(file, list))
    if (file := folder / FAILED).exists():
        error = str(_load(file, dict).get("error", "no reason recorded"))
        return [Job(folder.name, "failed", overrides, error=error)]
    if (file := folder / "metrics.json").exists():
        return [Job(folder.name, "done", overrides, *read_results(file))]
    if (file := folder / "rows.json").exists():
        return [as_job(row, folder.name, overrides) for row in read_results(file)]
    # Other modes write neither.
    status = "done" if (folder / DONE).exists() else "unfinished"
    return [Job(folder.name, status, overrides)]


def _override(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return key.lstrip("+"), value


def _load(file: Path, kind: type) -> Any:
    """The content of a JSON or YAML file, a `kind`."""
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    # RecursionError: nested deeper than Python's stack.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise _unreadable(file, error) from error
    if not isinstance(content, kind):
        raise _unreadable(file, ValueError(f"it does not hold a {kind.__name__}"))
    return content


def _unreadable(file: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(f"{file} cannot be read ({reason}); run the job again, or remove its folder")


def _typed(
    key: str, text: str, texts: Sequence[str], whole: Sequence[str], where: str
) -> str | int | float | None:
    if key in texts:
        return text
    if key not in whole and not text:
        return None
    kind, what = (int, "a whole number") if key in whole else (float, "a number")
    try:
        return kind(text)
    except ValueError as error:
        raise InputError(f"{where}: {key}={text!r} is not {what}") from error


def _is_number(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value))
