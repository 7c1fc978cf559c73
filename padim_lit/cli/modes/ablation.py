"""mode=ablation: projections × dimensions × seeds from one pass over the images."""

import hashlib
import json
import logging
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from padim_lit.analysis.result_files import as_job
from padim_lit.cli import build, fit_notes
from padim_lit.cli.messages import one_line
from padim_lit.cli.settings import Comparing, Memory, Scoring
from padim_lit.data import AnomalyData
from padim_lit.errors import InputError
from padim_lit.model.backbone import Backbone
from padim_lit.sweep.ablation import ProjectionRun
from padim_lit.sweep.job_table import print_sweep_table
from padim_lit.sweep.jobs import describe
from padim_lit.sweep.run_store import RunResult, RunStore
from padim_lit.system import resource_errors
from padim_lit.system.atomic import file_bytes, write_bytes, write_csv, write_json
from padim_lit.system.console import print_facts, progress

log = logging.getLogger(__name__)


#: Errors of one run, after which the others go on: a user's projection may not nest, say.
RUN_FAILURES = (InputError, MemoryError, RuntimeError, *resource_errors.NOT_FACTORED)


@dataclass
class Ablation(Memory, Comparing, Scoring):
    """Every projection × dimension × seed from one pass over the images, as a table.

    Args:
        resamples: of the test images, for intervals of differences; 0: none
        paper_dims: D by a backbone's name, for dims that follow it (experiment=table1)
    """

    mode: str = "ablation"
    resamples: int = 1000
    paper_dims: dict[str, int] = field(default_factory=dict)


@torch.inference_mode()
def run(settings: Ablation, folder: Path) -> None:
    """Compare projections, dimensions and seeds in one pass, and write sweep.csv into `folder`.

    A run is one projection and seed. Runs that are finished in `folder` already, with the same
    settings and images, are not done again; one that fails does not take the others with it.

    Raises:
        InputError: a config, file or image that cannot be used; or a run that failed, after
            everything that could be written has been.
    """
    sweep = settings.sweep
    trainer = build.make_trainer(settings.trainer)
    if trainer.world_size > 1 or trainer.precision != "32-true":
        raise InputError(
            "an ablation fits everything anew on one device in 32-true: leave out "
            "trainer.devices and trainer.precision"
        )
    device = trainer.strategy.root_device
    data, backbone = build.make_compared(settings, max(sweep.dims), device)
    density = build.make_density(settings)(max(sweep.dims), 0)
    runs = sweep.runs(backbone.embedding_dim, density.seeded)
    store = RunStore(folder, _fingerprint(settings, backbone))
    if store.stale:
        for name in ("rows.json", "sweep.csv", "scores.csv", "scores.npz", "resamples.npz"):
            (folder / name).unlink(missing_ok=True)
        log.info("%s holds results of other settings or images; they are removed", folder)
    done = {run: found for run in runs if (found := store.load(run.name, run.dims))}
    if done:
        log.info("%d of %d runs are done already, in %s", len(done), len(runs), store.folder)
    left = [run for run in runs if run not in done]
    measured, failed = _measure(settings, data, backbone, left, store, folder)
    done |= measured
    if done:
        results = [copy for run in runs if run in done for copy in _for_all_seeds(done[run], run)]
        notes = fit_notes.on_eps(settings, (
            (run.proj, int(d), float(variance))
            for run, result in done.items() for d, variance in result.variances.items()
        ))  # fmt: skip
        _write(results, build.facts(settings, data, backbone), data, notes, folder)
    if failed:
        reasons: dict[str, list[str]] = {}
        for run, reason in failed.items():
            reasons.setdefault(reason, []).append(str(run))
        listed = "; ".join(f"{', '.join(which)}: {reason}" for reason, which in reasons.items())
        bad, every = (sum(len(run.dims) for run in some) for some in (failed, runs))
        raise InputError(f"{bad} of {every} configurations failed; {listed}")


def _measure(
    settings: Ablation,
    data: AnomalyData,
    backbone: Backbone,
    runs: list[ProjectionRun],
    store: RunStore,
    folder: Path,
) -> tuple[dict[ProjectionRun, RunResult], dict[ProjectionRun, str]]:
    """Return each run's results, which are kept as soon as they exist, and why others failed."""
    done, failed, drawn = {}, {}, {}
    for run in runs:
        try:
            drawn[run] = run.draw(backbone.embedding_dim)
        except InputError as error:
            failed[run] = one_line(error)
    if not drawn:
        return done, failed
    made = build.make_ablation(settings, data, backbone, folder, settings.resamples)
    with closing(made) as ablation:
        how = ablation.plan(max(p.dim for p in drawn.values()), settings.max_memory_gb)
        configurations = sum(len(run.dims) for run in drawn)
        log.info("%s; %s", data.name, how.describe(len(drawn), configurations))
        with progress() as bar:
            for run, projection in bar.track(drawn.items(), description="projections and seeds"):
                try:
                    done[run] = ablation.measure(run, projection, how.bands)
                except RUN_FAILURES as error:
                    told = resource_errors.error_line(error)
                    known = isinstance(error, InputError | NotImplementedError)
                    if told is None and not known:  # no fault of this run's alone
                        raise
                    failed[run] = told or one_line(error)
                    log.error("%s failed: %s", run, failed[run])
                else:
                    store.save(run.name, done[run])
    return done, failed


def _fingerprint(settings: Ablation, backbone: Backbone) -> str:
    """Return a name for all that runs depend on: settings, version, own code, images, weights."""
    content = build.content_of(settings)
    keys = describe(asdict(settings), ("projs", "dims", "seeds", "proj", "own"), content)
    text = json.dumps([keys, backbone.source_sha256])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _for_all_seeds(result: RunResult, run: ProjectionRun) -> list[RunResult]:
    """Repeat `result` for each seed that would give the same, so that seeds pair."""
    found = []
    for seed in run.seeds:
        scores, resamples = (
            {f"{name.rpartition('-')[0]}-{seed}": array for name, array in arrays.items()}
            for arrays in (result.scores, result.resamples)
        )
        rows = [{**row, "seed": seed} for row in result.rows]
        found.append(RunResult(rows, scores, resamples))
    return found


def _write(
    results: list[RunResult],
    constants: dict[str, Any],
    data: AnomalyData,
    notes: list[str],
    folder: Path,
) -> None:
    rows = [{**row, **constants, **row} for result in results for row in result.rows]
    path = write_csv(folder / "sweep.csv", list(rows[0]), rows)
    items = data.test_items
    scores = {
        "path": np.array([str(item.path) for item in items]),
        "kind": np.array([item.kind for item in items]),
        "label": np.array([item.label for item in items]),
        "count_image": np.array([item.count_image for item in items], bool),
    }
    scores |= {name: score for result in results for name, score in result.scores.items()}
    resamples = {name: found for result in results for name, found in result.resamples.items()}
    for name, arrays in (("scores.npz", scores), ("resamples.npz", resamples)):
        if arrays:
            write_bytes(folder / name, file_bytes(np.savez_compressed, **arrays))
    columns = {**scores, "count_image": scores["count_image"].astype(int)}
    lines = zip(*(array.tolist() for array in columns.values()), strict=True)
    images = [dict(zip(columns, line, strict=True)) for line in lines]
    write_csv(folder / "scores.csv", list(columns), images)
    print_sweep_table([as_job(row, "", {}) for row in rows])
    print_facts(
        *(("note", note) for note in build.notes_on(data, constants["weights"]) + notes),
        ("sweep", path),
        ("scores", path.with_name("scores.csv")),
    )
    # Last, and typed: what a multirun over several datasets gathers.
    write_json(folder / "rows.json", rows)
