"""mode=distortion: how far projections keep lengths and distances of real embeddings."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from padim_lit.cli.build import device_of, facts, make_backbone, make_data, require_regular
from padim_lit.cli.settings import Comparing, Embedding
from padim_lit.errors import InputError
from padim_lit.model.backbone import Backbone
from padim_lit.model.embedding import embed
from padim_lit.model.grid import resolve_grid
from padim_lit.model.learned import evenly_spaced
from padim_lit.model.projection import PROJECTIONS, Identity
from padim_lit.sweep.ablation import Sweep
from padim_lit.sweep.distortion import Patches, full_distances, measure
from padim_lit.system.atomic import write_bytes, write_csv, write_json
from padim_lit.system.console import print_table, progress

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # of Okabe and Ito
NAMES = {
    "norm": "‖Πx‖² / ‖x‖²",
    "pair": "‖Π(x−y)‖² / ‖x−y‖²",
    "distance": "M_D / M_C",
    "spearman": "rank correlation of M_D and M_C",
}


@dataclass
class Distortion(Comparing, Embedding):
    """What projections do to lengths and to Mahalanobis distances of real embeddings.

    Args:
        positions: patch positions that are looked at, evenly spread over the grid
    """

    mode: str = "distortion"
    dims: list[int] = field(default_factory=lambda: [25, 50, 100, 150, 200, 300, 400, 550])
    positions: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        Sweep(self.projs, self.dims, self.seeds)
        drawable = [name for name, kind in PROJECTIONS.items() if kind.drawn]
        for name in self.projs:
            if name not in drawable:
                raise InputError(
                    f"projs: {name} is not drawn at random; allowed here: {', '.join(drawable)}"
                )


@torch.inference_mode()
def run(settings: Distortion, folder: Path) -> None:
    """Measure the distortion of every projection × dimension × seed, at a sample of positions.

    Raises:
        InputError: a config, file or image that cannot be used.
    """
    sweep = Sweep(settings.projs, settings.dims, settings.seeds)
    device = device_of(settings.trainer)
    data = make_data(settings, settings.size)
    require_regular(settings.eps, max(sweep.dims), data)
    backbone = make_backbone(settings)
    heads = sweep.heads(backbone.embedding_dim)
    drawn = [(head.draw(backbone.embedding_dim), list(head.dims)) for head in heads]
    backbone = backbone.to(device)
    grid = resolve_grid(backbone.grids(data.image_shape), settings.grid)
    places = evenly_spaced(grid[0] * grid[1], settings.positions)
    with progress() as bar:
        parts = [
            _collect(backbone, bar.track(loader, description=f"backbone, {name}"), grid, places)
            for name, loader in (
                ("training images", data.train_dataloader()),
                ("test images", data.test_dataloader()),
            )
        ]
        patches = Patches(*parts)
        full = full_distances(patches, settings.eps)
        rows = [
            row
            for projection, dims in bar.track(drawn, description="projections")
            for row in measure(projection, dims, patches, full, settings.eps)
        ]
    columns = [*rows[0], "spearman"]
    paths = [write_csv(folder / "distortion.csv", columns, rows)]
    title = f"{data.name}, {backbone.name}, {len(places)} positions"
    figure = _figure(rows, title)
    for suffix in ("png", "svg"):
        content = io.BytesIO()
        figure.savefig(content, format=suffix)
        paths.append(write_bytes(folder / f"distortion.{suffix}", content.getvalue()))
    _print(rows)
    for path in paths:
        print(path.resolve())
    what = {
        **facts(settings, data, backbone, device),
        "test_images": len(data.test_items),
        "positions": len(places),
    }
    # Last: with distortion.json the folder is complete.
    write_json(folder / "distortion.json", what)


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


def _means(rows: list[dict[str, Any]], quantity: str, key: str) -> dict[str, dict[int, float]]:
    """Mean over seeds of `key`, by projection and dimension."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row["quantity"] == quantity:
            found.setdefault(row["proj"], {}).setdefault(row["dim"], []).append(row[key])
    return {proj: {d: mean(v) for d, v in by.items()} for proj, by in found.items()}


def _figure(rows: list[dict[str, Any]], title: str) -> Figure:
    figure = Figure((13, 3.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 4)
    for axes, (quantity, name) in zip(panels, NAMES.items(), strict=True):
        source, key = ("distance", "spearman") if quantity == "spearman" else (quantity, "q50")
        middle = _means(rows, source, key)
        for (proj, by), colour in zip(middle.items(), COLOURS, strict=False):
            axes.plot(list(by), list(by.values()), color=colour, marker="o", ms=3, label=proj)
            if key == "q50":
                low, high = (_means(rows, source, q)[proj] for q in ("q05", "q95"))
                axes.fill_between(
                    list(by), list(low.values()), list(high.values()), color=colour, alpha=0.18
                )
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("D")
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=9)
    figure.suptitle(f"{title}: median, 5 % to 95 % of the patches, means over seeds", fontsize=10)
    return figure


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table(title="Medians (5 % to 95 %), means over seeds", title_justify="left")
    for name in ("proj", "D", NAMES["norm"], NAMES["pair"], NAMES["distance"], "rank corr."):
        table.add_column(name, justify="left" if name == "proj" else "right")
    spearman = _means(rows, "distance", "spearman")
    for proj, by in spearman.items():
        for dim in by:
            cells = []
            for quantity in ("norm", "pair", "distance"):
                low, middle, high = (
                    _means(rows, quantity, key)[proj][dim] for key in ("q05", "q50", "q95")
                )
                cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
            table.add_row(proj, str(dim), *cells, f"{by[dim]:.3f}")
    print_table(table, Console())
