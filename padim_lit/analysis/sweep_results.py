"""What sweeps found: points, resamples and differences by projection, dimension and seed.

One `SweepFolder` is one dataset × backbone. An ablation's folder is one; a multirun of single fits
gives one for each combination of what else it varied.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from padim_lit.analysis.bootstrap import (
    Estimate,
    image_auroc,
    pooled_difference,
    resample_counts,
)
from padim_lit.analysis.result_files import (
    MEASURED,
    Scores,
    collect,
    find,
    left_behind,
    read_arrays,
    read_predictions,
    read_results,
    read_scores,
    require,
    typed_command,
)
from padim_lit.errors import InputError
from padim_lit.system.console import MISSING

# Row of resamples.npz's (2, R) arrays that holds a metric.
RESAMPLED = {"test/image_auroc": 0, "test/pixel_auroc": 1}
#: R of a multirun's fits: as many as an ablation's default, so that the two pair.
RESAMPLES = 1000
#: Constants that make two sweeps on the same data different experiments.
SETTINGS = (
    "split_seed",
    "weights",
    "embedding_dim",
    "grid",
    "density",
    "neighbourhood",
    "rotations",
    "eps",
    "eps_unit",
    "sigma",
    "image_score",
    "image_size",
    "crop_size",
    "density/components",
    "density/fit_images",
    "density/shrinkage",
    "density/position_weight",
    "alignment",
    "layers",
    "tiles",
)
#: Constants that say which test images there are: alike, resample r draws the same ones.
SAME_IMAGES = ("data", "split_seed", "test_good", "test_defective", "test_planted", "test_groups")
#: Density → its default ν over D.
_SHRINKAGE = {"both": 0.5, "mixture": 1.0}
#: Stands for the split where each fit's seed draws its own.
OWN_SPLIT = "each seed's own"
#: Keys that a fit writes as data/KEY and an ablation as KEY; each fit's seed draws its split.
_OF_DATA = (
    "train_images",
    "test_good",
    "test_defective",
    "test_planted",
    "test_groups",
    "pixel_truth",
)
# What differs from job to job without making it another experiment.
INCIDENTAL = re.compile(
    r"^(proj(/.*)?|dim|seed|notes|peak_memory_bytes|(weights|model)_sha256|written|test/.*)$"
)

#: The projection that keeps all C channels: D is C there, whatever was typed.
WHOLE = "identity"
#: A projection and D.
Method = tuple[str, int]
#: Seeds in the wanted order; None: all.
Seeds = Sequence[int] | None


@dataclass(frozen=True)
class Row:
    """One configuration: projection, D, seed, and what was measured; None where undefined."""

    proj: str
    dim: int
    seed: int
    measured: Mapping[str, float | None]
    folder: Path  # of a multirun's fit, which has its scores in predictions.csv

    @property
    def key(self) -> str:
        """Its name in scores.npz and resamples.npz."""
        return f"{self.proj}-{self.dim}-{self.seed}"


@dataclass(frozen=True)
class SweepFolder:
    """A sweep of one dataset × backbone.

    Attributes:
        path: the folder.
        rows: its configurations, in the file's order.
        constants: keys that all rows share (data, backbone, weights, grid, ...).
        command: what was typed, or "" where the folder does not say.
        typed: keys of the command line that may make it another experiment.
    """

    path: Path
    rows: tuple[Row, ...]
    constants: Mapping[str, Any]
    command: str = ""
    typed: tuple[str, ...] = ()

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
    def methods(self) -> list[Method]:
        """Every (projection, D), by rising D."""
        return [(proj, dim) for proj in self.projs for dim in self.dims_of(proj)]

    @property
    def dims(self) -> list[int]:
        return sorted({row.dim for row in self.rows})

    @property
    def seeds(self) -> list[int]:
        return sorted({row.seed for row in self.rows})

    def dims_of(self, *projs: str) -> list[int]:
        """The dimensions at which every one of `projs` was measured, rising."""
        found = [{row.dim for row in self.rows if row.proj == proj} for proj in projs]
        return sorted(set.intersection(*found))

    def seeds_of(self, proj: str, dim: int) -> list[int]:
        """The seeds of one projection and D, rising; empty where it was not measured."""
        return sorted(seed for p, d, seed in self._by_key if (p, d) == (proj, dim))

    def shared_seeds(self, *configurations: Method) -> list[int]:
        """The seeds that every (projection, D) has, rising."""
        return sorted(set.intersection(*(set(self.seeds_of(*x)) for x in configurations)))

    def points(self, proj: str, dim: int, metric: str, seeds: Seeds = None) -> np.ndarray:
        """Return measured values (S,) by rising seed or by `seeds`; NaN where undefined."""
        values = [row.measured.get(metric) for row in self._select(proj, dim, seeds)]
        return np.array([np.nan if value is None else value for value in values], dtype=float)

    def resamples(self, proj: str, dim: int, metric: str, seeds: Seeds = None) -> np.ndarray | None:
        """Return a metric on R resamples of the test images, (S, R); None if not kept."""
        kept = [self._resamples.get(row.key) for row in self._select(proj, dim, seeds)]
        at = RESAMPLED.get(metric)
        if at is None or any(values is None or len(values) <= at for values in kept):
            return None
        return np.stack([values[at] for values in kept]).astype(np.float64)

    def difference(self, a: Method, b: Method, metric: str, seeds: Seeds = None) -> Estimate:
        """Return `pooled` a − b of two (projection, D) over `seeds`; None: all that both have.

        There must be one.
        """
        return pooled([self], a, b, metric, seeds)

    @cached_property
    def scores(self) -> Scores | None:
        """The image scores of scores.npz, or of a multirun's fits on the same images, or None."""
        if (file := self.path / "scores.npz").exists():
            return read_scores(file)
        predictions = self._predictions
        if not self.rows or len(predictions) < len(self.rows):
            return None
        first = next(iter(predictions.values()))
        if any((one.path, one.kind) != (first.path, first.kind) for one in predictions.values()):
            return None  # each seed's own split
        return replace(first, scores={key: one.scores["score"] for key, one in predictions.items()})

    def image_scores(self, proj: str, dim: int) -> np.ndarray | None:
        """Return all test images' scores, (S,N) by rising seed; None if not kept."""
        scores = {} if self.scores is None else self.scores.scores
        kept = [scores.get(row.key) for row in self._select(proj, dim)]
        return None if any(values is None for values in kept) else np.stack(kept)

    def all_image_scores(self) -> dict[Method, np.ndarray]:
        """Return `image_scores` of every (projection, D), by rising D.

        Raises:
            InputError: those of one were not kept.
        """
        found = {method: self.image_scores(*method) for method in self.methods}
        if any(values is None for values in found.values()):
            raise InputError(
                f"{self.path} has neither scores.npz nor its jobs' predictions.csv with all "
                "configurations on the same test images; run it again, and where a seed splits the "
                "data give data.split_seed=0"
            )
        return found

    @cached_property
    def _predictions(self) -> dict[str, Scores]:
        """Those predictions.csv of a multirun's fits that exist, by the fits' keys.

        Each file says itself which defects are planted.
        """
        return {
            row.key: read_predictions(file, bool(row.measured.get("test_planted")))
            for row in self.rows
            if (file := row.folder / "predictions.csv").exists()
        }

    @cached_property
    def _by_key(self) -> dict[tuple[str, int, int], Row]:
        return {(row.proj, row.dim, row.seed): row for row in self.rows}

    @cached_property
    def _resamples(self) -> dict[str, np.ndarray]:
        if (file := self.path / "resamples.npz").exists():
            return read_arrays(file)
        return self._fits_resamples()

    def _fits_resamples(self) -> dict[str, np.ndarray]:
        """Image AUROCs (1,R) of a multirun's fits, on images drawn as an ablation draws them.

        Pixels would need the maps. Of data that show one thing in several photos there is none:
        these are drawn together, and no file says which they are.
        """
        found = {}
        for row in self.rows:
            predictions = self._predictions.get(row.key)
            if predictions is None or row.measured.get("test_groups"):
                continue
            scores, label = (
                torch.from_numpy(values[predictions.count_image])
                for values in (predictions.scores["score"], predictions.label)
            )
            if len(label.unique()) == 2:
                aurocs = image_auroc(scores, label, resample_counts(label, RESAMPLES))
                found[row.key] = aurocs[None].numpy()
        return found

    def _select(self, proj: str, dim: int, seeds: Seeds = None) -> list[Row]:
        seeds = self.seeds_of(proj, dim) if seeds is None else seeds
        return [self._by_key[proj, dim, seed] for seed in seeds]


def read_sweeps(paths: Iterable[str | os.PathLike], required: bool = True) -> list[SweepFolder]:
    """Every sweep in or below the folders `paths`, in the order of their names, each once.

    An ablation's folder holds a rows.json. A multirun's holds Hydra's multirun.yaml, beside the
    folders of its jobs; of those, finished fits are read. Jobs that failed are left out.

    Raises:
        InputError: a path is no folder, a file cannot be read, or `required` and no sweep is found.
    """
    paths = list(paths)
    files = find(paths, "rows.json", "multirun.yaml")
    # Their jobs are not this sweep's, and `collect` leaves them out too.
    old = {f.parent / n for f in files if f.name == "multirun.yaml" for n in left_behind(f.parent)}
    sweeps = [sweep for file in files if file.parent not in old for sweep in _read_sweep(file)]
    if required and not sweeps:
        raise InputError(
            f"no sweep with a finished job in {', '.join(map(str, paths))}; give the folder of an "
            "experiment=ablation or of a sweep (-m); python -m padim_lit.viewer shows single runs"
        )
    return sweeps


def pooled(
    sweeps: Sequence[SweepFolder], a: Method, b: Method, metric: str, seeds: Seeds = None
) -> Estimate:
    """Return the mean over sweeps of a − b, as `pooled_difference` has it.

    Of two AUROCs it is within ±1, and so is its interval.
    """
    parts = []
    for sweep in sweeps:
        own = seeds or sweep.shared_seeds(a, b)
        x, y = (sweep.points(*method, metric, own) for method in (a, b))
        rx, ry = (sweep.resamples(*method, metric, own) for method in (a, b))
        images = tuple(sweep.constants.get(key) for key in SAME_IMAGES)
        kept = rx is not None and ry is not None and rx.shape == ry.shape
        parts.append((x - y, rx - ry if kept else None, images, tuple(own)))
    found = pooled_difference(parts)
    if found.low is None or found.high is None:  # as of all that is no AUROC: no resamples
        return found
    return replace(found, low=max(found.low, -1.0), high=min(found.high, 1.0))


def mean_of(sweeps: Sequence[SweepFolder], data: str) -> SweepFolder:
    """Return the mean over sweeps of one backbone as a sweep on `data`, such as MVTec's mean.

    It has the configurations that all have; the images of each are resampled on their own. A mean
    is undefined where one of its parts is.
    """
    first, n = sweeps[0], len(sweeps)
    rows, kept = [], {}
    for key, row in first._by_key.items():
        same = [sweep._by_key[key] for sweep in sweeps if key in sweep._by_key]
        if len(same) < n:
            continue
        values = {name: [part.measured.get(name) for part in same] for name in row.measured}
        means = {name: None if None in v else sum(v) / n for name, v in values.items()}
        rows.append(replace(row, measured=means))
        found = [sweep._resamples[row.key] for sweep in sweeps if row.key in sweep._resamples]
        if len(found) == n and len({r.shape for r in found}) == 1:
            # Sets of as many images were resampled alike; in another order they are apart again.
            apart = (np.random.default_rng(i).permutation(r, axis=1) for i, r in enumerate(found))
            kept[row.key] = sum(r.astype(np.float64) / n for r in apart)
    constants = _shared([s.constants for s in sweeps]) | {"data": data}
    mean = SweepFolder(first.path, tuple(rows), constants)
    mean.__dict__["_resamples"] = kept  # in place of a file's
    return mean


def joined(sweep: SweepFolder, other: SweepFolder, name: str) -> SweepFolder:
    """Add the projections of a sweep on the same images, with `name` before theirs."""
    rows = sweep.rows + tuple(replace(row, proj=name + row.proj) for row in other.rows)
    both = replace(sweep, rows=rows)
    resamples = {name + key: kept for key, kept in other._resamples.items()}
    both.__dict__["_resamples"] = sweep._resamples | resamples  # in place of a file's
    return both


def labels(folders: Sequence[SweepFolder], settings: Sequence[str] = SETTINGS) -> list[str]:
    """Name each sweep by its data and backbone, and by whatever else tells it from the others."""
    names = [f"{folder.data}, {folder.backbone}" for folder in folders]
    out = []
    for name, folder in zip(names, folders, strict=True):
        alike = [f for n, f in zip(names, folders, strict=True) if n == name]
        more = []
        for keys in (settings, folder.typed):
            # Options of a density are said only where sweeps of that density differ in them.
            own = [f for f in alike if same(f, folder, "density")]
            among = {key: own if key.startswith("density/") else alike for key in keys}
            differing = [k for k in keys if not all(same(f, folder, k) for f in among[k])]
            values = ((key.removeprefix("data/"), folder.constants.get(key)) for key in differing)
            more += [f"{key}={'null' if value is None else value}" for key, value in values]
            alike = [f for f in alike if all(same(f, folder, key) for key in differing)]
        if len(alike) > 1:
            more.append(str(folder.path))
        out.append(", ".join([name, *more]))
    return out


def planted(constants: Mapping[str, Any], metric: str) -> bool:
    """Whether a metric counts defects that were painted on good images."""
    return "pixel" in metric and "planted" in str(constants.get("pixel_truth"))


def sd(values: np.ndarray) -> float:
    """Standard deviation over seeds (n − 1); NaN for one seed."""
    return float(values.std(ddof=1)) if len(values) > 1 else np.nan


def mean_and_sd(values: Sequence[float | None], digits: int) -> str:
    """ "0.9500 ±0.0040", standard deviation n − 1; says over how many where some are undefined."""
    known = [value for value in values if value is not None and not np.isnan(value)]
    if not known:
        return MISSING
    text = f"{np.mean(known):.{digits}f}"
    sd = f"{np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else "0"
    if float(sd):  # a deterministic method has no spread but rounding
        text += f" ±{sd}"
    return text if len(known) == len(values) else f"{text} ({len(known)} of {len(values)})"


def same(a: SweepFolder, b: SweepFolder, key: str) -> bool:
    return str(a.constants.get(key)) == str(b.constants.get(key))


def _shared(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the keys and values that all of `rows` share."""
    return {
        key: value
        for key, value in rows[0].items()
        if all(key in row and row[key] == value for row in rows)
    }


def _read_sweep(file: Path) -> Iterator[SweepFolder]:
    rows: dict[str, dict[str, Any]] = {}
    typed: set[str] = set()
    if file.name == "rows.json":
        rows = {f"{file}, row {n}": row for n, row in enumerate(read_results(file), 1)}
    else:
        # An ablation among the jobs ("3/jl/100/0") is read from its own folder.
        jobs = [j for j in collect(file.parent) if j.results and j.name == j.folder]
        for job in jobs:
            where = str(file.parent / job.name / "metrics.json")
            # What a run found outranks what was typed: data=mvtec is mvtec/screw there.
            rows[where] = as_ablation({**job.overrides, **job.results})
        typed = {key for job in jobs for key in job.overrides}
    keys = sorted({"data", "backbone", *SETTINGS, *typed})
    apart = [key for key in keys if not INCIDENTAL.match(key)]
    groups: dict[str, dict[str, tuple[Row, dict[str, Any]]]] = {}
    for where, row in rows.items():
        require(row, where, {"proj": str, "dim": int, "seed": int})
        measured = {key: value for key, value in row.items() if MEASURED.match(key)}
        found = Row(row["proj"], row["dim"], row["seed"], measured, Path(where).parent)
        group = groups.setdefault(str([row.get(key) for key in apart]), {})
        # Twice is the same again, as identity for another D that it does not have.
        group[found.key] = found, row
    for group in groups.values():
        configurations, contents = zip(*group.values(), strict=True)
        constants = {k: v for k, v in _shared(contents).items() if not INCIDENTAL.match(k)}
        if len({row.get("data/split_seed") for row in contents}) > 1:
            constants["split_seed"] = OWN_SPLIT
        where, command = file.parent, typed_command(file.parent)
        yield SweepFolder(where, configurations, constants, command, tuple(sorted(typed)))


def as_ablation(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fit's row as an ablation would write it."""
    row = dict(row) | {key: row.get(f"data/{key}") for key in _OF_DATA}
    # None as an ablation has it: a fit writes what that comes to at its D.
    usual, dim = _SHRINKAGE.get(str(row.get("density"))), row.get("dim")
    usual = None if "density.shrinkage" in row else usual  # it was typed
    if usual and isinstance(dim, int) and row.get("density/shrinkage") == usual * dim:
        row["density/shrinkage"] = None
    if isinstance(grid := row.get("grid"), list):
        row["grid"] = "x".join(map(str, grid))
    # Each fit of a multirun draws its own, by its seed.
    row["weights"] = re.sub(r"^random \(seed \d+\)$", "random", str(row.get("weights")))
    return row
