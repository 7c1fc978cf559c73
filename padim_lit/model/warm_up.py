"""Before the fit: is there memory for it? Then Π and the density learn from some good images."""

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
    """Return the bytes of a fit's moments and factors in memory.

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
        detector: that is to be fitted.
        device: of this rank.
        ranks: how many fit at the same time; on a CPU they share the memory.

    >>> from padim_lit import JL, Backbone
    >>> backbone = Backbone('test_resnet', weights='random')
    >>> detector = Detector(backbone, JL(backbone.embedding_dim, dim=8), (64, 64))
    >>> require_memory(detector, torch.device("cpu"), ranks=10**9)
    Traceback (most recent call last):
    padim_lit.errors.InputError: dim=8 with 320 Gaussians needs ... for moments and factors, ...
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
    """Let a detector learn what it learns before the fit: Π, then what its density learns.

    Args:
        detector: its projection and its density learn if their `fit_images` is above 0.
        batches: gives so many good images: ``image`` (B,3,h,w), and where known ``path``.
        agree: called with each part that has learnt, so that all ranks can take the same.
        again: learn only what a density's parts learn, and keep the numbers that it learns to
            combine them by (`Density.learnt`).

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
    """Return the names of what learns from images before the fit, by the config's key.

    >>> learners(detector)
    {}
    """
    return {one.key: one.name for one in (detector.projection, detector.density) if one.fit_images}


def warm_up(loader: DataLoader, numbers: Sequence[Any] | None, images: int) -> Iterator[Any]:
    """Yield batches of a fit's images, evenly spread over its data set, as `learn` needs them.

    They are no larger than the loader's, whose size may have been halved for want of memory.

    Args:
        loader: of the fit.
        numbers: indices of the images that all ranks together are given, so that each rank looks
            at the same ones; None: all of the data set.
        images: how many to look at.

    Raises:
        InputError: a data set that gives no image by its number.

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
    """Return `count` indices below `total`, evenly spread; all of them where there are fewer.

    >>> evenly_spaced(10, 4)
    [0, 2, 5, 7]
    """
    count = min(total, count)
    return [i * total // count for i in range(count)]


def patch_statistics(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the covariance within positions and their means, from embeddings (B,P,C).

    The covariance S_w is the sum of (x − μ_p)(x − μ_p)ᵀ over N images and P positions, divided by
    (N−1)P. It is summed in float64, around the first image, so that nothing cancels, and image by
    image, so that the split into batches does not matter.

    Returns:
        S_w (C,C) and the means μ_p (P,C), float64.

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
