"""mode=figure4 and distortion: what projections do to the same images, in a picture."""

from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from padim_lit.cli import build, fit_notes
from padim_lit.cli.settings import Comparing, Embedding, Memory, OneDim, Projs, Scoring
from padim_lit.data.items import GOOD, Item, ItemDataset
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
from padim_lit.visualization.figure4 import Example, Method, draw

METRICS = ("image_auroc", "pixel_auroc", "pixel_f1max", "pixel_f1max_threshold")


@dataclass
class Figure4(Memory, OneDim, Projs, Scoring):
    """The same test images under two to four projections, as a picture.

    Args:
        rows: rows of the picture
    """

    mode: str = "figure4"
    rows: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sweep = Sweep(self.projs, [self.dim], [self.seed])  # refuses strange ones
        if not 2 <= len(self.projs) <= 4:
            raise InputError(f"projs={self.projs}: give two to four, such as [subset,jl]")


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
        drawable = [name for name, kind in PROJECTIONS.items() if kind.drawn]
        if other := [name for name in self.projs if name not in drawable]:
            raise InputError(
                f"projs: {other[0]} is not drawn at random; allowed here: {', '.join(drawable)}"
            )


@torch.inference_mode()
def run_figure4(settings: Figure4, folder: Path) -> None:
    """Fit every projection at one D and seed, and draw the same test images under each.

    Raises:
        InputError: a config, file or image that cannot be used; no pixel truth to draw.
    """
    device = build.device_of(settings.trainer)
    data, backbone = build.make_compared(settings, settings.dim, device)
    if not any(item.label and item.count_pixel for item in data.test_items):
        raise InputError(
            f"{data.name} has no test image with a known mask, so there is no truth to draw; "
            "choose data with masks"
        )
    runs = settings.sweep.runs(backbone.embedding_dim)
    drawn = [run.draw(backbone.embedding_dim) for run in runs]
    (folder / "figure4.json").unlink(missing_ok=True)  # an earlier run's, were this one interrupted
    with closing(build.make_ablation(settings, data, backbone, folder)) as ablation:
        methods, maps, within = [], [], []
        bands = ablation.plan(max(p.dim for p in drawn), settings.max_memory_gb).bands
        chosen: list[int] = []
        for run, projection in zip(runs, drawn, strict=True):
            found, times = ablation.one_pass.score(projection, run.dims, bands)
            ((dim, distances),) = found.items()
            within.append((run.proj, dim, times.variance[dim]))
            metrics, scores, _ = ablation.judge(distances)
            if metrics["pixel_auroc"] is None:
                raise InputError(f"experiment=figure4: {metrics['why']['pixel_auroc']}")
            # By the first method's scores, for all of them.
            chosen = chosen or choose(data.test_items, scores, settings.rows)
            values = {key: metrics[key] for key in METRICS}
            methods.append(Method(run.proj, run.dims[0], scores[chosen].tolist(), **values))
            maps.append(ablation.anomaly_map(distances[chosen].to(ablation.device)).cpu())
    samples = ItemDataset(data.test_items, data.resize_crop)
    examples = [
        Example.of(samples[i], data.test_items[i], [m[row].numpy() for m in maps])
        for row, i in enumerate(chosen)
    ]
    notes = build.notes_on(data, backbone.source) + fit_notes.on_eps(settings, within)
    what = {
        **build.facts(settings, data, backbone),
        "seed": settings.seed,
        "chosen": f"per kind the median image score under {settings.projs[0]}, kinds in turn",
        "notes": notes,
    }
    path = write_bytes(folder / "figure4.png", draw(examples, methods, what))
    print_facts(*(("note", note) for note in notes), ("figure", path))
    # Last: with figure4.json the folder is complete.
    items = [data.test_items[i] for i in chosen]
    images = [{"path": str(item.path), "kind": item.kind} for item in items]
    content = {**what, "methods": [asdict(method) for method in methods], "images": images}
    write_json(folder / "figure4.json", content)


def choose(items: list[Item], scores: Tensor, count: int) -> list[int]:
    """Choose `count` test images by rule: one kind of defect after the other, then a good one.

    Of a kind, the image with the median of `scores` (N,) comes first, then its neighbours in that
    order; only images with known pixel truth take part.
    """
    kinds: dict[str, list[int]] = {}
    for index in scores.argsort(stable=True).tolist():
        if items[index].count_pixel:
            kinds.setdefault(items[index].kind, []).append(index)
    queues = {}
    for kind, ranked in sorted(kinds.items()):
        middle = (len(ranked) - 1) / 2
        outwards = sorted(range(len(ranked)), key=lambda place: abs(place - middle))
        queues[kind] = [ranked[place] for place in outwards]
    good = queues.pop(GOOD, [])[: count > 1]
    turns = [i for turn in zip_longest(*queues.values()) for i in turn if i is not None]
    # Sorting keeps the order within a kind.
    return sorted(turns[: count - len(good)], key=lambda i: items[i].kind) + good


@torch.inference_mode()
def run_distortion(settings: Distortion, folder: Path) -> None:
    """Measure the distortion of every projection × dimension × seed, at a sample of positions.

    Raises:
        InputError: a config, file or image that cannot be used.
    """
    sweep = settings.sweep
    device = build.device_of(settings.trainer)
    data, backbone = build.make_compared(settings, max(sweep.dims), device)
    runs = sweep.runs(backbone.embedding_dim)
    drawn = [(run.draw(backbone.embedding_dim), list(run.dims)) for run in runs]
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
    notes = build.notes_on(data, backbone.source) + fit_notes.on_eps(settings, (
        (projection.name, projection.dim, float((patches[0] @ projection.matrix.T).var(0).mean()))
        for projection, _ in drawn
    ))  # fmt: skip
    print_facts(*(("note", note) for note in notes), *(("written", path) for path in paths))
    about = build.facts(settings, data, backbone)
    counts = {"test_images": len(data.test_items), "positions": len(chosen)}
    # Last: with distortion.json the folder is complete.
    write_json(folder / "distortion.json", {**about, **counts, "rows": rows})


def _collect(
    backbone: Backbone, loader: DataLoader, grid: tuple[int, int], chosen: list[int]
) -> Tensor:
    """Return the embeddings (N,P,C) at the chosen positions, on the CPU."""
    every = Identity(backbone.embedding_dim).to(backbone.pixel_mean.device)
    kept = []
    for batch in loader:
        features = backbone(batch["image"].to(backbone.pixel_mean.device))
        for part in zip(*(layer.split(8) for layer in features), strict=True):
            kept.append(embed(part, every, grid)[:, chosen].cpu())
    return torch.cat(kept)
