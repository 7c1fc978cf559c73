"""Work over all images of a data set, in batches as large as a GPU's memory allows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from padim_lit.model.detector import Detector
from padim_lit.system.console import tracked
from padim_lit.system.cores import default_workers
from padim_lit.system.resource_errors import halving

T = TypeVar("T")
#: What a loader gives: dicts of ``image`` (B,3,h,w) and more.
Batches = Iterable[dict[str, Any]]


@dataclass(frozen=True)
class Loop:
    """On which device images are scored, and how they are loaded.

    Attributes:
        device: to compute on.
        batch_size: the largest; where memory runs out, the work is done anew with half of it.
        num_workers: loader processes; None chooses from the number of cores.
        options: further arguments of the DataLoader.
    """

    device: torch.device
    batch_size: int
    num_workers: int | None = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def like(cls, loader: DataLoader, device: torch.device) -> "Loop":
        """Return a loop that reads images as `loader` does; 8 at once if it has no batch size."""
        keys = ("collate_fn", "worker_init_fn", "multiprocessing_context")
        options = {key: getattr(loader, key) for key in keys}
        return cls(device, loader.batch_size or 8, loader.num_workers, options)


def over_images(
    detector: Detector, dataset: Dataset, work: Callable[[Batches], T], loop: Loop, what: str
) -> T:
    """Return ``work(batches)``, with the detector on the loop's device.

    Args:
        detector: which `work` uses; on the CPU afterwards.
        dataset: of the images.
        work: is called again with smaller batches where memory runs out.
        loop: how the images are loaded.
        what: names the work in messages.

    >>> images = [{"image": torch.rand(3, 64, 64)}] * 5
    >>> count = lambda batches: [len(batch["image"]) for batch in batches]
    >>> over_images(detector, images, count, Loop(torch.device("cpu"), 2), "count")
    count ...
    [2, 2, 1]
    """
    workers = default_workers() if loop.num_workers is None else loop.num_workers

    def attempt(size: int) -> T:
        loader = DataLoader(dataset, size, num_workers=workers, **loop.options)
        return work(tracked(loader, what))

    detector.to(loop.device)
    found, _ = halving(loop.batch_size, attempt, what)
    detector.to("cpu")
    return found
