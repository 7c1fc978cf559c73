"""The ablation: metrics of every projection × dimension × seed, from one pass over the images."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader

from padim_lit.anomaly_map import AnomalyMap, image_score
from padim_lit.backbone import Backbone
from padim_lit.embedding import resolve_grid
from padim_lit.errors import InputError
from padim_lit.metrics import ImageMetrics, PixelMetrics
from padim_lit.onepass import CHUNK, FeatureStore, Plan, plan, run_head
from padim_lit.projection import PROJECTIONS, Projection, require_seed
from padim_lit.report.summary import METRICS


@dataclass(frozen=True)
class Sweep:
    """What to compare: every name in `projs` × every D in `dims` × every seed in `seeds`."""

    projs: Sequence[str]
    dims: Sequence[int]
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        for key in ("projs", "dims", "seeds"):
            values = getattr(self, key)
            if not values or len(set(values)) != len(values):
                raise InputError(
                    f"{key}={list(values)}: give each value once, and at least one (projs, dims "
                    "and seeds belong to experiment=ablation; one run takes proj, dim and seed)"
                )
        for seed in self.seeds:
            require_seed(seed)
        unknown = [name for name in self.projs if name not in PROJECTIONS]
        if unknown:
            raise InputError(f"projs: no {unknown[0]!r}; allowed: {', '.join(PROJECTIONS)}")
        if min(self.dims) < 1:
            raise InputError(f"dims={list(self.dims)}: each must be at least 1")

    def heads(self, channels: int) -> list[tuple[Projection, list[int]]]:
        """Each head's projection, drawn at its largest D, and its dimensions."""
        heads = []
        for name in self.projs:
            # identity has one dimension, C, and nothing that a seed could draw.
            fixed = name == "identity"
            for seed in self.seeds[:1] if fixed else self.seeds:
                projection = PROJECTIONS[name](channels, max(self.dims), seed)
                heads.append((projection, [channels] if fixed else sorted(self.dims)))
        return heads


@dataclass(frozen=True)
class Truth:
    """Labels, masks and flags of the test images, in the loader's order."""

    label: Tensor
    mask: Tensor
    count_image: Tensor
    count_pixel: Tensor
    path: list[str]


class Ablation:
    """Feature maps of one dataset, and the scores of any head on them.

    Args:
        backbone: the feature extractor, on the device to work on.
        image_shape: (h, w) in pixels.
        train, test: loaders of batch dicts.
        sizes: images in each.
        folder: scratch space for the feature maps, removed by `close`.
        grid, eps, sigma, image_score: as in `PaDiM`.
    """

    def __init__(
        self,
        backbone: Backbone,
        image_shape: tuple[int, int],
        train: DataLoader,
        test: DataLoader,
        sizes: tuple[int, int],
        folder: Path,
        grid: int | str | None,
        eps: float,
        sigma: float,
        image_score: str = "max",
    ):
        shapes = backbone.grids(image_shape)
        self.grid = resolve_grid(shapes, grid)
        self.eps, self.image_score = eps, image_score
        self.device = backbone.pixel_mean.device
        self.anomaly_map = AnomalyMap(self.grid, image_shape, sigma).to(self.device)
        self.folder = folder / "features"
        layers = [(c, *s) for c, s in zip(backbone.channels, shapes, strict=True)]
        need = 4 * sum(sizes) * sum(c * h * w for c, h, w in layers)
        free = shutil.disk_usage(folder).free
        if need > free:
            raise InputError(
                f"the feature maps of {sum(sizes)} images need {need / 1e9:.1f} GB on disk, "
                f"{free / 1e9:.1f} are free in {folder}; free some, or set a coarser grid"
            )
        try:
            start = time.perf_counter()
            with progress() as bar:
                self.train = FeatureStore(self.folder / "train", sizes[0], layers, self.grid)
                for batch in bar.track(train, description="backbone, training images"):
                    self.train.add(backbone(batch["image"].to(self.device)))
                self.test = FeatureStore(self.folder / "test", sizes[1], layers, self.grid)
                kept = []
                for batch in bar.track(test, description="backbone, test images"):
                    self.test.add(backbone(batch["image"].to(self.device)))
                    kept.append(batch)
            self.backbone_seconds = time.perf_counter() - start
        except BaseException:
            self.close()
            raise
        names = ("label", "mask", "count_image", "count_pixel")
        self.truth = Truth(
            **{name: torch.cat([batch[name] for batch in kept]) for name in names},
            path=[path for batch in kept for path in batch["path"]],
        )

    def plan(self, dim: int, max_memory_gb: float) -> Plan:
        """Bands of positions for heads fitted at D = `dim`."""
        return plan(self.test, self.test.images, dim, max_memory_gb * 1e9)

    def rows(
        self, projection: Projection, dims: Sequence[int], bands: Sequence[range], advance: Any
    ) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        """A row of metrics for each d of one head, and its image scores by configuration."""
        distances, times = run_head(
            projection, dims, self.train, self.test, self.eps, bands, self.device, advance
        )
        positions = self.grid[0] * self.grid[1]
        rows, scores = [], {}
        for d, distance in distances.items():
            metrics, score = self.judge(distance)
            rows.append(
                {
                    "proj": projection.name,
                    "dim": d,
                    "seed": projection.seed,
                    **{key: metrics[key.removeprefix("test/")] for key in METRICS},
                    "state_bytes": positions * d * (4 * d + 8),
                    # The head's moments serve all of its dims; factor and score are this d's own.
                    "head/fit_seconds": times.fit,
                    "factor/seconds": times.factor[d],
                    "score/seconds": times.score[d],
                }
            )
            scores[f"{projection.name}-{d}-{projection.seed}"] = score.numpy()
        return rows, scores

    def judge(self, distances: Tensor) -> tuple[dict[str, Any], Tensor]:
        """Metrics and image scores (N,) from distances (N,P)."""
        image, pixel, scores = ImageMetrics(), PixelMetrics(), []
        for start in range(0, len(distances), CHUNK):
            part = slice(start, start + CHUNK)
            found = distances[part].to(self.device)
            maps = self.anomaly_map(found)
            score = image_score(found, maps, self.image_score).cpu()
            maps = maps.cpu()
            scores.append(score)
            images, pixels = self.truth.count_image[part], self.truth.count_pixel[part]
            image.update(score[images], self.truth.label[part][images])
            pixel.update(maps[pixels], self.truth.mask[part][pixels])
        return {**image.compute(), **pixel.compute()}, torch.cat(scores)

    def close(self) -> None:
        """Remove the feature maps."""
        shutil.rmtree(self.folder, ignore_errors=True)


def progress() -> Progress:
    """A progress bar with counts and the time that is left."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )
