"""mode=ablation: projections × dimensions × seeds from one pass over the images."""

import hashlib
import io
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from padim_lit.cli.build import (
    make_ablation,
    make_data,
    make_trainer,
    preprocessing,
    require_regular,
)
from padim_lit.cli.instantiate import instantiate
from padim_lit.cli.messages import one_line, require_known_keys
from padim_lit.data import AnomalyData
from padim_lit.errors import InputError
from padim_lit.model.anomaly_map import AnomalyMap, require_image_score
from padim_lit.model.backbone import Backbone
from padim_lit.model.grid import resolve_grid
from padim_lit.model.projection import PROJECTIONS, Projection, require_seed
from padim_lit.sweep.ablation import ProjectionRun, Sweep
from padim_lit.sweep.job_table import as_job, print_sweep_table
from padim_lit.sweep.jobs import describe
from padim_lit.sweep.run_store import RunResult, RunStore
from padim_lit.system.atomic import write_bytes, write_csv, write_json
from padim_lit.system.console import progress
from padim_lit.system.versions import device_name, versions

log = logging.getLogger(__name__)


#: Of one head, which do not take the others with it; an own projection may not nest.
FAILURES = (InputError, MemoryError, torch.OutOfMemoryError, NotImplementedError)


@torch.inference_mode()
def run(config: DictConfig, folder: Path) -> None:
    """Compare projections, dimensions and seeds in one pass, and write sweep.csv into `folder`.

    Heads that are finished in `folder` already, with the same settings and images, are not run
    again; a head that fails does not take the others with it.

    Raises:
        InputError: a config, file or image that cannot be used; or a head that failed, after
            everything that could be written has been.
    """
    require_known_keys(config)
    sweep = Sweep(config.projs or [], config.dims or [], config.seeds or [])
    require_seed(config.seed)
    trainer = make_trainer(config, None)
    if config.ckpt or trainer.world_size > 1 or trainer.precision != "32-true":
        raise InputError(
            "an ablation fits everything anew on one device in 32-true: leave out ckpt, "
            "trainer.devices and trainer.precision"
        )
    if (config.logger.get("_target_") or "csv.CSVLogger").rpartition(".")[2] != "CSVLogger":
        raise InputError("an ablation writes sweep.csv and scores.csv, to no logger: leave it out")
    if config.resamples < 0:
        raise InputError(f"resamples={config.resamples}: must be 0 (no intervals) or more")
    data = make_data(config)
    require_regular(config.eps, max(sweep.dims), data)
    AnomalyMap((1, 1), data.image_shape, config.sigma)  # refuses a σ before the backbone runs
    require_image_score(config.image_score)
    backbone = instantiate(config.backbone, seed=config.seed)
    device = trainer.strategy.root_device

    heads = sweep.heads(backbone.embedding_dim)
    store = RunStore(folder, _fingerprint(config, data, backbone))
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
        found, errors = _run_heads(config, data, backbone.to(device), drawn, store, folder)
        done, failed = done | found, failed | errors
    if not done:
        raise InputError(_failures(failed))
    constants = _constants(config, data, backbone, device)
    results = [_for_all_seeds(done[head], head, sweep) for head in heads if head in done]
    _write([copy for copies in results for copy in copies], constants, data, folder)
    if failed:
        raise InputError(_failures(failed))


def _run_heads(
    config: DictConfig,
    data: AnomalyData,
    backbone: Backbone,
    drawn: dict[ProjectionRun, Projection],
    store: RunStore,
    folder: Path,
) -> tuple[dict[ProjectionRun, RunResult], dict[ProjectionRun, str]]:
    """Results of the heads that ran, each kept as soon as it is there, and why others failed."""
    ablation = make_ablation(config, data, backbone, folder, config.resamples)
    done, failed = {}, {}
    try:
        how = ablation.plan(max(p.dim for p in drawn.values()), config.max_memory_gb)
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


def _fingerprint(config: DictConfig, data: AnomalyData, backbone: Backbone) -> str:
    """A name for all that heads depend on: settings, version, images and weights."""
    settings = describe(config, without=("projs", "dims", "seeds"))
    images = []
    for item in (*data.train_items, *data.test_items):
        file = item.path.stat()
        images.append([str(item.path), file.st_size, file.st_mtime_ns, item.kind])
    content = json.dumps([settings, images, backbone.source_sha256])
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _constants(
    config: DictConfig, data: AnomalyData, backbone: Backbone, device: torch.device
) -> dict[str, Any]:
    """What the configurations share: data, weights, settings, device, versions."""
    grid = resolve_grid(backbone.grids(data.image_shape), config.grid)
    counts = ("train_images", "test_good", "test_defective", "test_planted", "pixel_truth")
    return {
        "data": data.name,
        "split_seed": data.provenance.get("split_seed"),
        **{key: data.provenance.get(key) for key in counts},
        "backbone": backbone.name,
        "weights": backbone.source,
        "embedding_dim": backbone.embedding_dim,
        "grid": "x".join(map(str, grid)),
        "eps": config.eps,
        "sigma": config.sigma,
        "image_score": config.image_score,
        **preprocessing(config),
        "device": device_name(device),
        **versions(),
    }


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
