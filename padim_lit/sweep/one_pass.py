"""A whole sweep over projections, dimensions and seeds from one pass over the images.

The backbone runs once; its feature maps go to disk. A run is one projection and seed. With one
Gaussian a position it is fitted at the largest D, and its moments contain those of every smaller d
(`Projection.nested`); positions are worked through in bands of grid rows, so that memory stays
below a limit whatever D is. A mixture's patches are assigned anew at each d. Results equal those of
separate runs on the same split; a mixture's up to what rounding does to its centroids.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from padim_lit.errors import InputError, refusing
from padim_lit.model.density import Density, PerPosition
from padim_lit.model.embedding import average_down, embed
from padim_lit.model.gaussian import factorize, mahalanobis
from padim_lit.model.moments import init, update
from padim_lit.model.projection import Identity, Projection
from padim_lit.model.ridge import Ridge, variances
from padim_lit.model.triangular import covariance_log_det
from padim_lit.model.warm_up import evenly_spaced, patch_statistics
from padim_lit.system.clock import clock
from padim_lit.system.memory import readable

# Images that are embedded at once.
CHUNK = 64


class FeatureStore:
    """Feature maps of N images on disk, one file a layer, channels last.

    Args:
        folder: where the files go; the caller removes it.
        images: N.
        layers: (C_l, H_l, W_l) of each layer, as stored.
        grid: (H, W) of the embedding. Finer layers are averaged down to it before they are stored.
        device: of the embeddings.
        neighbourhood: see `padim_lit.model.embedding.add_up`.
    """

    def __init__(
        self,
        folder: Path,
        images: int,
        layers: Sequence[tuple[int, int, int]],
        grid: tuple[int, int],
        device: torch.device,
        neighbourhood: int = 1,
    ):
        self.neighbourhood = neighbourhood
        folder.mkdir(parents=True)
        self.grid, self.images, self.device, self.filled = grid, images, device, 0
        self.maps = []
        for i, (c, h, w) in enumerate(layers):
            path, shape = folder / f"layer{i}.npy", (images, min(h, grid[0]), min(w, grid[1]), c)
            self.maps.append(np.lib.format.open_memmap(path, "w+", np.float32, shape))
            _reserve(path, self.maps[-1].nbytes)

    def add(self, features: Sequence[Tensor]) -> None:
        """Append the maps (B,C_l,H_l,W_l) of a batch."""
        stop = self.filled + features[0].shape[0]
        for stored, layer in zip(self.maps, features, strict=True):
            small = average_down(layer, self.grid)
            stored[self.filled : stop] = small.permute(0, 2, 3, 1).cpu().numpy()
        self.filled = stop

    def embeddings(self, projection: Projection, rows: range) -> Iterator[Tensor]:
        """Yield projected embeddings (B, rows·W, D) of a band of grid rows, by chunks of images."""
        for start in range(0, self.images, CHUNK):
            yield self.embedding(projection, slice(start, start + CHUNK), rows)

    def embedding(self, projection: Projection, images: slice | list[int], rows: range) -> Tensor:
        """Return projected embeddings (B, rows·W, D) of some images, in a band of grid rows."""
        height, width = self.grid
        # The neighbours beyond the band, in whole rows of every layer.
        halo = -(-(self.neighbourhood // 2) // (self.row_step or 1)) * self.row_step
        above, below = max(0, rows.start - halo), min(height, rows.stop + halo)
        maps = []
        for stored in self.maps:
            step = height // stored.shape[1]
            part = stored[images, above // step : -(-below // step)]
            layer = torch.from_numpy(np.ascontiguousarray(part)).to(self.device)
            maps.append(layer.permute(0, 3, 1, 2))
        x = embed(maps, projection, (below - above, width), self.neighbourhood)
        return x[:, (rows.start - above) * width : (rows.stop - above) * width]

    @property
    def row_step(self) -> int:
        """Bands start at multiples of this, so that they split no layer's row; 0: no bands."""
        height, width = self.grid
        shapes = [stored.shape[1:3] for stored in self.maps]
        if any(height % h or width % w for h, w in shapes):
            return 0
        return math.lcm(*(height // h for h, _ in shapes))


def _reserve(path: Path, size: int) -> None:
    """Reserve the file's room now: a full disk under a mapped file would kill the process silently.

    Raises:
        InputError: there is too little.
    """
    what = f"{path} cannot be written, which needs {readable(size)} for feature maps"
    todo = "make room, or set a coarser grid or fewer rotations"
    with refusing(what, todo, OSError), path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):  # Linux
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


@dataclass(frozen=True)
class Plan:
    """How a sweep goes through the positions."""

    bands: list[range]
    bytes: int

    def describe(self, runs: int, configurations: int) -> str:
        """One line for the log; some `runs` have fewer dimensions than others."""
        return (
            f"{configurations} configurations ({runs} runs, each a projection with a seed); a run "
            f"is fitted once, at its largest D, in {len(self.bands)} band(s) of positions, "
            f"{readable(self.bytes)} at a time"
        )


def plan(store: FeatureStore, dim: int, limit: float) -> Plan:
    """Cut the grid into the fewest bands whose moments, factors and embeddings fit into `limit`.

    Args:
        store: of the test images.
        limit: bytes.

    Raises:
        InputError: not even the smallest band fits.
    """
    height, width = store.grid
    # Moments, one d's moments and its factor (with a float64 block), and the test embeddings.
    position = 4 * (4 * dim**2 + (store.images + 3 * CHUNK) * dim)
    step = store.row_step or height
    need = step * width * position
    if need > limit:
        raise InputError(
            f"max_memory_gb={limit / 1e9:g}: the smallest band of {step}×{width} positions needs "
            f"{need / 1e9:.2g}; allow more, or use a smaller dim or grid"
        )
    rows = min(height, int(limit // need) * step)
    bands = [range(r, min(r + rows, height)) for r in range(0, height, rows)]
    return Plan(bands, rows * width * position)


@dataclass
class RunTimes:
    """Seconds that a run took, summed over the bands.

    `fit` is for all d together; the others are by d. `learnt` holds what its densities have learnt,
    `variance` the mean variance of its features within a Gaussian.
    """

    fit: float
    factor: dict[int, float]
    score: dict[int, float]
    learnt: dict[int, dict[str, float]] = field(default_factory=dict)
    variance: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class OnePass:
    """Feature maps of one data set, and the Gaussians that score any projection of them.

    Attributes:
        train, test: feature maps.
        density: makes the density for a D and a seed.
        ridge: ε and its unit; the density adds ν.
        rotations: V; in `train`, V maps in a row are one image's, in all its directions.
    """

    train: FeatureStore
    test: FeatureStore
    density: Callable[[int, int], Density]
    ridge: Ridge
    rotations: int = 1

    def score(
        self,
        projection: Projection,
        dims: Iterable[int],
        bands: Sequence[range],
    ) -> tuple[dict[int, Tensor], RunTimes]:
        """Return every d's Mahalanobis distances (N_test,P), on the CPU, and the time they took.

        Args:
            projection: drawn at the largest d.
            dims: each at most ``projection.dim``.
            bands: from `plan`.
        """
        train = self.train
        projection = projection.to(train.device)
        height, width = train.grid
        if projection.fit_images:
            every = Identity(projection.in_channels).to(train.device)
            chosen = self._chosen(projection.fit_images)
            batches = (train.embedding(every, [i], range(height)) for i in chosen)
            projection.learn(*patch_statistics(batches))
        times = RunTimes(0.0, dict.fromkeys(dims, 0.0), dict.fromkeys(dims, 0.0))
        densities = {d: self.density(d, projection.seed).to(train.device) for d in times.factor}
        for d, one in densities.items():
            if one.fit_images:
                start = clock(train.device)
                one.learn(self._patches(projection, d, one.fit_images))
                times.factor[d] += clock(train.device) - start
            times.learnt[d] = one.learnt
        parts = {d: one.parts(height * width) for d, one in densities.items()}
        alone = [p for of in parts.values() for p, _ in of if type(p) is PerPosition]
        # One pass over the bands gives all of them, in this order.
        by_position = iter(self._positions(projection, alone, bands, times))
        nearest = {}
        for d, one in densities.items():
            scored = []
            for part, _ in parts[d]:
                mine = type(part) is PerPosition
                scored.append(next(by_position) if mine else self._all(projection, part, times))
            distances, log_dets, within = zip(*scored, strict=True)
            times.variance[d] = sum(within) / len(within)
            scales = one.scales(log_dets)
            scaled = [x.mul_(scale) for x, scale in zip(distances, scales, strict=True)]
            nearest[d] = one.combine(scaled)
        return nearest, times

    def _chosen(self, images: int) -> list[int]:
        """Return the numbers of the maps that a run of its own would learn from.

        Those of an image in all directions are together.
        """
        turns = self.rotations
        numbers = evenly_spaced(self.train.images // turns, images)
        return [i * turns + turn for i in numbers for turn in range(turns)]

    def _patches(self, projection: Projection, dim: int, images: int) -> Tensor:
        """Return the patches (n,P,d) that a run of its own would learn from."""
        train, (rows, factor) = self.train, projection.nested(dim)
        whole, rows = range(train.grid[0]), rows.to(train.device)
        chosen = (train.embedding(projection, [i], whole) for i in self._chosen(images))
        return torch.cat([x[..., rows] * factor for x in chosen])

    def _positions(
        self,
        projection: Projection,
        densities: Sequence[Density],
        bands: Sequence[range],
        times: RunTimes,
    ) -> list[tuple[Tensor, float, float]]:
        """Return each density's test distances (N_test,P), its mean log det Σ and mean variance.

        The densities have one Gaussian a position, and all are fitted in one pass over the bands.
        """
        if not densities:
            return []
        train, test, width = self.train, self.test, self.train.grid[1]
        ridges = [one.shrinking(self.ridge) for one in densities]
        if len(bands) > 1 and any(r.unit == "variance" or r.shrinkage for r in ridges):
            # Pooled over all bands, or results would depend on the memory; it takes another pass.
            within = [len(band) * patch_statistics(train.embeddings(projection, band))[0]
                      for band in bands]  # fmt: skip
            ridges = [replace(ridge, common=sum(within) / train.grid[0]) for ridge in ridges]
        positions = math.prod(train.grid)
        distances = [torch.empty(test.images, positions) for _ in densities]
        volumes, spread = [0.0] * len(densities), [0.0] * len(densities)
        for band in bands:
            here = slice(band.start * width, band.stop * width)
            start = clock(train.device)
            state = init(len(band) * width, projection.dim, train.device)
            for x in train.embeddings(projection, band):
                state = update(state, x)
            times.fit += clock(train.device) - start
            variance = variances(state) * len(band) / train.grid[0]
            embedded = list(test.embeddings(projection, band))
            for i, (density, ridge) in enumerate(zip(densities, ridges, strict=True)):
                rows, factor = projection.nested(density.dim)
                rows = rows.to(train.device)
                spread[i] += float(variance[rows].mean()) * factor**2
                mean = state.mean[:, rows] * factor
                start = clock(train.device)
                whitening = factorize(state, ridge, rows, factor)
                times.factor[density.dim] += clock(train.device) - start
                volumes[i] += float(covariance_log_det(whitening).sum()) / positions
                start = clock(train.device)
                for x, part in zip(embedded, distances[i].split(CHUNK), strict=True):
                    part[:, here] = mahalanobis(x[..., rows] * factor, mean, whitening).cpu()
                times.score[density.dim] += clock(train.device) - start
        return list(zip(distances, volumes, spread, strict=True))

    def _all(
        self, projection: Projection, density: Density, times: RunTimes
    ) -> tuple[Tensor, float, float]:
        """Return what `_positions` does, for any one density, computed as in a run of its own."""
        train, d, whole = self.train, density.dim, range(self.train.grid[0])
        rows, factor = projection.nested(d)
        rows = rows.to(train.device)
        start = clock(train.device)
        state = density.empty(math.prod(train.grid), train.device)
        for x in train.embeddings(projection, whole):
            x = x[..., rows] * factor
            state, _ = density.update_moments(state, x, x[None], lambda every: every)
        whitening = density.factorize(state, self.ridge)
        times.factor[d] += clock(train.device) - start  # all of it is this d's own
        found = []
        for x in self.test.embeddings(projection, whole):
            start = clock(train.device)
            found.append(density.nearest(x[..., rows] * factor, state.mean, whitening)[0].cpu())
            times.score[d] += clock(train.device) - start
        volume = float(covariance_log_det(whitening).mean())
        return torch.cat(found), volume, float(variances(state).mean())
