"""The ablation: metrics of every projection × dimension × seed, from one pass over the images."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padim_lit.analysis.bootstrap import PixelHistograms, image_auroc, resample_counts
from padim_lit.errors import InputError, require_finite
from padim_lit.metric_names import METRICS
from padim_lit.metrics import ImageMetrics, PixelMetrics
from padim_lit.model.anomaly_map import AnomalyMap, image_score
from padim_lit.model.backbone import Backbone
from padim_lit.model.density import Density
from padim_lit.model.grid import resolve_alignment, resolve_grid
from padim_lit.model.projection import MAX_DIM, PROJECTIONS, Projection, require_seed
from padim_lit.model.ridge import Ridge
from padim_lit.model.rotations import turned
from padim_lit.model.triangular import scoring_bytes
from padim_lit.sweep.one_pass import CHUNK, FeatureStore, OnePass, Plan, plan
from padim_lit.sweep.run_store import RunResult
from padim_lit.system.clock import clock
from padim_lit.system.console import tracked

#: What an ablation keeps of the test batches.
TRUTH = ("label", "mask", "count_image", "count_pixel")


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
        for name in self.projs:
            if name not in PROJECTIONS:
                raise InputError(
                    f"projs={name}: unknown; allowed: {', '.join(PROJECTIONS)}; one of your own: "
                    f"give proj={name} too"
                )
        if not 1 <= min(self.dims) <= max(self.dims) <= MAX_DIM:
            raise InputError(f"dims={list(self.dims)}: each must be from 1 to {MAX_DIM}")

    def runs(self, channels: int, seeded: bool = False) -> list["ProjectionRun"]:
        """Return a run for each projection and seed; one for all seeds where these change nothing.

        Dimensions that a projection cannot have are a run apart.

        Args:
            channels: C.
            seeded: whether a seed draws more than the projection, as it does a mixture's centroids.
        """
        runs = []
        for name in self.projs:
            kind = PROJECTIONS[name]
            # identity has one dimension, C.
            dims = [channels] if name == "identity" else sorted(self.dims)
            fits = [d for d in dims if d <= channels or not kind.bounded]
            alone = [(seed,) for seed in self.seeds]
            for seeds in alone if kind.seeded or seeded else [tuple(self.seeds)]:
                # Those beyond C are a run of their own, which fails and takes no others with it.
                for some in filter(None, (fits, dims[len(fits) :])):
                    runs.append(ProjectionRun(name, seeds, tuple(some)))
        return runs


@dataclass(frozen=True)
class ProjectionRun:
    """A projection and seed, fitted once at the largest of its dimensions.

    Attributes:
        seeds: they all give the same projection, that of the first.
    """

    proj: str
    seeds: tuple[int, ...]
    dims: tuple[int, ...]

    @property
    def seed(self) -> int:
        return self.seeds[0]

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.proj}-{self.seed}"

    def __str__(self) -> str:
        return f"{self.proj} with seed {self.seed}"

    def draw(self, channels: int) -> Projection:
        """Draw its projection at the largest D; raise InputError where that D is impossible."""
        return PROJECTIONS[self.proj](channels, max(self.dims), self.seed)


class Ablation:
    """Feature maps of one dataset, and the scores of any projection on them.

    Args:
        backbone: the feature extractor, on the device to work on.
        data: an `AnomalyData`: its size, its loaders and their items.
        folder: scratch space for the feature maps, removed by `close`.
        grid, sigma, alignment, image_score, neighbourhood, rotations: as in `PaDiM`.
        density, ridge: see `padim_lit.sweep.one_pass.OnePass`.
        resamples: R, how often the test images are resampled for intervals; 0 for none.

    Attributes:
        one_pass: the feature maps.
        truth: ``label`` (N,), ``mask`` (N,h,w), ``count_image`` and ``count_pixel`` (N,) of the
            test images, in the loader's order.
    """

    def __init__(
        self,
        backbone: Backbone,
        data: Any,
        folder: Path,
        grid: int | str | None,
        sigma: float,
        density: Callable[[int, int], Density],
        ridge: Ridge,
        image_score: str = "max",
        neighbourhood: int = 1,
        rotations: int = 1,
        resamples: int = 0,
        alignment: str | Sequence[float] | None = None,
    ):
        shapes = backbone.grids(data.image_shape)
        self.grid = resolve_grid(shapes, grid)
        self.image_score, self.resamples = image_score, resamples
        self.device = backbone.pixel_mean.device
        offset = resolve_alignment(backbone, data.image_shape, self.grid, alignment)
        self.anomaly_map = AnomalyMap(self.grid, data.image_shape, sigma, offset).to(self.device)
        self.folder = folder / "features"
        shutil.rmtree(self.folder, ignore_errors=True)  # of a run that was killed
        layers = [(c, *s) for c, s in zip(backbone.channels, shapes, strict=True)]
        #: Seconds of the backbone's forward passes alone, without decoding and storing.
        self.backbone_seconds = 0.0
        kept: list[dict[str, Tensor]] = []
        self.stores: list[FeatureStore] = []
        try:
            how = layers, self.grid, self.device, neighbourhood
            images = len(data.train_items) * rotations, len(data.test_items)
            for name, count in zip(("train", "test"), images, strict=True):
                self.stores.append(FeatureStore(self.folder / name, count, *how))
            train, test = self.stores
            self.one_pass = OnePass(train, test, density, ridge, rotations)
            for batch in tracked(data.train_dataloader(), "backbone, training images"):
                train.add(self._features(backbone, batch, rotations))
            for batch in tracked(data.test_dataloader(), "backbone, test images"):
                test.add(self._features(backbone, batch))
                kept.append({name: batch[name] for name in TRUTH})
        except BaseException:
            self.close()
            raise
        self.truth = SimpleNamespace(**{n: torch.cat([part[n] for part in kept]) for n in TRUTH})
        groups = [item.part for item in data.test_items]
        # The same for every configuration, so that differences pair.
        self.drawn_images = self._draw(groups, self.truth.label, self.truth.count_image)
        bad = self.truth.mask.flatten(1).any(1)
        self.drawn_maps = self._draw(groups, bad, self.truth.count_pixel)

    def _features(
        self, backbone: Backbone, batch: dict[str, Any], rotations: int = 1
    ) -> list[Tensor]:
        """Return each layer's maps (B·V,C_l,H_l,W_l); an image's V directions lie in a row."""
        ways = list(turned(batch["image"].to(self.device), rotations))
        start = clock(self.device)
        found = [backbone(images) for images in ways]
        for layer in chain(*found):
            require_finite(layer, batch)
        self.backbone_seconds += clock(self.device) - start
        return [torch.stack(layer, dim=1).flatten(0, 1) for layer in zip(*found, strict=True)]

    def _draw(self, groups: list[str], labels: Tensor, counted: Tensor) -> Tensor | None:
        """Count how often each resample draws each counted image, (R,N); None: none is drawn."""
        if not self.resamples or not counted.any():
            return None
        return resample_counts(labels[counted], self.resamples, groups=[*compress(groups, counted)])

    def plan(self, dim: int, max_memory_gb: float) -> Plan:
        """Plan the bands of positions for runs fitted at D = `dim`."""
        return plan(self.one_pass.test, dim, max_memory_gb * 1e9)

    def measure(
        self, run: ProjectionRun, projection: Projection, bands: Sequence[range]
    ) -> RunResult:
        """Return rows of metrics, image scores and resampled AUROCs of one run, for each d.

        ``fit/seconds`` is the moments' time at the run's largest D, which serves all of its dims,
        plus this d's factor; a mixture's is this d's own. ``score/seconds`` is this d's distances
        of all test images. Neither has the backbone's time in it, nor projecting the test images:
        see `benchmarks/speed.py` for what a run of its own takes.
        """
        one_pass, positions = self.one_pass, math.prod(self.grid)
        distances, times = one_pass.score(projection, run.dims, bands)
        images = one_pass.train.images + one_pass.test.images
        result = RunResult()
        for d, distance in distances.items():
            metrics, score, resampled = self.judge(distance)
            name = f"{run.proj}-{d}-{run.seed}"
            result.rows.append(
                {
                    "proj": run.proj,
                    "dim": d,
                    "seed": run.seed,
                    **{key: metrics[key.removeprefix("test/")] for key in METRICS},
                    **times.learnt[d],
                    "state_bytes": scoring_bytes(one_pass.density(d, 0).gaussians(positions), d),
                    "fit/seconds": times.fit + times.factor[d],
                    "score/seconds": times.score[d],
                    "score/ms_per_image": 1000 * times.score[d] / len(distance),
                    "backbone/seconds": self.backbone_seconds,
                    "backbone/ms_per_image": 1000 * self.backbone_seconds / images,
                }
            )
            result.scores[name] = score.numpy()
            result.variances[str(d)] = np.array(times.variance[d])
            if resampled is not None:
                result.resamples[name] = resampled.float().numpy()
        return result

    def judge(self, distances: Tensor) -> tuple[dict[str, Any], Tensor, Tensor | None]:
        """Return metrics, image scores (N,) and resampled AUROCs (2,R) from distances (N,P)."""
        image, pixel, scores = ImageMetrics(), PixelMetrics(), []
        histograms = PixelHistograms()
        for start in range(0, len(distances), CHUNK):
            part = slice(start, start + CHUNK)
            found = distances[part].to(self.device)
            maps = self.anomaly_map(found)
            score = image_score(found, maps, self.image_score).cpu()
            scores.append(score)
            images, pixels = self.truth.count_image[part], self.truth.count_pixel[part]
            image.update(score[images], self.truth.label[part][images])
            maps, masks = maps.cpu()[pixels], self.truth.mask[part][pixels]
            pixel.update(maps, masks)
            if self.resamples:
                histograms.update(maps, masks)
        score = torch.cat(scores)
        metrics = {**image.compute(), **pixel.compute()}
        if not self.resamples:
            return metrics, score, None
        found = torch.full((2, self.resamples), torch.nan, dtype=torch.float64)
        counted = self.truth.count_image
        if metrics["image_auroc"] is not None:
            found[0] = image_auroc(score[counted], self.truth.label[counted], self.drawn_images)
        if metrics["pixel_auroc"] is not None:
            found[1] = histograms.auroc(self.drawn_maps)
        return metrics, score, found

    def close(self) -> None:
        """Remove the feature maps."""
        for store in self.stores:
            store.maps.clear()  # Windows removes no file that is still mapped into memory
        shutil.rmtree(self.folder, ignore_errors=True)
