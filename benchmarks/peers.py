"""What a user would pick instead: ours beside naive PaDiM and anomalib, on the same images.

    python -m benchmarks peers                              # ResNet18 at D = 100
    python -m benchmarks peers --backbone wide_resnet50 --dim 550 --images 64 --json out.json

Each contestant runs in a process of its own, so that its peak memory is its own, and takes turns
there with the bare backbone (its forward pass and nothing else), so that a busy machine slows both
alike; medians and their ratio are reported. Weights and images are random: time does not depend on
them. anomalib is an extra that padim_lit does not install (pip install "anomalib>=2.7,<2.8"); its
row is left out where it is missing.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from benchmarks.bare import as_timm_runs_it
from benchmarks.naive import PAPER, Naive
from benchmarks.rows import apart, asked_for, keep, parser_of, show
from padim_lit import Backbone, Detector, PerPosition, Subset
from padim_lit.system.memory import keep_freed_memory, peak_bytes, readable, reset_peak

MODELS = {"resnet18": "resnet18.tv_in1k", "wide_resnet50": "wide_resnet50_2.tv_in1k"}
CONTESTANTS = {
    "ours": "padim_lit, grid 56×56",
    "ours-28": "padim_lit, grid 28×28 (default)",
    "naive": "naive PaDiM",
    "anomalib": "anomalib",
}
CPU = torch.device("cpu")


def main() -> None:
    arguments = parse()
    if asked_for(arguments, measure):
        return
    rows = []
    for name in arguments.contestants:
        if name == "anomalib" and importlib.util.find_spec("anomalib") is None:
            print("anomalib is not installed here: left out", file=sys.stderr)
            continue
        print(f"{CONTESTANTS[name]} ...", file=sys.stderr)
        try:
            rows.append(apart("peers", arguments, contestant=name))
        except subprocess.CalledProcessError as error:
            rows.append({"contestant": name, "failed": f"exit status {error.returncode}"})
    report(arguments, rows)
    keep(arguments.json, rows=rows)


def parse() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--backbone", default="resnet18", choices=MODELS)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--images", type=int, default=96, help="N of the fit")
    parser.add_argument("--batch", type=int, default=32, help="of the fit")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    return parser.parse_args()


class Ours:
    """Moments while the images pass, factors at the end."""

    def __init__(self, backbone: Backbone, projection: Subset, side: int, grid: int | str | None):
        density = PerPosition(projection.dim)
        self.detector = Detector(backbone, projection, (side, side), density, grid=grid, **PAPER)
        self.distances = self.detector.distances

    def start(self) -> None:
        self.state = self.detector.empty_state()

    def collect(self, images: Tensor) -> None:
        self.state = self.detector.update_state(self.state, {"image": images})

    def fit(self) -> None:
        self.detector.set_state(self.state)

    def score(self, images: Tensor) -> Tensor:
        return self.detector(images)[0]

    def state_bytes(self) -> int:
        return sum(band.nbytes for band in self.detector.whitening.bands)


class NaiveOnBackbone:
    """`Naive` with the same backbone, and a map as PaDiM's implementations draw it."""

    def __init__(self, backbone: Backbone, projection: Subset, side: int):
        self.backbone, self.side = backbone, side
        self.naive = Naive(projection.matrix.argmax(dim=1))
        self.fit = self.naive.fit

    def start(self) -> None:
        self.naive.bank = []

    def collect(self, images: Tensor) -> None:
        self.naive.collect(self.backbone(images))

    def score(self, images: Tensor) -> Tensor:
        distances = self.distances(images)
        grid = int(distances.shape[1] ** 0.5)
        maps = F.interpolate(distances.view(-1, 1, grid, grid), size=self.side, mode="bilinear")
        blurred = [gaussian_filter(one, sigma=4) for one in maps.squeeze(1).numpy()]
        return torch.tensor([float(one.max()) for one in blurred])

    def state_bytes(self) -> int:
        return self.naive.inverse.nbytes

    def distances(self, images: Tensor) -> Tensor:
        return self.naive.distances(self.backbone(images))


class Anomalib:
    """anomalib's torch model, driven without its engine."""

    def __init__(self, backbone: Backbone, projection: Subset):
        from anomalib.models.image.padim.torch_model import PadimModel

        name = backbone.model.partition(".")[0]
        self.model = PadimModel(backbone=name, pre_trained=False, n_features=projection.dim)
        self.model.idx.copy_(projection.matrix.argmax(dim=1))
        self.collect = self.model

    def start(self) -> None:
        self.model.train()
        self.model.memory_bank = []

    def fit(self) -> None:
        self.model.fit()
        self.model.eval()

    def score(self, images: Tensor) -> Tensor:
        return self.model(images).pred_score

    def state_bytes(self) -> int:
        return self.model.gaussian.inv_covariance.nbytes


def measure(row: argparse.Namespace) -> dict[str, Any]:
    """Seconds an image of the bare backbone, fit and score, and the peak in bytes."""
    ours, agreement = row.contestant.startswith("ours"), None
    if ours:
        keep_freed_memory()  # as run.py does; the peers run as they are
    torch.manual_seed(0)
    extractor = Backbone(MODELS[row.backbone], [1, 2, 3], weights="random")
    alone = as_timm_runs_it(extractor)
    projection = Subset(extractor.embedding_dim, row.dim)
    if ours:
        grid = None if row.contestant == "ours" else "auto"
        one: Any = Ours(extractor, projection, row.side, grid)
    elif row.contestant == "naive":
        one = NaiveOnBackbone(alone, projection, row.side)
    else:
        one = Anomalib(alone, projection)
    batches = [
        torch.rand(row.batch, 3, row.side, row.side) for _ in range(-(-row.images // row.batch))
    ]
    count = row.batch * len(batches)
    reset_peak(CPU)
    found: dict[str, list[float]] = {}

    def turn(name: str, work: Callable[[], object], per: int) -> None:
        start = time.perf_counter()
        work()
        found.setdefault(name, []).append((time.perf_counter() - start) / per)

    with torch.inference_mode():
        alone(batches[0])
        for _ in range(max(2, row.repeats // 2)):
            turn("backbone", lambda: [alone(x) for x in batches], count)
            one.start()
            turn("collect", lambda: [one.collect(x) for x in batches], count)
            turn("gaussian", one.fit, 1)
        for size in (1, 8):
            x = torch.rand(size, 3, row.side, row.side)
            one.score(x)
            for _ in range(2 * row.repeats):
                turn(f"backbone-{size}", lambda x=x: alone(x), size)
                turn(f"score-{size}", lambda x=x: one.score(x), size)
        peak = peak_bytes(CPU)
        if row.contestant == "naive":  # the same embeddings through both, at the same grid
            same = Ours(alone, projection, row.side, None)
            same.start()
            for x in batches:
                same.collect(x)
            same.fit()
            x = torch.rand(2, 3, row.side, row.side)
            expected = one.distances(x)
            agreement = float(((same.distances(x) - expected).abs() / expected).max())
    median = {name: statistics.median(values) for name, values in found.items()}
    fit = median["collect"] + median["gaussian"] / count
    return {
        **vars(row),
        "version": metadata.version("anomalib") if row.contestant == "anomalib" else "",
        "images": count,
        "seconds": {**median, "fit": fit},
        "fit_ratio": fit / median["backbone"],
        "score_ratio": {b: median[f"score-{b}"] / median[f"backbone-{b}"] for b in (1, 8)},
        "state_bytes": one.state_bytes(),
        "peak_bytes": peak,
        "largest_relative_difference_to_ours": agreement,
    }


def report(arguments: argparse.Namespace, rows: list[dict]) -> None:
    columns = (
        "",
        "backbone ms",
        "fit ms an image",
        "fit ÷",
        "of it Gaussian s",
        "score ms, batch 1",
        "÷",
        "score ms, batch 8",
        "÷",
        "factors",
        "peak",
    )
    title = (
        f"{arguments.backbone}, D = {arguments.dim}, {arguments.images} images to fit, "
        f"{torch.get_num_threads()} threads; ÷ is over the bare backbone in the same process"
    )
    show(columns, map(cells_of, rows), title, width=150)
    for row in rows:
        if (difference := row.get("largest_relative_difference_to_ours")) is not None:
            print(
                f"largest relative difference of a distance, ours against naive: {difference:.1e}"
            )


def cells_of(row: dict) -> list[str]:
    name = CONTESTANTS[row["contestant"]]
    if "failed" in row:
        return [name, row["failed"]]
    seconds = row["seconds"]
    cells = [f"{1e3 * seconds['backbone']:.1f}", f"{1e3 * seconds['fit']:.1f}"]
    cells += [f"{row['fit_ratio']:.2f}", f"{seconds['gaussian']:.1f}"]
    for size in ("1", "8"):
        cells += [f"{1e3 * seconds[f'score-{size}']:.1f}", f"{row['score_ratio'][size]:.2f}"]
    cells += [readable(row["state_bytes"]), readable(row["peak_bytes"])]
    return [f"{name} {row['version']}".strip(), *cells]


if __name__ == "__main__":
    main()
