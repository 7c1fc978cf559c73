"""What a loader gives: which images, at which sizes, and each of them once over all ranks."""

from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from itertools import chain, islice, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Subset

from padim_lit.data.items import ItemDataset
from padim_lit.data.transform import ResizeCrop
from padim_lit.errors import InputError


def require_one_each(images: int, ranks: int) -> None:
    """Raise InputError for fewer images than ranks.

    >>> require_one_each(images=7, ranks=2)
    """
    if images < ranks:
        raise InputError(
            f"{images} image(s) cannot be spread over {ranks} devices; lower trainer.devices"
        )


class Batches(list[list[int]]):
    """A batch sampler; to predict, Lightning copies its `__dict__`, which a plain list has not."""


def rank_batches(length: int, rank: int, world: int, batch_size: int) -> Batches:
    """Batches of this rank's indices rank, rank + world, ...; as many batches on every rank.

    Every index is on exactly one rank and none repeated: torch's DistributedSampler pads with
    repeated images, which would count them twice in the moments and in the metrics. Lightning's
    ranks wait for each other at every training batch, so one batch more on one rank would hang.

    Raises InputError for fewer images than ranks.
    """
    require_one_each(length, world)
    indices = range(rank, length, world)
    # Ranks differ by at most one image. Where that one would need a batch of its own which others
    # could not fill, batches grow by one instead.
    count = min(-(-length // (world * batch_size)), length // world)
    edges = [len(indices) * k // count for k in range(count + 1)]
    return Batches(list(indices[i:j]) for i, j in pairwise(edges))


def of_all_ranks(mine: Any, ranks: int) -> list[Any]:
    """Gather `mine` of all ranks; every rank has to call it.

    >>> of_all_ranks("images", ranks=1)
    ['images']
    """
    if ranks == 1 or not torch.distributed.is_initialized():
        return [mine]
    everyone: list[Any] = [None] * ranks
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def require_each_once(loader: Any, ranks: int = 1) -> Sequence[Any] | None:
    """Return the numbers of the images that the loaders of all ranks give.

    None where they are not known. All ranks have to ask.

    Raises InputError for several loaders, or where an image comes more than once.

    >>> from torch.utils.data import DataLoader
    >>> require_each_once(DataLoader(range(3)))
    [0, 1, 2]
    """
    if len(several := _each(loader)) > 1:
        raise InputError(f"{len(several)} loaders would share one result; give one at a time")
    (loader,) = several
    everyone = of_all_ranks(_drawn(loader), ranks)
    if any(drawn is None for drawn in everyone):
        return None
    numbers = list(chain(*everyone))
    twice = next((number for number, times in Counter(numbers).items() if times > 1), None)
    if twice is not None:
        raise InputError(
            f"the sampler gives image {twice} of its Dataset more than once, and it would count as "
            "often; give each image once, over all ranks (Lightning's own sampler repeats some: "
            "use Trainer(use_distributed_sampler=False), with AnomalyData or a sampler of yours)"
        )
    return numbers


def _drawn(loader: Any) -> list[Any] | None:
    """Return the numbers of the images that this rank's loader gives; None where unknown."""
    batches, dataset = getattr(loader, "batch_sampler", None), getattr(loader, "dataset", None)
    if batches is None or isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        return None
    with torch.random.fork_rng(devices=()):  # what torch draws afterwards is the same as ever
        # One image more than there are is one that was there before, though the sampler never end.
        drawn = list(islice(chain.from_iterable(batches), len(dataset) + 1))
    return [number.tolist() if isinstance(number, Tensor) else number for number in drawn]


def require_as_many(batches: list[float]) -> None:
    """Raise InputError unless all ranks have as many batches: ranks wait for each other.

    >>> require_as_many([3, 3])
    """
    if len(set(batches)) > 1:
        raise InputError(
            f"the ranks' loaders give {', '.join(map(str, batches))} batches, and a fit would wait "
            "for ever; give every rank as many, as AnomalyData does, with other batch sizes"
        )


def sizes_of(loader: Any) -> dict[str, Any]:
    """Return image_size and crop_size of a data module's loader; nothing for other loaders.

    >>> from torch.utils.data import DataLoader
    >>> sizes_of(DataLoader(range(3)))
    {}
    """
    dataset = getattr(loader, "dataset", None)
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset.resize_crop.size if isinstance(dataset, ItemDataset) else {}


def require_sizes(loaders: Any, provenance: Mapping[str, Any]) -> None:
    """Raise InputError where the loaders' sizes are not those of the fit with this provenance.

    >>> from torch.utils.data import DataLoader
    >>> dataset = ItemDataset([], ResizeCrop(image_size=[32, 32], crop_size=None))
    >>> loader = DataLoader(dataset)
    >>> require_sizes(loader, {"image_size": 48, "crop_size": 24})
    Traceback (most recent call last):
    padim_lit.errors.InputError: the data have {'image_size': [32, 32], 'crop_size': None}, and ...
    """
    for given in map(sizes_of, _each(loaders)):
        if given and given.keys() <= provenance.keys():
            size = {key: provenance[key] for key in given}
            if ResizeCrop(**size) != ResizeCrop(**given):
                raise InputError(
                    f"the data have {given}, and the model was fitted with {size}; give the data "
                    "the same"
                )


def _each(loaders: Any) -> list[Any]:
    """Return the one loader, or all of a list or dict, as a list."""
    if isinstance(loaders, dict):
        return list(loaders.values())
    return list(loaders) if isinstance(loaders, list | tuple) else [loaders]
