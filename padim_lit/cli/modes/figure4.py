"""mode=figure4: the same test images under two or more projections, in one picture."""

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from padim_lit.cli.build import (
    device_of,
    facts,
    make_ablation,
    make_backbone,
    make_data,
    require_regular,
    require_sigma,
)
from padim_lit.cli.settings import Memory, OneDim, Projs, Scoring
from padim_lit.data.items import GOOD, Item, ItemDataset
from padim_lit.errors import InputError
from padim_lit.sweep.ablation import Ablation, ProjectionRun, Sweep
from padim_lit.sweep.one_pass import fit_and_score
from padim_lit.system.atomic import write_bytes, write_json
from padim_lit.system.console import MISSING, print_line, print_table
from padim_lit.visualization.figure4 import Example, Method, draw

METRICS = ("image_auroc", "pixel_auroc", "pixel_f1max", "pixel_threshold")


@dataclass
class Figure4(Memory, OneDim, Projs, Scoring):
    """The same test images under two to four projections, as a picture.

    Args:
        rows: of the picture
    """

    mode: str = "figure4"
    rows: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        Sweep(self.projs, [self.dim], [self.seed])  # refuses what is unknown or there twice
        if not 2 <= len(self.projs) <= 4:
            raise InputError(f"projs={self.projs}: give two to four, such as [subset,jl]")


@torch.inference_mode()
def run(settings: Figure4, folder: Path) -> None:
    """Fit every projection at one D and seed, and draw the same test images under each.

    Raises:
        InputError: a config, file or image that cannot be used; no pixel truth to draw.
    """
    device = device_of(settings.trainer)
    data = make_data(settings, settings.size)
    require_regular(settings.eps, settings.dim, data)
    require_sigma(settings.sigma, data)
    if not any(item.label and item.count_pixel for item in data.test_items):
        raise InputError(
            f"{data.name} has no test image with a known mask, so there is no truth to draw; "
            "choose data with masks"
        )
    backbone = make_backbone(settings).to(device)
    channels = backbone.embedding_dim
    dims = {proj: channels if proj == "identity" else settings.dim for proj in settings.projs}
    runs = [ProjectionRun(proj, settings.seed, (dims[proj],)) for proj in settings.projs]
    drawn = [run.draw(channels) for run in runs]
    ablation = make_ablation(settings, data, backbone, folder)
    try:
        methods, maps = [], []
        bands = ablation.plan(max(dims.values()), settings.max_memory_gb).bands
        chosen: list[int] = []
        for run, projection in zip(runs, drawn, strict=True):
            found, _ = fit_and_score(
                projection, run.dims, ablation.train, ablation.test, settings.eps, bands,
                ablation.device,
            )  # fmt: skip
            (distances,) = found.values()
            metrics, scores, _ = ablation.judge(distances)
            if metrics["pixel_auroc"] is None:
                raise InputError(f"experiment=figure4: {metrics['why']['pixel_auroc']}")
            metrics["pixel_f1max"] = _f1(ablation, distances, metrics["pixel_threshold"])
            # By the first method's scores, for all of them.
            chosen = chosen or choose(data.test_items, scores, settings.rows)
            values = {key: metrics[key] for key in METRICS}
            methods.append(Method(run.proj, run.dims[0], scores[chosen].tolist(), **values))
            maps.append(ablation.anomaly_map(distances[chosen].to(ablation.device)).cpu())
    finally:
        ablation.close()
    samples = ItemDataset(data.test_items, data.resize_crop)
    examples = [
        Example.of(samples[i], data.test_items[i], [m[row].numpy() for m in maps])
        for row, i in enumerate(chosen)
    ]
    notes = list(data.notes)
    if backbone.source.startswith("random"):
        notes.append("The backbone's weights are random: the maps say nothing about detection.")
    what = {
        **facts(settings, data, backbone, device),
        "seed": settings.seed,
        "chosen": f"per kind the median image score under {settings.projs[0]}, kinds in turn",
        "notes": notes,
    }
    figure, png = draw(examples, methods, what), io.BytesIO()
    figure.savefig(png, format="png", pil_kwargs={"compress_level": 6})
    path = write_bytes(folder / "figure4.png", png.getvalue())
    _print(methods, notes, path)
    # Last: with figure4.json the folder is complete.
    images = [
        {"path": str(data.test_items[i].path), "kind": data.test_items[i].kind} for i in chosen
    ]
    content = {**what, "methods": [m.as_dict() for m in methods], "images": images}
    write_json(folder / "figure4.json", content)


def choose(items: list[Item], scores: Tensor, count: int) -> list[int]:
    """Indices of `count` test images, none by hand: kinds of defects in turn, then a good one.

    Of a kind, the image with the median of `scores` (N,) comes first, then its neighbours in that
    order; only images with known pixel truth take part.
    """
    kinds: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        if item.count_pixel:
            kinds.setdefault(item.kind, []).append(index)
    queues = {}
    for kind, indices in sorted(kinds.items()):
        ranked = sorted(indices, key=lambda i: (float(scores[i]), i))
        middle = (len(ranked) - 1) / 2
        places = sorted(range(len(ranked)), key=lambda place: (abs(place - middle), place))
        queues[kind] = [ranked[place] for place in places]
    good = queues.pop(GOOD, [])[: 1 if count > 1 else 0]
    chosen: list[int] = []
    while len(chosen) < count - len(good) and any(queues.values()):
        for queue in queues.values():
            if queue and len(chosen) < count - len(good):
                chosen.append(queue.pop(0))
    order = {index: place for place, index in enumerate(chosen)}
    return sorted(chosen, key=lambda i: (items[i].kind, order[i])) + good


def _f1(ablation: Ablation, distances: Tensor, threshold: float) -> float:
    """F1 over all pixels whose truth is known, where the map reaches `threshold`."""
    hits = found = true = 0
    for index in ablation.truth.count_pixel.nonzero()[:, 0].split(64):
        over = ablation.anomaly_map(distances[index].to(ablation.device)).cpu() >= threshold
        mask = ablation.truth.mask[index]
        hits += int((over & mask).sum())
        found, true = found + int(over.sum()), true + int(mask.sum())
    return 2 * hits / (found + true)


def _print(methods: list[Method], notes: list[str], path: Path) -> None:
    console = Console()
    table = Table(title="Each projection at its best threshold for pixels", title_justify="left")
    for name in ("proj", "dim", *METRICS):
        table.add_column(name.replace("_", " "), justify="left" if name == "proj" else "right")
    for method in methods:
        values = [getattr(method, key) for key in METRICS]
        cells = [MISSING if value is None else f"{value:.4f}" for value in values]
        table.add_row(Text(method.proj), str(method.dim), *cells)
    print_table(table, console)
    for note in notes:
        print_line(f"Note: {note}", console)
    print_line(f"\nfigure  {path.resolve()}", console)
