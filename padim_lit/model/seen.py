"""What a fit meets again: images that are looked at before it, and those that set its threshold."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from padim_lit.model.embedding import ProjectedLayer

#: Each layer's share of some images.
Layers: TypeAlias = list[ProjectedLayer]
# What is held on a CPU: 380 images on a 28×28 grid at D = 100. A GPU's memory is dearer than what
# it would compute again.
ROOM = 2**28


class Seen:
    """Keeps images' projected layers until they are asked for again: no backbone sees them twice.

    Args:
        room: bytes that may be held; 0: nothing is kept.

    >>> seen, digest = Seen(room=2**20), torch.zeros(1, 16, dtype=torch.uint8)
    >>> project = lambda images: [ProjectedLayer(images.mean(dim=1).unsqueeze(3), slice(1))]
    >>> first, again = (seen.layers(x, digest, project) for x in (torch.ones(1, 3, 2, 2), None))
    >>> torch.equal(first[0].values, again[0].values)
    True
    """

    def __init__(self, room: int = 0):
        self.room = room
        self.known: dict[tuple[int, bytes], Layers] = {}

    @classmethod
    def during_a_fit(cls, device: torch.device) -> "Seen":
        """With as much room as a fit on `device` has."""
        return cls(ROOM if device.type == "cpu" else 0)

    def close(self) -> None:
        """Keep no more images; those that are there are given as before."""
        self.room = 0

    def layers(
        self,
        images: Tensor,
        digests: Tensor | None,
        project: Callable[[Tensor], Layers],
        way: int = 0,
    ) -> Layers:
        """Projected layers of a batch: what was kept is given and forgotten, the rest computed.

        Args:
            images: (B,3,h,w).
            digests: (B,16) uint8, which images they are; None: all are computed.
            project: computes them.
            way: the direction in which the images are turned.
        """
        if digests is None or not (self.known or self.room):
            return project(images)
        keys = [(way, one.tobytes()) for one in digests.cpu().numpy()]
        found = [self.known.pop(key, None) for key in keys]
        new = [i for i, layers in enumerate(found) if layers is None]
        everything = len(new) == len(keys)
        computed = project(images if everything else images[new]) if new else []
        self._keep([keys[i] for i in new], computed)
        if everything:
            return computed
        for j, i in enumerate(new):
            found[i] = _one(computed, j)
        return [
            ProjectedLayer(torch.cat([one.values for one in same]), same[0].dims)
            for same in zip(*found, strict=True)
        ]

    def _keep(self, keys: list[tuple[int, bytes]], layers: Layers) -> None:
        for i, key in enumerate(keys):
            one = _one(layers, i)
            if (size := _bytes(one)) <= self.room:
                # A copy: what is returned may be changed, and would keep the batch.
                self.known[key] = [ProjectedLayer(x.values.clone(), x.dims) for x in one]
                self.room -= size


def _one(layers: Layers, image: int) -> Layers:
    return [ProjectedLayer(x.values[image : image + 1], x.dims) for x in layers]


def _bytes(layers: Layers) -> int:
    return sum(x.values.nbytes for x in layers)
