"""mode=ablation: projections × dimensions × seeds from one pass over the images."""

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig

from padim_lit.ablation import Ablation, Sweep, progress
from padim_lit.anomaly_map import AnomalyMap, require_image_score
from padim_lit.build import (
    device_name,
    instantiate,
    make_data,
    make_trainer,
    preprocessing,
    require_regular,
    versions,
)
from padim_lit.config import require_known_keys
from padim_lit.errors import InputError
from padim_lit.projection import require_seed
from padim_lit.report.atomic import write_csv, write_json
from padim_lit.report.sweep import as_job, print_sweep_table

log = logging.getLogger(__name__)


@torch.inference_mode()
def run(config: DictConfig, folder: Path) -> None:
    """Compare projections, dimensions and seeds in one pass, and write sweep.csv into `folder`.

    Raises:
        InputError: a config, file or image that cannot be used.
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
    data = make_data(config)
    require_regular(config.eps, max(sweep.dims), data)
    AnomalyMap((1, 1), data.image_shape, config.sigma)  # refuses a σ before the backbone runs
    require_image_score(config.image_score)
    backbone = instantiate(config.backbone, seed=config.seed)
    heads = sweep.heads(backbone.embedding_dim)
    device = trainer.strategy.root_device
    ablation = Ablation(
        backbone.to(device),
        data.image_shape,
        data.train_dataloader(),
        data.test_dataloader(),
        (len(data.train_items), len(data.test_items)),
        folder,
        config.grid,
        config.eps,
        config.sigma,
        config.image_score,
    )
    try:
        rows, scores = [], {}
        largest = max(projection.dim for projection, _ in heads)
        how = ablation.plan(largest, config.max_memory_gb)
        log.info("%s; %s", data.name, how.describe(len(heads), sweep.dims))
        shared = {
            "data": data.name,
            "split_seed": data.record.get("split_seed"),
            "backbone": backbone.name,
            "weights": backbone.source,
            "embedding_dim": backbone.embedding_dim,
            "grid": "x".join(map(str, ablation.grid)),
            "eps": config.eps,
            "image_score": config.image_score,
            **preprocessing(config),
            "backbone/seconds": ablation.backbone_seconds,
            "device": device_name(device),
            **versions(),
        }
        with progress() as bar:
            task = bar.add_task("heads", total=len(heads) * len(how.bands))
            for projection, dims in heads:
                found, new = ablation.rows(
                    projection, dims, how.bands, advance=lambda: bar.advance(task)
                )
                rows += [{**row, **shared} for row in found]
                scores |= new
    finally:
        ablation.close()
    path = write_csv(folder / "sweep.csv", list(rows[0]), rows)
    truth = {"path": ablation.truth.path, "label": ablation.truth.label.tolist()}
    columns = truth | {name: score.tolist() for name, score in scores.items()}
    images = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    write_csv(folder / "scores.csv", list(columns), images)
    print_sweep_table([as_job(row, "", {}) for row in rows])
    for note in data.notes:
        print(f"Note: {note}")
    print(f"\nsweep   {path.resolve()}\nscores  {path.with_name('scores.csv').resolve()}")
    # Last, and typed: what a multirun over several datasets gathers.
    write_json(folder / "rows.json", rows)
