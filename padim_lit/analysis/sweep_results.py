"""Read what sweeps left: rows, image scores, bootstrap resamples and distortions of each.

One `SweepFolder` is one dataset × backbone. An ablation's folder is one; a multirun of single fits
gives one for each combination of what else it varied.
"""

import csv
import json
import os
import re
import shlex
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from padim_lit.analysis.bootstrap import Difference, paired_difference
from padim_lit.errors import InputError
from padim_lit.metrics import METRICS

# Row of resamples.npz's (2, R) arrays that holds a metric.
RESAMPLED = {"test/image_auroc": 0, "test/pixel_auroc": 1}
#: Constants that make two sweeps on the same data different experiments.
SETTINGS = (
    *("split_seed", "weights", "embedding_dim", "grid", "eps", "sigma"),
    *("image_score", "image_size", "crop_size"),
)
IDENTITY = ("proj", "dim", "seed")
NAMES = ("data", "backbone", "weights", "grid", "device")
# What differs from job to job without making it another experiment.
INCIDENTAL = re.compile(r"^(job|status|error|notes|peak_memory_bytes|weights_sha256|proj/.*)$")
MEASURED = re.compile(r"^(test/(?!.*_why$).*|state_bytes|.*/(\w+_)?seconds|.*/ms_per_image)$")


@dataclass(frozen=True)
class Row:
    """One configuration: projection, D, seed, and its measured columns; None where empty."""

    proj: str
    dim: int
    seed: int
    measured: Mapping[str, float | None]

    @property
    def key(self) -> str:
        """Its name in scores.csv and resamples.npz."""
        return f"{self.proj}-{self.dim}-{self.seed}"


@dataclass(frozen=True)
class Scores:
    """scores.csv: N test images and each configuration's image scores (N,), by `Row.key`."""

    path: list[str]
    kind: list[str]
    label: np.ndarray
    count_image: np.ndarray
    scores: dict[str, np.ndarray]


@dataclass(frozen=True)
class SweepFolder:
    """A sweep of one dataset × backbone.

    Attributes:
        path: the folder.
        rows: its configurations, in the file's order.
        constants: columns that all rows share (data, backbone, weights, grid, ...), typed.
        command: what was typed, or "" where the folder does not say.
        parts: the folders that its files lie in: `path`, and more after `join_parts`.
    """

    path: Path
    rows: tuple[Row, ...]
    constants: Mapping[str, Any]
    command: str = ""
    parts: tuple[Path, ...] = ()

    @property
    def data(self) -> str:
        return str(self.constants.get("data"))

    @property
    def backbone(self) -> str:
        return str(self.constants.get("backbone"))

    @property
    def projs(self) -> list[str]:
        return list(dict.fromkeys(row.proj for row in self.rows))

    @property
    def dims(self) -> list[int]:
        return sorted({row.dim for row in self.rows})

    @property
    def seeds(self) -> list[int]:
        return sorted({row.seed for row in self.rows})

    @property
    def metrics(self) -> list[str]:
        """Metrics that at least one row has."""
        return [m for m in METRICS if any(r.measured.get(m) is not None for r in self.rows)]

    def dims_of(self, proj: str) -> list[int]:
        """The dimensions at which `proj` was measured, rising."""
        return sorted({row.dim for row in self.rows if row.proj == proj})

    def seeds_of(self, proj: str, dim: int) -> list[int]:
        """The seeds of one projection and D, rising; empty where it was not measured."""
        return sorted(seed for p, d, seed in self._by_key if (p, d) == (proj, dim))

    def points(
        self, proj: str, dim: int, metric: str, seeds: Sequence[int] | None = None
    ) -> np.ndarray:
        """One column of sweep.csv, (S,) by rising seed or by `seeds`; NaN where it is empty.

        Raises:
            InputError: a configuration was not measured.
        """
        values = [row.measured.get(metric) for row in self._select(proj, dim, seeds)]
        return np.array([np.nan if value is None else value for value in values])

    def resamples(
        self, proj: str, dim: int, metric: str, seeds: Sequence[int] | None = None
    ) -> np.ndarray | None:
        """An AUROC on R resamples of the test images, (S, R) as `points`; None where not kept.

        Raises:
            InputError: a configuration was not measured, or the metric is never resampled.
        """
        if metric not in RESAMPLED:
            raise InputError(f"metric={metric}: resampled are {', '.join(RESAMPLED)}")
        kept = [self._resamples.get(row.key) for row in self._select(proj, dim, seeds)]
        if any(values is None for values in kept):
            return None
        return np.stack([values[RESAMPLED[metric]] for values in kept]).astype(np.float64)

    def difference(
        self, a: tuple[str, int], b: tuple[str, int], metric: str, level: float = 0.95
    ) -> Difference:
        """`paired_difference` of two (projection, D) over the seeds that both have.

        Raises:
            InputError: they have no seed in common.
        """
        seeds = sorted(set(self.seeds_of(*a)) & set(self.seeds_of(*b)))
        if not seeds:
            raise InputError(f"{self.path}: {a[0]} at {a[1]} and {b[0]} at {b[1]} share no seed")
        points = [self.points(*x, metric, seeds) for x in (a, b)]
        resamples = [self.resamples(*x, metric, seeds) for x in (a, b)]
        return paired_difference(*points, *resamples, level)

    @cached_property
    def scores(self) -> Scores | None:
        """scores.csv, or None where there is none."""
        first, *more = [_read_scores(file) for file in self._files("scores.csv")] or [None]
        if not more:
            return first
        return replace(
            first, scores={k: v for part in (first, *more) for k, v in part.scores.items()}
        )

    @cached_property
    def distortion(self) -> list[dict[str, Any]]:
        """The rows of distortion.csv, typed; empty where there is none."""
        return [row for file in self._files("distortion.csv") for row in read_distortion(file)]

    @cached_property
    def _by_key(self) -> dict[tuple[str, int, int], Row]:
        return {(row.proj, row.dim, row.seed): row for row in self.rows}

    @cached_property
    def _resamples(self) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for file in self._files("resamples.npz"):
            found |= _read_resamples(file)
        return found

    def _files(self, name: str) -> list[Path]:
        return [p / name for p in self.parts or (self.path,) if (p / name).exists()]

    def _select(self, proj: str, dim: int, seeds: Sequence[int] | None) -> list[Row]:
        found = self.seeds_of(proj, dim)
        missing = [seed for seed in seeds or [] if seed not in found]
        if not found or missing:
            seed = f", seed {missing[0]}" if missing else ""
            raise InputError(
                f"{self.path}: proj={proj} at dim={dim}{seed} was not measured; measured are "
                f"{', '.join(self.projs)} at {', '.join(map(str, self.dims))}"
            )
        return [self._by_key[proj, dim, seed] for seed in (found if seeds is None else seeds)]


def read_sweeps(paths: Iterable[str | os.PathLike]) -> list[SweepFolder]:
    """Every sweep in or below the folders `paths`, in the order of their names, each once.

    A multirun's own sweep.csv repeats the rows of the ablations in it; those are read where they
    were written. Jobs that failed are left out.

    Raises:
        InputError: a path is no folder, no sweep is found, or a file cannot be read.
    """
    files: dict[Path, Path] = {}
    paths = [Path(path) for path in paths]
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path} is no folder; give folders that hold a sweep.csv")
        for file in sorted(path.rglob("sweep.csv"), key=_natural):
            files.setdefault(file.resolve(), file)
    sweeps = [sweep for file in files.values() for sweep in _read_sweep(file)]
    if not sweeps:
        raise InputError(
            f"no sweep.csv with a finished job in {', '.join(map(str, paths))}; "
            "run experiment=ablation first, and give its folder"
        )
    return sweeps


def join_parts(folders: Sequence[SweepFolder]) -> list[SweepFolder]:
    """Make one sweep of ablations that were run in parts, such as D = 550 on its own.

    Parts have the same data, backbone, settings (`SETTINGS`) and test images, and no
    configuration in common; other folders stay as they are.
    """
    joined: list[SweepFolder] = []
    for folder in folders:
        for i, other in enumerate(joined):
            if _is_part(folder, other):
                commands = dict.fromkeys(c for c in (other.command, folder.command) if c)
                constants = {
                    k: v for k, v in other.constants.items() if folder.constants.get(k, ...) == v
                }
                joined[i] = SweepFolder(
                    other.path,
                    other.rows + folder.rows,
                    constants,
                    "\n".join(commands),
                    (*(other.parts or (other.path,)), *(folder.parts or (folder.path,))),
                )
                break
        else:
            joined.append(folder)
    return joined


def _is_part(a: SweepFolder, b: SweepFolder) -> bool:
    return (
        all(_same(a, b, key) for key in ("data", "backbone", *SETTINGS))
        and not a._by_key.keys() & b._by_key.keys()
        and a.scores is not None
        and b.scores is not None
        and a.scores.path == b.scores.path
        and np.array_equal(a.scores.label, b.scores.label)
    )


def read_distortion(file: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of a distortion.csv: proj, dim, seed, quantity and the statistics as floats.

    Empty cells are None: a rank correlation belongs to distances alone.

    Raises:
        InputError: the file cannot be read; it names the line.
    """
    rows = []
    for line, row in _lines(Path(file), ("proj", "dim", "seed", "quantity")):
        typed: dict[str, Any] = {key: row.pop(key) for key in ("proj", "quantity")}
        for key in ("dim", "seed"):
            typed[key] = _number(int, row.pop(key), file, line, key)
        numbers = {k: _number(float, v, file, line, k) if v else None for k, v in row.items()}
        rows.append(typed | numbers)
    return rows


def labels(folders: Sequence[SweepFolder]) -> list[str]:
    """A name for each: data and backbone, and whatever else tells it from the others."""
    names = [f"{folder.data}, {folder.backbone}" for folder in folders]
    out = []
    for name, folder in zip(names, folders, strict=True):
        alike = [f for n, f in zip(names, folders, strict=True) if n == name]
        differing = [k for k in SETTINGS if len({str(f.constants.get(k)) for f in alike}) > 1]
        more = [f"{key}={folder.constants.get(key)}" for key in differing]
        same = [f for f in alike if all(_same(f, folder, key) for key in differing)]
        out.append(", ".join([name, *more, *([str(folder.path)] if len(same) > 1 else [])]))
    return out


def _same(a: SweepFolder, b: SweepFolder, key: str) -> bool:
    return str(a.constants.get(key)) == str(b.constants.get(key))


def _read_sweep(file: Path) -> Iterator[SweepFolder]:
    groups: dict[tuple[tuple[str, str], ...], list[tuple[int, dict[str, str]]]] = {}
    ablation = _is_ablation(file.parent)
    overrides: list[str] = []
    # A multirun in which every job failed has no such column, and is no mistake.
    for line, row in _lines(file, IDENTITY if ablation else ()):
        if row.get("status", "done") != "done" or _counted_below(file.parent, row):
            continue
        _require(file, row, (*IDENTITY, "test/image_auroc"))
        if not overrides and "job" in row:
            # A multirun's columns: job, status, what was typed, then the metrics.
            overrides = list(row)[: list(row).index("test/image_auroc")]
        # What a run found outranks what was typed: data=mvtec is mvtec/screw there.
        for key in [key for key in row if key.startswith("result/")]:
            if value := row.pop(key):
                row[key.removeprefix("result/")] = value
        row["grid"] = re.sub(r"^\[(\d+), (\d+)\]$", r"\1x\2", row.get("grid", ""))
        if not ablation:
            row["weights"] = re.sub(r"^random \(seed \d+\)$", "random", row.get("weights", ""))
        apart = {"data", "backbone", *SETTINGS, *overrides}
        apart = [k for k in row if k in apart - {*IDENTITY} and not INCIDENTAL.match(k)]
        groups.setdefault(tuple((k, row[k]) for k in apart), []).append((line, row))
    if not groups and ablation:
        raise InputError(f"{file}, line 1: no row follows; run the ablation again")
    for lines in groups.values():
        rows: dict[tuple[str, int, int], Row] = {}
        for line, row in lines:
            found = _row(file, line, row)
            if rows.setdefault((found.proj, found.dim, found.seed), found) is not found:
                raise InputError(f"{file}, line {line}: {found.key} is there twice; keep one")
        columns = [k for k in lines[0][1] if not (k in IDENTITY or INCIDENTAL.match(k))]
        constants = {
            key: _typed(key, lines[0][1][key])
            for key in columns
            if len({row.get(key) for _, row in lines}) == 1 and not key.startswith("test/")
        }
        yield SweepFolder(file.parent, tuple(rows.values()), constants, _command(file.parent))


def _row(file: Path, line: int, row: Mapping[str, str]) -> Row:
    dim, seed = (_number(int, row[key], file, line, key) for key in ("dim", "seed"))
    measured = {
        key: None if value == "" else _number(float, value, file, line, key)
        for key, value in row.items()
        if MEASURED.match(key)
    }
    if not row["proj"]:
        raise InputError(f"{file}, line {line}: proj is empty; remove the line")
    if dim < 1:
        raise InputError(f"{file}, line {line}: dim is {dim}, below 1; remove the line")
    return Row(row["proj"], dim, seed, measured)


def _is_ablation(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("scores.csv", "resamples.npz"))


def _counted_below(folder: Path, row: Mapping[str, str]) -> bool:
    # An ablation's configuration is "JOB/PROJ/DIM/SEED" in the table of the multirun around it.
    job, slash, _ = row.get("job", "").partition("/")
    return bool(slash) and (folder / job / "sweep.csv").exists() and _is_ablation(folder / job)


def _command(folder: Path) -> str:
    """What was typed, from the files that Hydra leaves."""
    run, many = folder / ".hydra" / "overrides.yaml", folder / "multirun.yaml"
    file = run if run.exists() else many
    if not file.exists():
        return ""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        typed = content if file is run else content["hydra"]["overrides"]["task"]
        words = ["python", "run.py", *(["-m"] if file is many else []), *map(str, typed)]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file} does not hold Hydra's overrides ({reason}); remove it") from error
    return shlex.join(words)


def _read_scores(file: Path) -> Scores:
    lines = list(_lines(file, ("path", "label")))
    given = {"path", "kind", "label", "count_image"}
    scores: dict[str, list[float]] = {key: [] for key in (lines[0][1] if lines else ())}
    label, count = [], []
    for line, row in lines:
        label.append(_number(int, row["label"], file, line, "label"))
        flag = row.get("count_image", "True")
        if flag not in ("True", "False", "1", "0"):
            raise InputError(f"{file}, line {line}: count_image={flag!r} is neither True nor False")
        count.append(flag in ("True", "1"))
        for key in row.keys() - given:
            scores[key].append(_number(float, row[key], file, line, key))
    return Scores(
        [row["path"] for _, row in lines],
        [row.get("kind", "") for _, row in lines],
        np.array(label, dtype=np.int64),
        np.array(count, dtype=bool),
        {key: np.array(values) for key, values in scores.items() if key not in given},
    )


def _read_resamples(file: Path) -> dict[str, np.ndarray]:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as content:
            arrays = {key: content[key] for key in content.files}
    except (
        *(OSError, ValueError, LookupError, TypeError, EOFError, AttributeError),
        *(NotImplementedError, zipfile.BadZipFile, zlib.error, struct.error),
    ) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file} cannot be read ({reason}); run the ablation again") from error
    shapes = {array.shape for array in arrays.values()}
    for key, array in arrays.items():
        if array.ndim != 2 or len(array) != 2 or len(shapes) > 1 or array.dtype.kind != "f":
            raise InputError(
                f"{file}: {key} has shape {array.shape} and type {array.dtype}; all must be floats "
                "of one shape (2, R); run the ablation again"
            )
    return arrays


def _lines(file: Path, required: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and columns of every row; the file must have the `required` columns."""
    try:
        with file.open(newline="", encoding="utf-8") as text:
            reader = csv.DictReader(text, strict=True)
            columns = list(reader.fieldnames or ())
            _require(file, columns, required)
            if len(set(columns)) < len(columns):
                raise InputError(f"{file}, line 1: a column is there twice; keep one")
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(
                        f"{file}, line {reader.line_num}: must have {len(columns)} columns; "
                        "was it cut off? run the job again"
                    )
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read ({error}); run the job again") from error


def _require(file: Path, columns: Iterable[str], required: Sequence[str]) -> None:
    if missing := sorted(set(required) - set(columns), key=required.index):
        raise InputError(f"{file}, line 1: no column {missing[0]!r}; is it a sweep's file?")


def _number(kind: type, text: str, file: str | os.PathLike, line: int, column: str) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{file}, line {line}: {column}={text!r} is not {what}") from error


def _typed(key: str, text: str) -> Any:
    if text == "":
        return None
    # A dataset called "007" or "true" is still a name.
    if key in NAMES or text in ("true", "false", "null"):
        return text
    try:
        return json.loads({"True": "true", "False": "false"}.get(text, text))
    except ValueError:
        return text


def _natural(file: Path) -> list[tuple[int, int | str]]:
    parts = re.findall(r"\d+|\D+", str(file))
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]
