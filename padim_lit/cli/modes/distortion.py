"""mode=distortion: how far projections keep lengths and distances of real embeddings."""

from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader

from padim_lit.cli.build import make_data, make_trainer, preprocessing, require_regular
from padim_lit.cli.instantiate import instantiate
from padim_lit.cli.messages import require_known_keys
from padim_lit.errors import InputError
from padim_lit.model.backbone import Backbone
from padim_lit.model.embedding import embed
from padim_lit.model.grid import resolve_grid
from padim_lit.model.learned import evenly_spaced
from padim_lit.model.projection import PROJECTIONS, Identity, require_seed
from padim_lit.report.figures import distortion, files
from padim_lit.sweep.ablation import Sweep
from padim_lit.sweep.distortion import Patches, full_distances, measure
from padim_lit.system.atomic import write_bytes, write_csv, write_json
from padim_lit.system.console import progress
from padim_lit.system.versions import device_name, versions
from padim_lit.visualization.distortion import print_distortion


@torch.inference_mode()
def run(config: DictConfig, folder: Path) -> None:
    """Measure the distortion of every projection × dimension × seed, at a sample of positions.

    Raises:
        InputError: a config, file or image that cannot be used.
    """
    require_known_keys(config)
    sweep = Sweep(config.projs or [], config.dims or [], config.seeds or [])
    require_seed(config.seed)
    drawable = [name for name, kind in PROJECTIONS.items() if kind.drawn]
    for name in sweep.projs:
        if name not in drawable:
            raise InputError(
                f"projs: {name} is not drawn at random; allowed here: {', '.join(drawable)}"
            )
    if config.positions < 1:
        raise InputError(f"positions={config.positions}: must be at least 1")
    trainer = make_trainer(config, None)
    data = make_data(config)
    require_regular(config.eps, max(sweep.dims), data)
    backbone = instantiate(config.backbone, seed=config.seed)
    runs = sweep.runs(backbone.embedding_dim)
    drawn = [(run.draw(backbone.embedding_dim), list(run.dims)) for run in runs]
    device = trainer.strategy.root_device
    backbone = backbone.to(device)
    grid = resolve_grid(backbone.grids(data.image_shape), config.grid)
    places = evenly_spaced(grid[0] * grid[1], config.positions)
    with progress() as bar:
        parts = [
            _collect(backbone, bar.track(loader, description=f"backbone, {name}"), grid, places)
            for name, loader in (
                ("training images", data.train_dataloader()),
                ("test images", data.test_dataloader()),
            )
        ]
        patches = Patches(*parts)
        full = full_distances(patches, config.eps)
        rows = [
            row
            for projection, dims in bar.track(drawn, description="projections")
            for row in measure(projection, dims, patches, full, config.eps)
        ]
    columns = [*rows[0], "spearman"]
    paths = [write_csv(folder / "distortion.csv", columns, rows)]
    title = f"{data.name}, {backbone.name}, {len(places)} positions"
    pictures = files("distortion", lambda: distortion([{"label": title, "rows": rows}]))
    paths += [write_bytes(folder / name, picture) for name, picture in pictures.items()]
    print_distortion(rows)
    for path in paths:
        print(path.resolve())
    what = {
        "data": data.name,
        "split_seed": data.provenance.get("split_seed"),
        "train_images": len(data.train_items),
        "test_images": len(data.test_items),
        "backbone": backbone.name,
        "weights": backbone.source,
        "embedding_dim": backbone.embedding_dim,
        "grid": "x".join(map(str, grid)),
        "positions": len(places),
        "eps": config.eps,
        **preprocessing(config),
        "device": device_name(device),
        **versions(),
    }
    # Last: with distortion.json the folder is complete.
    write_json(folder / "distortion.json", {**what, "rows": rows})


def _collect(
    backbone: Backbone, loader: DataLoader, grid: tuple[int, int], places: list[int]
) -> Tensor:
    """(N,P,C) at the chosen places, on the CPU."""
    every = Identity(backbone.embedding_dim).to(backbone.pixel_mean.device)
    kept = []
    for batch in loader:
        features = backbone(batch["image"].to(backbone.pixel_mean.device))
        for part in zip(*(layer.split(8) for layer in features), strict=True):
            kept.append(embed(part, every, grid)[:, places].cpu())
    return torch.cat(kept)
