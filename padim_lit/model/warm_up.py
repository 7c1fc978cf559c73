"""Before the fit: whether its moments have room, and what Π and the density learn from images."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset

from padim_lit.errors import InputError, require_finite, require_tensors
from padim_lit.model.detector import Detector
from padim_lit.model.projection import Identity, Projection
from padim_lit.model.registered import into_buffers
from padim_lit.model.triangular import triangle_bytes
from padim_lit.system.console import tracked
from padim_lit.system.memory import available_bytes, readable

log = logging.getLogger(__name__)


def fit_bytes(detector: Detector) -> int:
    """Bytes of moments and factors in memory.

    >>> from padim_lit import JL, Backbone
    >>> backbone = Backbone('test_resnet', weights='random')
    >>> fit_bytes(Detector(backbone, JL(backbone.embedding_dim, dim=8), (64, 64)))
    184320
    """
    gaussians, dim = detector.gaussians, detector.projection.dim
    return 2 * triangle_bytes(gaussians, dim) + 8 * gaussians * dim


def require_memory(detector: Detector, device: torch.device, ranks: int) -> None:
    """Raise InputError unless moments and factors fit into what is free on `device`.

    Args:
        ranks: that fit at the same time; on CPUs they share the memory.

    >>> from padim_lit import JL, Backbone
    >>> backbone = Backbone('test_resnet', weights='random')
    >>> detector = Detector(backbone, JL(backbone.embedding_dim, dim=8), (64, 64))
    >>> require_memory(detector, torch.device("cpu"), ranks=1)
    """
    need = (ranks if device.type == "cpu" else 1) * fit_bytes(detector)
    have = available_bytes(device)
    if have is None or need <= have:
        return
    raise InputError(
        f"dim={detector.projection.dim} with {detector.gaussians} Gaussians needs {readable(need)} "
        f"for moments and factors, {readable(have)} are free on {device}; use a smaller dim, or "
        "fewer Gaussians: half of the grid's side for a quarter, or less density.components"
    )


def learn(
    detector: Detector,
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

    >>> from padim_lit import Backbone, Detector, Fisher
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
        identity = Identity(projection.in_channels).to(device)  # Π is learnt from all C channels
        with into_buffers(projection):
            projection.learn(*patch_statistics(embeddings(projection.fit_images, identity)))
        agree(projection)
    for part in (part for part, _ in density.parts(detector.positions)) if again else (density,):
        if density.fit_images and part.fit_images:
            with into_buffers(part):
                part.learn(torch.cat(list(embeddings(part.fit_images))))
            agree(part)


def learners(detector: Detector) -> dict[str, str]:
    """Names of what learns from images before the fit, by the config's key.

    >>> learners(detector)
    {}
    """
    return {one.key: one.name for one in (detector.projection, detector.density) if one.fit_images}


def warm_up(loader: DataLoader, numbers: Sequence[Any] | None, images: int) -> Iterator[Any]:
    """Batches of so many of the images that a fit is given, evenly spread over its data set.

    No more at once than the loader has: that may have been halved for want of memory.

    Args:
        loader: of the fit.
        numbers: of the images in its data set that all ranks are given together, so that each rank
            looks at the same ones; None: all.
        images: how many to look at.

    >>> loader = DataLoader(torch.zeros(300, 3))
    >>> sum(len(batch) for batch in warm_up(loader, None, images=100))
    before the fit ...
    100
    """
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset):
        raise InputError(
            f"a {type(dataset).__name__} gives no image by its number, and what learns looks at "
            "some before the fit; use a Dataset with __getitem__, or PerPosition and a JL or Subset"
        )
    given = range(len(dataset)) if numbers is None else sorted(numbers)
    part = Subset(dataset, [given[i] for i in evenly_spaced(len(given), images)])
    log.info("%d good images are looked at first, to learn components or a projection", len(part))
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
