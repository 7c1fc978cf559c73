"""Fit and score time over the backbone's forward pass alone, and peak memory.

    python -m benchmarks speed                      # both backbones, D = 100, 150 and 550
    python -m benchmarks speed --backbones wide_resnet50 --dims 150 --batch 1 --json out.json
    python -m benchmarks speed --density both --components 256 --neighbourhood 3 --dims 100 \
        --batch 1 --grid 28 --backbones efficientnet_lite0_blocks resnet50v2 \
        --weights pretrained --source DIR

Random weights and random images serve: time does not depend on them, except with a mixture, whose
search ends sooner the more alike the images are: give it `--source`. What is compared (the backbone
as timm runs it up to the last layer that is read, whole as timm makes it, and as ours, fit step,
score step) takes turns on the same batch, and medians are reported, so that a busy machine slows
all of them alike. Each row runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.bare import as_timm_makes_it, as_timm_runs_it
from benchmarks.rows import apart, asked_for, keep, parser_of, show
from padim_lit import JL, Backbone
from padim_lit.data.files import find_images
from padim_lit.data.items import Item, ItemDataset
from padim_lit.data.transform import ResizeCrop
from padim_lit.model.density import DENSITIES
from padim_lit.model.detector import Detector
from padim_lit.model.projection_cache import ProjectionCache
from padim_lit.model.warm_up import evenly_spaced, learn
from padim_lit.system.clock import clock
from padim_lit.system.memory import keep_freed_memory, peak_bytes, readable, reset_peak

LITE0 = "tf_efficientnet_lite0"
BACKBONES: dict[str, dict[str, Any]] = {
    "efficientnet_lite0": {"model": LITE0, "feature_location": "expansion"},
    "efficientnet_lite0_blocks": {"model": LITE0, "feature_location": "bottleneck"},
    "wide_resnet50": {"model": "wide_resnet50_2.tv_in1k"},
    "resnet50": {"model": "resnet50.tv_in1k"},
    "resnet50v2": {"model": "resnet50v2"},
    "resnet18": {"model": "resnet18.tv_in1k"},
}
# Good images that the state is made of before anything is timed; a mixture's centroids too.
FITTED = 100
# How often what is learnt before the fit is learnt.
LEARNT = 3


def main() -> None:
    arguments = parse()
    if asked_for(arguments, measure):
        return
    rows = []
    for name in arguments.backbones:
        for dim in arguments.dims:
            print(f"{name}, D = {dim} ...", file=sys.stderr)
            rows.append(apart("speed", arguments, backbone=name, dim=dim))
    report(rows)
    keep(arguments.json, arguments.device, rows=rows)


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__)
    both = ["efficientnet_lite0", "wide_resnet50"]
    parser.add_argument("--backbones", nargs="+", default=both, choices=BACKBONES)
    parser.add_argument("--dims", nargs="+", type=int, default=[100, 150, 550])
    parser.add_argument("--batch", type=int, default=32, help="as in conf/config.yaml")
    parser.add_argument("--images", type=int, default=320, help="N: what a fit does once, over N")
    parser.add_argument("--side", type=int, default=224, help="image side in pixels")
    parser.add_argument("--grid", type=int, default=None)
    parser.add_argument("--density", default="position", choices=DENSITIES)
    parser.add_argument("--components", type=int, default=256, help="K of the mixture")
    parser.add_argument("--neighbourhood", type=int, default=1)
    parser.add_argument("--weights", default="random", help="or pretrained, or a file")
    parser.add_argument("--source", help="folder of good images")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def measure(row: argparse.Namespace) -> dict[str, Any]:
    """Seconds an image of backbone, fit and score, and the peak in bytes."""
    extractor = Backbone(**BACKBONES[row.backbone], layers=[1, 2, 3], weights=row.weights)
    projection = JL(extractor.embedding_dim, row.dim)
    options = {} if row.density == "position" else {"components": row.components}
    density, where = DENSITIES[row.density](row.dim, **options), torch.device(row.device)
    how = {"grid": row.grid, "neighbourhood": row.neighbourhood}
    detector = Detector(extractor, projection, (row.side, row.side), density, **how).to(where)
    alone, whole = as_timm_runs_it(detector.backbone), as_timm_makes_it(detector.backbone)
    fitted, x = pictures(row.source, row.side, FITTED + row.batch).to(where).tensor_split([FITTED])
    keep_freed_memory()  # as run.py does
    with torch.inference_mode():
        reset_peak(where)
        alone(x)
        bare_peak = peak_bytes(where)
        # What is looked at before the fit is not computed again in it, as in `PaDiM`.
        looked_at = detector.density.fit_images
        first, others = fitted.tensor_split([looked_at])
        learnings = []
        for _ in range(LEARNT):
            detector.reset()
            detector.cache, start = ProjectionCache.for_fit(where), clock(where)
            detector.cache.keep_next(looked_at)
            learn(detector, lambda _: in_batches(first, 8))
            detector.cache.keep_next(0)
            state = detector.empty_state()
            for part in in_batches(first, row.batch):
                state = detector.update_state(state, part)
            learnings.append(clock(where) - start)
        learning = statistics.median(learnings)
        for part in in_batches(others, row.batch):
            state = detector.update_state(state, part)

        def fit_step() -> None:
            nonlocal state
            state = detector.update_state(state, {"image": x})

        start = clock(where)
        detector.set_state(state)
        factor = clock(where) - start
        steps: dict[str, Callable] = {
            "backbone": lambda: alone(x),
            "whole": lambda: whole(x),
            "ours": lambda: detector.backbone(x),
            "fit": fit_step,
            "score": lambda: detector(x),
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        steps["score"]()
        for _ in range(row.repeats):
            for name, step in steps.items():
                start = clock(where)
                step()
                seconds[name].append((clock(where) - start) / row.batch)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    fit = (median["fit"] * max(0, row.images - looked_at) + learning + factor) / row.images
    return {
        **vars(row),
        "grid": list(detector.map_grid),
        "weights": extractor.source,
        "backbone_ms": 1e3 * median["backbone"],
        "whole_ratio": median["whole"] / median["backbone"],
        "ours_ratio": median["ours"] / median["backbone"],
        "fit_ms": 1e3 * fit,
        "score_ms": 1e3 * median["score"],
        "learning_s": learning,
        "factor_s": factor,
        "fit_ratio": fit / median["backbone"],
        "score_ratio": median["score"] / median["backbone"],
        "state_bytes": detector.state_bytes,
        "peak_bytes": peak_bytes(where),
        "backbone_peak_bytes": bare_peak,
    }


def in_batches(images: torch.Tensor, batch: int) -> list[dict[str, torch.Tensor]]:
    return [{"image": part} for part in images.split(batch) if len(part)]


def pictures(source: str | None, side: int, count: int) -> torch.Tensor:
    """(N,3,h,w) in [0, 1]: of a folder, evenly spread, again from its first on where it ends."""
    if source is None:
        return torch.rand(count, 3, side, side)
    files = find_images(source)
    chosen = [files[i] for i in evenly_spaced(len(files), count)]
    seen = ItemDataset([Item(path) for path in chosen], ResizeCrop(side, None))
    return torch.stack([seen[i % len(seen)]["image"] for i in range(count)])


def report(rows: list[dict]) -> None:
    first = rows[0]
    columns = (
        "backbone",
        "D",
        "grid",
        "backbone ms",
        "whole ÷",
        "ours ÷",
        "fit ÷",
        "score ÷",
        "factoring s",
        "state",
        "peak",
    )
    cells = [
        [
            row["backbone"],
            str(row["dim"]),
            "×".join(map(str, row["grid"])),
            f"{row['backbone_ms']:.1f}",
            *(f"{row[f'{what}_ratio']:.2f}" for what in ("whole", "ours", "fit", "score")),
            f"{row['factor_s']:.1f}",
            *(readable(row[what]) for what in ("state_bytes", "peak_bytes")),
        ]
        for row in rows
    ]
    title = (
        f"density={first['density']}, batch {first['batch']}, {first['device']}, "
        f"{torch.get_num_threads()} threads; factoring, learning over {first['images']} images"
    )
    show(columns, cells, title)


if __name__ == "__main__":
    main()
