"""Projected images that a fit needs twice: learning looks at them first, or its threshold last."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from padim_lit.model.embedding import ProjectedLayer

#: Each layer's share of the embeddings of some images.
Layers: TypeAlias = list[ProjectedLayer]
# Bytes that are held on a CPU: 380 images in one direction, of three layers on a 28×28 grid at
# D = 100. On a GPU, computing again is cheaper than memory.
CPU_BYTES = 2**28


class ProjectionCache:
    """Projected layers of images, kept until they are asked for a second time.

    They are those of one Π and one backbone. An image is recognised by a number computed from its
    pixels.

    Args:
        room: the most bytes that may be held.

    >>> cache = ProjectionCache(room=2**20)
    >>> cache.keep_next(2)
    >>> project = lambda images: [ProjectedLayer(images.mean(dim=1).unsqueeze(3), slice(1))]
    >>> images = torch.rand(2, 3, 2, 2)
    >>> first = cache.layers(images, project)
    >>> torch.equal(first[0].values, cache.layers(images, None)[0].values)
    True
    """

    def __init__(self, room: int = 0):
        self.most, self.images = room, 0
        self.known: dict[float, Layers] = {}
        self._weights = torch.empty(0, dtype=torch.float64)

    @classmethod
    def for_fit(cls, device: torch.device) -> "ProjectionCache":
        """Return a cache with the room that a fit on `device` has."""
        return cls(CPU_BYTES if device.type == "cpu" else 0)

    def keep_next(self, images: int) -> None:
        """Keep new images from now on, if there is room for so many; 0: keep no more.

        An image counts once for each direction that it is turned in. What is kept already stays.
        """
        self.images = images

    def layers(self, images: Tensor, project: Callable[[Tensor], Layers]) -> Layers:
        """Return `project` of images (B,3,h,w), which is called with the unknown ones alone.

        These are kept if `keep_next` said so. Known ones are forgotten.
        """
        if not (self.known or (self.images and self.most)):
            return project(images)
        keys = [self._number(image) for image in images]
        by_image = [self.known.pop(key, None) for key in keys]
        new = [i for i, layers in enumerate(by_image) if layers is None]
        everything = len(new) == len(keys)
        computed = project(images if everything else images[new]) if new else []
        for j, i in enumerate(new):
            by_image[i] = own = [ProjectedLayer(x.values[j : j + 1], x.dims) for x in computed]
            self._keep(keys[i], own)
        if everything:
            return computed
        return [
            ProjectedLayer(torch.cat([x.values for x in layer]), layer[0].dims)
            for layer in zip(*by_image, strict=True)
        ]

    def _number(self, image: Tensor) -> float:
        """Return a randomly weighted sum of the pixels, practically never the same for two images.

        A digest of an image's bytes takes 0.65 ms on one core, this takes 0.09.
        """
        pixels = image.double().flatten()
        if len(self._weights) != len(pixels):
            generator = torch.Generator().manual_seed(0)
            self._weights = torch.randn(len(pixels), generator=generator, dtype=torch.float64)
        return float(pixels @ self._weights.to(pixels.device))

    def _keep(self, key: float, layers: Layers) -> None:
        images = max(self.images, len(self.known) + 1)
        room = images * sum(x.values.nbytes for x in layers) <= self.most
        if self.images and room and key not in self.known:
            # A copy: what is returned may be changed, and a view would keep all of the batch.
            self.known[key] = [ProjectedLayer(x.values.clone(), x.dims) for x in layers]
