"""Projections that choose their directions from good images before the fit."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from scipy import linalg
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from padim_lit.errors import InputError, refusing, require_finite, require_tensors
from padim_lit.model.projection import Identity, Projection, gaussian_rows
from padim_lit.model.registered import taken
from padim_lit.system.console import tracked

if TYPE_CHECKING:
    from padim_lit.model.detector import Detector


log = logging.getLogger(__name__)
# Samplers that together give all images of a data set; others may give some.
_OF_ALL = SequentialSampler, RandomSampler, DistributedSampler


class Learned(Projection):
    """Base of those that choose their directions from good images before the fit.

    Π is zero until `learn` has been called. Its rows come best first, so that a smaller D is the
    head of a larger one.

    Args:
        fit_images: number of good images to learn from, spread evenly over the training set; a
            covariance averaged over the positions needs few.

    >>> Fisher(in_channels=1056, dim=100).fit_images
    100
    """

    drawn = False

    def __init__(self, in_channels: int, dim: int, seed: int = 0, fit_images: int = 100):
        if fit_images < 2:
            raise InputError(f"proj.fit_images={fit_images}: must be at least 2 images")
        self.fit_images = fit_images
        self.options = {**getattr(self, "options", {}), **taken(self, fit_images=fit_images)}
        super().__init__(in_channels, dim, seed)

    def draw(self, generator: torch.Generator) -> Tensor:
        return torch.zeros(self.dim, self.in_channels)

    def nested(self, dim: int) -> tuple[Tensor, float]:
        return torch.arange(dim), 1.0


class Fisher(Learned):
    """The D mixtures of channels that differ most between places, least within one (Fisher's).

    Good parts look different at different positions, so what varies between the positions' means
    is what the CNN knows about such parts; what varies around them is noise. Π's rows maximise
    the first over the second: S_b v = γ (S_w + λ·tr(S_w)/C·I) v with the largest γ, S_w and S_b
    the covariances within and between positions (Fisher 1936; λ as in regularised discriminant
    analysis). Nothing is random: every seed gives the same Π.

    The rows are scaled so that ε = 0.01 squared feature units weighs as 0.3 of the variance within
    a position, which pulls every position's covariance towards the pooled one. With ε relative to
    that variance, take 0.1: good images that the fit does not know are likeliest there.

    Args:
        shrinkage: λ > 0, of the mean variance within a position, added to each channel's.
        fit_images: see `Learned`.

    >>> fisher = Fisher(in_channels=4, dim=2)
    >>> fisher.learn(within=torch.eye(4), means=torch.diag(torch.tensor([9.0, 1.0, 0.0, 4.0])))
    >>> fisher.matrix.abs().argmax(dim=1).tolist()  # channels 0 and 3 tell positions apart best
    [0, 3]
    """

    name = "fisher"
    bounded = True
    seeded = False

    def __init__(
        self,
        in_channels: int,
        dim: int,
        seed: int = 0,
        fit_images: int = 100,
        shrinkage: float = 0.1,
    ):
        if not 0 < shrinkage < math.inf:
            raise InputError(f"proj.shrinkage={shrinkage}: must be above 0 (default 0.1)")
        self.shrinkage, self.options = shrinkage, {"shrinkage": shrinkage}
        super().__init__(in_channels, dim, seed, fit_images)

    def learn(self, within: Tensor, means: Tensor) -> None:
        within, means = within.double().cpu(), means.double().cpu()
        between = torch.cov(means.T, correction=0)
        noise = within + self.shrinkage * within.diagonal().mean() * torch.eye(len(within))
        # By ascending γ, and vᵀ·noise·v = 1.
        best = [self.in_channels - self.dim, self.in_channels - 1]
        what = "proj=fisher learns from what varies between images, and these are alike"
        with refusing(what, "use images that differ, or proj=jl", linalg.LinAlgError):
            _, vectors = linalg.eigh(between.numpy(), noise.numpy(), subset_by_index=best)
        rows = torch.from_numpy(vectors).T.flip(0) * math.sqrt(0.01 / 0.3)
        self.matrix = rows.float().to(self.matrix.device)


class NPCA(Learned):
    """The D directions of least variance within a position, in a JL sketch.

    Negated PCA (Rippel et al. 2020) inside a sketch: good parts hardly vary along these
    directions, so a defect stands out. In all C channels they would be those without any signal;
    the sketch leaves a share of every channel in each.

    Args:
        fit_images: see `Learned`.
        sketch: width of the sketch, at least D; at most C count.

    >>> NPCA(in_channels=40, dim=2, sketch=10).matrix.any().item()  # nothing is learnt yet
    False
    """

    name = "npca"
    bounded = True

    def __init__(
        self, in_channels: int, dim: int, seed: int = 0, fit_images: int = 100, sketch: int = 300
    ):
        if dim > sketch:
            raise InputError(
                f"dim={dim} exceeds proj.sketch={sketch}, out of which proj=npca chooses; use a "
                "wider sketch or a smaller dim"
            )
        self.sketch, self.options = sketch, {"sketch": sketch}
        super().__init__(in_channels, dim, seed, fit_images)

    def learn(self, within: Tensor, means: Tensor) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        # Of more rows than channels some vary not at all, whatever the images: those would be it.
        rows = min(self.sketch, self.in_channels)
        sketch = gaussian_rows(rows, self.in_channels, generator) / math.sqrt(rows)
        _, vectors = torch.linalg.eigh(sketch @ within.double().cpu() @ sketch.T)  # ascending
        self.matrix = (vectors[:, : self.dim].T @ sketch).float().to(self.matrix.device)


def learn(
    detector: "Detector",
    batches: Callable[[int], Iterable[Mapping[str, Any]]],
    agree: Callable[[nn.Module], None] = lambda learnt: None,
    again: bool = False,
) -> None:
    """Let a detector choose what it learns before the fit: Π, then what its density learns.

    Args:
        detector: whose projection or density says by `fit_images` that it learns.
        batches: of so many good images: ``image`` (B,3,h,w), and where they are known ``path``.
        agree: called with what has learnt, for ranks that have to learn the same.
        again: keep what the density has learnt about how its parts are put together
            (`Density.learnt`).

    Raises:
        InputError: fewer than two images, or features that are not finite.

    >>> from padim_lit import Backbone, Detector
    >>> backbone = Backbone('test_resnet', weights='random')
    >>> fisher = Fisher(backbone.embedding_dim, dim=8)
    >>> detector = Detector(backbone, fisher, (64, 64))
    >>> learn(detector, lambda images: [{'image': torch.rand(4, 3, 64, 64)}])
    >>> fisher.matrix.any().item()
    True
    """
    projection, density = detector.projection, detector.density
    device = projection.matrix.device

    def embeddings(images: int, through: Projection | None = None) -> Iterator[Tensor]:
        for batch in batches(images):
            require_tensors(batch, "image")
            x = detector.embed_turned(batch["image"].to(device), through)
            require_finite(x, batch)
            yield detector.anomaly_map.counted(x.flatten(0, 1))

    if projection.fit_images:
        every = Identity(projection.in_channels).to(device)
        projection.learn(*patch_statistics(embeddings(projection.fit_images, every)))
        agree(projection)
    for one in (part for part, _ in density.parts(detector.positions)) if again else (density,):
        if one.fit_images:
            one.learn(torch.cat(list(embeddings(one.fit_images))))
            agree(one)


def learners(detector: "Detector") -> dict[str, str]:
    """Names of what learns from images before the fit, by the config's key.

    >>> learners(detector)
    {}
    """
    parts = {"proj": detector.projection, "density": detector.density}
    return {key: one.name for key, one in parts.items() if one.fit_images}


def warm_up(loader: DataLoader, images: int) -> Iterator[Any]:
    """Batches of so many of the images that a loader gives, evenly spread over its data set.

    No more at once than the loader has: that may have been halved for want of memory. Each rank
    sees the same ones, unless a sampler of the user's own shares them out.

    >>> sum(len(batch) for batch in warm_up(DataLoader(torch.zeros(300, 3)), images=100))
    before the fit ...
    100
    """
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset):
        raise InputError(
            f"a {type(dataset).__name__} gives no image by its number, and what learns looks at "
            "some before the fit; use a Dataset with __getitem__, or PerPosition and a JL or Subset"
        )
    given: Sequence[int] = range(len(dataset))
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    if not isinstance(sampler, _OF_ALL):
        with torch.random.fork_rng(devices=()):  # what the fit itself draws is the same as ever
            given = sorted(set(sampler))
    part = Subset(dataset, [given[i] for i in evenly_spaced(len(given), images)])
    log.info("%d good images are looked at first, to learn kinds or a projection", len(part))
    size = min(8, loader.batch_size or 8)
    workers: dict[str, Any] = {}
    if loader.worker_init_fn is not None:  # it may open what the Dataset reads
        workers = {"num_workers": loader.num_workers, "worker_init_fn": loader.worker_init_fn}
        workers["multiprocessing_context"] = loader.multiprocessing_context
    batches = DataLoader(part, batch_size=size, collate_fn=loader.collate_fn, **workers)
    yield from tracked(batches, "before the fit")


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` of the indices below `total`, evenly spread; all of them where there are fewer.

    >>> evenly_spaced(10, 4)
    [0, 2, 5, 7]
    """
    count = min(total, count)
    return [i * total // count for i in range(count)]


def patch_statistics(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Covariance within positions and their means, from embeddings (B,P,C) batch by batch.

    S_w = 1/((N−1)P) Σ_n Σ_p (x_np − μ_p)(x_np − μ_p)ᵀ. Sums are taken around the first image, so
    that they do not cancel, in float64, and image by image, so that the split into batches does
    not matter.

    Returns:
        within (C,C) and means (P,C), float64.

    Raises:
        InputError: fewer than two images, or a value that is not finite.

    >>> within, means = patch_statistics([torch.rand(3, 4, 2)])
    >>> within.shape, means.shape
    (torch.Size([2, 2]), torch.Size([4, 2]))
    """
    origin, count = None, 0
    for batch in batches:
        for x in batch:
            if origin is None:
                origin = x
                total = torch.zeros_like(x, dtype=torch.float64)
                squares = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
            shifted = x - origin
            total += shifted
            with torch.autocast(x.device.type, enabled=False):
                squares += shifted.T @ shifted
            count += 1
    if count < 2:
        raise InputError(f"a projection that learns needs at least 2 training images, not {count}")
    within = (squares - total.T @ total / count) / ((count - 1) * len(total))
    if not within.isfinite().all():
        raise InputError("a training image's features are not finite; check images and weights")
    return within, origin.double() + total / count
