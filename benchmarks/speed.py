"""Fit and score time over the backbone's forward pass alone, and peak memory.

    python -m benchmarks speed                      # both backbones, D = 100, 150 and 550
    python -m benchmarks speed --backbones wide_resnet50 --dims 150 --batch 1 --json out.json

Random weights and random images serve: time does not depend on them. The three things that are
compared (backbone, fit step, score step) take turns on the same batch, and medians are reported,
so that a busy machine slows all of them alike. Each row runs in a process of its own, so that its
peak memory is its own.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from padim_lit import JL, Backbone
from padim_lit.model.detector import Detector
from padim_lit.system.memory import keep_freed_memory, peak_bytes, readable, reset_peak

BACKBONES = {
    "efficientnet_lite0": {
        "model": "tf_efficientnet_lite0",
        "layers": [1, 2, 3],
        "feature_location": "expansion",
    },
    "wide_resnet50": {"model": "wide_resnet50_2.tv_in1k", "layers": [1, 2, 3]},
    "resnet50v2": {"model": "resnet50v2", "layers": [1, 2, 3]},
    "resnet18": {"model": "resnet18.tv_in1k", "layers": [1, 2, 3]},
}


def main() -> None:
    arguments = parse()
    if arguments.row:
        print(json.dumps(measure(**json.loads(arguments.row))))
        return
    rows = []
    for name in arguments.backbones:
        for dim in arguments.dims:
            row = {
                "backbone": name,
                "dim": dim,
                "batch": arguments.batch,
                "images": arguments.images,
                "side": arguments.side,
                "grid": arguments.grid,
                "repeats": arguments.repeats,
                "device": arguments.device,
            }
            print(f"{name}, D = {dim} ...", file=sys.stderr)
            out = subprocess.run(
                [sys.executable, __file__, "--row", json.dumps(row)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            rows.append(json.loads(out.stdout.splitlines()[-1]))
    report(rows)
    if arguments.json:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES)[:2], choices=BACKBONES)
    parser.add_argument("--dims", nargs="+", type=int, default=[100, 150, 550])
    parser.add_argument("--batch", type=int, default=32, help="as in conf/config.yaml")
    parser.add_argument("--images", type=int, default=320, help="N that share the factoring")
    parser.add_argument("--side", type=int, default=224, help="image side in pixels")
    parser.add_argument("--grid", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(
    backbone: str,
    dim: int,
    batch: int,
    images: int,
    side: int,
    grid: int | None,
    repeats: int,
    device: str,
) -> dict:
    """One row: seconds an image of backbone, fit and score, and the peak in bytes."""
    extractor = Backbone(**BACKBONES[backbone], weights="random")
    projection = JL(extractor.embedding_dim, dim)
    detector = Detector(extractor, projection, image_shape=(side, side), grid=grid).to(device)
    where = torch.device(device)
    x = torch.rand(batch, 3, side, side, device=where)
    keep_freed_memory()  # as run.py does
    with torch.inference_mode():
        reset_peak(where)
        detector.backbone(x)
        bare_peak = peak_bytes(where)
        state = detector.empty_state()

        def fit_step() -> None:
            nonlocal state
            state = detector.update_state(state, {"image": x})

        for _ in range(2):  # warm up, and fill the state
            fit_step()
        start = clock(where)
        detector.set_state(state)
        factor = clock(where) - start
        steps: dict[str, Callable] = {
            "backbone": lambda: detector.backbone(x),
            "fit": fit_step,
            "score": lambda: detector(x),
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        steps["score"]()
        for _ in range(repeats):
            for name, step in steps.items():
                start = clock(where)
                step()
                seconds[name].append((clock(where) - start) / batch)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    fit = median["fit"] + factor / images
    return {
        "backbone": backbone,
        "dim": dim,
        "batch": batch,
        "images": images,
        "grid": list(detector.map_grid),
        "device": device,
        "backbone_ms": 1e3 * median["backbone"],
        "fit_ms": 1e3 * fit,
        "score_ms": 1e3 * median["score"],
        "factor_s": factor,
        "fit_ratio": fit / median["backbone"],
        "score_ratio": median["score"] / median["backbone"],
        "state_bytes": detector.state_bytes,
        "peak_bytes": peak_bytes(where),
        "backbone_peak_bytes": bare_peak,
    }


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def report(rows: list[dict]) -> None:
    first = rows[0]
    table = Table(
        title=f"batch {first['batch']}, {first['device']}, {torch.get_num_threads()} threads; "
        f"factoring spread over {first['images']} images"
    )
    for column in (
        *("backbone", "D", "grid", "backbone ms", "fit ÷ backbone", "score ÷ backbone"),
        *("factoring s", "state", "peak"),
    ):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["backbone"],
            str(row["dim"]),
            "×".join(map(str, row["grid"])),
            f"{row['backbone_ms']:.1f}",
            f"{row['fit_ratio']:.2f}",
            f"{row['score_ratio']:.2f}",
            f"{row['factor_s']:.1f}",
            readable(row["state_bytes"]),
            readable(row["peak_bytes"]),
        )
    Console(width=128).print(table)


if __name__ == "__main__":
    main()
