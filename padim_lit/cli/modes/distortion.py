"""mode=distortion: how far projections keep lengths and distances of real embeddings."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from padim_lit.cli import build
from padim_lit.cli.settings import Comparing, Embedding
from padim_lit.errors import InputError
from padim_lit.model.backbone import Backbone
from padim_lit.model.embedding import embed
from padim_lit.model.grid import resolve_grid
from padim_lit.model.projection import PROJECTIONS, Identity
from padim_lit.model.ridge import Ridge
from padim_lit.model.warm_up import evenly_spaced
from padim_lit.report.figures import distortion, files
from padim_lit.sweep.ablation import Sweep
from padim_lit.sweep.distortion import full_distances, measure
from padim_lit.system.atomic import write_bytes, write_csv, write_json
from padim_lit.system.console import print_facts, progress
from padim_lit.visualization.distortion import print_distortion


@dataclass
class Distortion(Comparing, Embedding):
    """What projections do to lengths and to Mahalanobis distances of real embeddings.

    Args:
        positions: patch positions that are looked at, evenly spread over the grid
    """

    mode: str = "distortion"
    dims: list[int] = field(default_factory=lambda: [25, 50, 100, 150])
    positions: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        Sweep(self.projs, self.dims, self.seeds)
        drawable = [name for name, kind in PROJECTIONS.items() if kind.drawn]
        if other := [name for name in self.projs if name not in drawable]:
            raise InputError(
                f"projs: {other[0]} is not drawn at random; allowed here: {', '.join(drawable)}"
            )


@torch.inference_mode()
def run(settings: Distortion, folder: Path) -> None:
    """Measure the distortion of every projection × dimension × seed, at a sample of positions.

    Raises:
        InputError: a config, file or image that cannot be used.
    """
    sweep = Sweep(settings.projs, settings.dims, settings.seeds)
    device = build.device_of(settings.trainer)
    data = build.make_data(settings, settings.size)
    build.require_regular(settings, max(sweep.dims), data)
    backbone = build.make_backbone(settings)
    runs = sweep.runs(backbone.embedding_dim)
    drawn = [(run.draw(backbone.embedding_dim), list(run.dims)) for run in runs]
    backbone = backbone.to(device)
    grid = resolve_grid(backbone.grids(data.image_shape), settings.grid)
    (folder / "distortion.json").unlink(missing_ok=True)  # an earlier run's, were this interrupted
    chosen = evenly_spaced(grid[0] * grid[1], settings.positions)
    with progress() as bar:
        train = bar.track(data.train_dataloader(), description="backbone, training images")
        test = bar.track(data.test_dataloader(), description="backbone, test images")
        patches = [_collect(backbone, images, grid, chosen) for images in (train, test)]
        ridge = Ridge(settings.eps, settings.eps_unit)
        full = full_distances(*patches, ridge)
        rows = [
            row
            for run in bar.track(drawn, description="projections")
            for row in measure(*run, patches, full, ridge)
        ]
    paths = [write_csv(folder / "distortion.csv", [*rows[0], "spearman"], rows)]
    title = f"{data.name}, {backbone.name}, {len(chosen)} positions"
    pictures = files("distortion", lambda: distortion([{"label": title, "rows": rows}]))
    paths += [write_bytes(folder / name, picture) for name, picture in pictures.items()]
    print_distortion(rows)
    notes = build.notes_on(data, backbone.source, "distances")
    print_facts(*(("note", note) for note in notes), *(("written", path) for path in paths))
    about = build.facts(settings, data, backbone, device)
    counts = {"test_images": len(data.test_items), "positions": len(chosen)}
    # Last: with distortion.json the folder is complete.
    write_json(folder / "distortion.json", {**about, **counts, "rows": rows})


def _collect(
    backbone: Backbone, loader: DataLoader, grid: tuple[int, int], chosen: list[int]
) -> Tensor:
    """(N,P,C) at the chosen positions, on the CPU."""
    every = Identity(backbone.embedding_dim).to(backbone.pixel_mean.device)
    kept = []
    for batch in loader:
        features = backbone(batch["image"].to(backbone.pixel_mean.device))
        for part in zip(*(layer.split(8) for layer in features), strict=True):
            kept.append(embed(part, every, grid)[:, chosen].cpu())
    return torch.cat(kept)
