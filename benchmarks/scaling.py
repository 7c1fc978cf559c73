"""How cost grows: fit, factoring, scoring and memory against N, D, P and batch, without a backbone.

    python -m benchmarks scaling                    # a table, with log-log slopes
    python -m benchmarks scaling --memory 200 2000 20000    # peak memory against N

The slope is of log(cost) on log(size) by least squares: 1 is linear, 2 quadratic. Embeddings are
random; each point is a median of `--repeats`.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks.rows import apart, asked_for, keep, parser_of, show
from padim_lit.model.gaussian import factorize, mahalanobis
from padim_lit.model.moments import init, update
from padim_lit.model.ridge import Ridge
from padim_lit.system.memory import keep_freed_memory, peak_bytes, readable, reset_peak

BASE = {"images": 64, "dim": 100, "positions": 784, "batch": 32}
AXES = {
    "images": [64, 128, 256, 512],
    "dim": [50, 100, 200, 400],
    "positions": [196, 784, 3136],
    "batch": [1, 4, 16, 64],
}
COSTS = ("fit", "factor", "score")
CPU = torch.device("cpu")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs="+", default=[], metavar="N")
    arguments = parser.parse_args()
    if asked_for(arguments, memory):
        return
    keep_freed_memory()
    peaks = [apart("scaling", arguments, images=count) for count in arguments.memory]
    for row in peaks:
        print(f"{row['images']:>6} images: peak {readable(row['peak_bytes'])}")
    points = []
    if not peaks:
        for axis, values in AXES.items():
            for size in ({**BASE, axis: value} for value in values):
                row = {"axis": axis, **size, **measure(**size, repeats=arguments.repeats)}
                points.append(row)
        title = "seconds; the last row of each axis is the log-log slope"
        show(("axis", "value", *COSTS), cells_of(points), title, width=100)
    keep(arguments.json, points=points, memory=peaks)


def measure(images: int, dim: int, positions: int, batch: int, repeats: int) -> dict[str, float]:
    """Seconds to fit `images`, to factor, and to score as many, in batches of `batch`."""
    x = torch.rand(batch, positions, dim)
    batches = math.ceil(images / batch)

    def fit() -> None:
        nonlocal state
        state = init(positions, dim)
        for _ in range(batches):
            state = update(state, x)

    def score() -> None:
        for _ in range(batches):
            mahalanobis(x, state.mean, factors)

    state = init(positions, dim)
    found = {name: [] for name in COSTS}
    with torch.inference_mode():
        for _ in range(repeats):
            found["fit"].append(clock(fit))
            found["factor"].append(clock(lambda: factorize(state, Ridge())))
            factors = factorize(state, Ridge())
            found["score"].append(clock(score))
    return {name: statistics.median(values) for name, values in found.items()}


def memory(row: argparse.Namespace) -> dict[str, int]:
    """Peak of a fit at D = 150 on 28×28 that sees `row.images` embeddings; its own process."""
    x = torch.rand(32, 784, 150)
    reset_peak(CPU)
    state = init(784, 150)
    with torch.inference_mode():
        for _ in range(math.ceil(row.images / len(x))):
            state = update(state, x)
        factorize(state, Ridge())
    return {"images": int(state.counts[0]), "peak_bytes": peak_bytes(CPU)}


def clock(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cells_of(points: list[dict]) -> Iterator[list[str]]:
    """An axis's points, then the least-squares slopes of log cost on log size."""
    for axis, values in AXES.items():
        rows = [row for row in points if row["axis"] == axis]
        for row in rows:
            yield [axis, str(row[axis]), *(f"{row[cost]:.3f}" for cost in COSTS)]
        costs = np.log([[row[cost] for cost in COSTS] for row in rows])
        yield [
            axis,
            "slope",
            *(f"{slope:.2f}" for slope in np.polyfit(np.log(values), costs, 1)[0]),
        ]


if __name__ == "__main__":
    main()
