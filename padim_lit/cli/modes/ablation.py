"""mode=ablation: projections × dimensions × seeds from one pass over the images."""

import hashlib
import io
import json
import logging
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from padim_lit.cli.build import (
    facts,
    make_ablation,
    make_backbone,
    make_data,
    make_trainer,
    require_regular,
    require_sigma,
)
from padim_lit.cli.messages import one_line
from padim_lit.cli.settings import Comparing, Memory, Scoring
from padim_lit.data import AnomalyData
from padim_lit.errors import InputError
from padim_lit.model.backbone import Backbone
from padim_lit.model.projection import PROJECTIONS, Projection
from padim_lit.sweep.ablation import ProjectionRun, Sweep
from padim_lit.sweep.job_table import as_job, print_sweep_table
from padim_lit.sweep.jobs import describe
from padim_lit.sweep.run_store import RunResult, RunStore
from padim_lit.system.atomic import write_bytes, write_csv, write_json
from padim_lit.system.console import progress

log = logging.getLogger(__name__)


#: Of one head, which do not take the others with it; an own projection may not nest.
FAILURES = (InputError, MemoryError, torch.OutOfMemoryError, NotImplementedError)


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

    def __post_init__(self) -> None:
        super().__post_init__()
        Sweep(self.projs, self.dims, self.seeds)  # refuses what is unknown or there twice


@torch.inference_mode()
def run(settings: Ablation, folder: Path) -> None:
    """Compare projections, dimensions and seeds in one pass, and write sweep.csv into `folder`.

    Heads that are finished in `folder` already, with the same settings and images, are not run
    again; a head that fails does not take the others with it.

    Raises:
        InputError: a config, file or image that cannot be used; or a head that failed, after
            everything that could be written has been.
    """
    sweep = Sweep(settings.projs, settings.dims, settings.seeds)
    trainer = make_trainer(settings.trainer)
    if trainer.world_size > 1 or trainer.precision != "32-true":
        raise InputError(
            "an ablation fits everything anew on one device in 32-true: leave out "
            "trainer.devices and trainer.precision"
        )
    data = make_data(settings, settings.size)
    require_regular(settings.eps, max(sweep.dims), data)
    require_sigma(settings.sigma, data)
    backbone = make_backbone(settings)
    device = trainer.strategy.root_device

    heads = sweep.heads(backbone.embedding_dim)
    store = RunStore(folder, _fingerprint(settings, data, backbone))
    if store.stale:
        log.info("%s holds heads of other settings or images; they are removed", folder)
    done = {head: found for head in heads if (found := store.load(head.name, head.dims))}
    if done:
        log.info("%d of %d heads are done already, in %s", len(done), len(heads), store.folder)
    drawn: dict[ProjectionRun, Projection] = {}
    failed: dict[ProjectionRun, str] = {}
    for head in heads:
        if head not in done:
            try:
                drawn[head] = head.draw(backbone.embedding_dim)
            except InputError as error:
                failed[head] = one_line(error)
    if drawn:
        found, errors = _run_heads(settings, data, backbone.to(device), drawn, store, folder)
        done, failed = done | found, failed | errors
    if not done:
        raise InputError(_failures(failed))
    constants = facts(settings, data, backbone, device)
    results = [_for_all_seeds(done[head], head, sweep) for head in heads if head in done]
    _write([copy for copies in results for copy in copies], constants, data, folder)
    if failed:
        raise InputError(_failures(failed))


def _run_heads(
    settings: Ablation,
    data: AnomalyData,
    backbone: Backbone,
    drawn: dict[ProjectionRun, Projection],
    store: RunStore,
    folder: Path,
) -> tuple[dict[ProjectionRun, RunResult], dict[ProjectionRun, str]]:
    """Results of the heads that ran, each kept as soon as it is there, and why others failed."""
    ablation = make_ablation(settings, data, backbone, folder, settings.resamples)
    done, failed = {}, {}
    try:
        how = ablation.plan(max(p.dim for p in drawn.values()), settings.max_memory_gb)
        log.info("%s; %s", data.name, how.describe(len(drawn), max(len(h.dims) for h in drawn)))
        with progress() as bar:
            task = bar.add_task("heads", total=len(drawn) * len(how.bands))

            def advance() -> None:
                bar.advance(task)

            for head, projection in drawn.items():
                try:
                    done[head] = ablation.run(head, projection, how.bands, advance)
                except FAILURES as error:
                    failed[head] = one_line(error)
                    log.error("%s failed: %s", head.name, failed[head])
                else:
                    store.save(head.name, done[head])
    finally:
        ablation.close()
    return done, failed


def _fingerprint(settings: Ablation, data: AnomalyData, backbone: Backbone) -> str:
    """A name for all that heads depend on: settings, version, images and weights."""
    settings = describe(asdict(settings), without=("projs", "dims", "seeds"))
    images = []
    for item in (*data.train_items, *data.test_items):
        file = item.path.stat()
        images.append([str(item.path), file.st_size, file.st_mtime_ns, item.kind])
    content = json.dumps([settings, images, backbone.source_sha256])
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _for_all_seeds(result: RunResult, head: ProjectionRun, sweep: Sweep) -> list[RunResult]:
    """`result`, repeated for every seed where none changes anything, so that seeds pair."""
    if PROJECTIONS[head.proj].seeded:
        return [result]

    def renamed(arrays: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
        return {f"{name.rpartition('-')[0]}-{seed}": array for name, array in arrays.items()}

    return [
        replace(
            result,
            rows=[{**row, "seed": seed} for row in result.rows],
            scores=renamed(result.scores, seed),
            resamples=renamed(result.resamples, seed),
        )
        for seed in sweep.seeds
    ]


def _write(
    results: list[RunResult], constants: dict[str, Any], data: AnomalyData, folder: Path
) -> None:
    rows = [{**row, **constants} for result in results for row in result.rows]
    path = write_csv(folder / "sweep.csv", list(rows[0]), rows)
    columns: dict[str, Any] = {
        "path": [str(item.path) for item in data.test_items],
        "kind": [item.kind for item in data.test_items],
        "label": [item.label for item in data.test_items],
        "count_image": [int(item.count_image) for item in data.test_items],
    }
    for result in results:
        columns |= {name: score.tolist() for name, score in result.scores.items()}
    images = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    write_csv(folder / "scores.csv", list(columns), images)
    resamples = {name: found for result in results for name, found in result.resamples.items()}
    if resamples:
        content = io.BytesIO()
        np.savez_compressed(content, **resamples)
        write_bytes(folder / "resamples.npz", content.getvalue())
    print_sweep_table([as_job(row, "", {}) for row in rows])
    for note in data.notes:
        print(f"Note: {note}")
    print(f"\nsweep   {path.resolve()}\nscores  {path.with_name('scores.csv').resolve()}")
    # Last, and typed: what a multirun over several datasets gathers.
    write_json(folder / "rows.json", rows)


def _failures(failed: dict[ProjectionRun, str]) -> str:
    reasons: dict[str, list[str]] = {}
    for head, reason in failed.items():
        reasons.setdefault(reason, []).append(head.name)
    listed = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    return f"{len(failed)} heads failed; {listed}"
