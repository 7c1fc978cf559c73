"""What a fit meets again: images that are looked at before it, and those that set its threshold."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from padim_lit.model.embedding import ProjectedLayer

#: Each layer's share of some images.
Layers: TypeAlias = list[ProjectedLayer]
# Bytes that are held on a CPU: of 380 images in one direction with three layers on a 28×28 grid at
# D = 100. A GPU's memory is dearer than what it would compute again.
CPU_BYTES = 2**28


class ProjectionCache:
    """Projected layers of images, kept until the same pixels are met again, which forgets them.

    They are those of one Π and one backbone. Images are known by a number that their pixels give.

    Args:
        room: bytes that may be held.

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
        """With as much room as a fit on `device` has."""
        return cls(CPU_BYTES if device.type == "cpu" else 0)

    def keep_next(self, images: int) -> None:
        """Keep from now on, where so many images have room together; 0: keep no more.

        An image counts once for each direction that it is turned in. What is kept already is given
        as before.
        """
        self.images = images

    def layers(self, images: Tensor, project: Callable[[Tensor], Layers]) -> Layers:
        """`project` of images (B,3,h,w), called with those alone that are not known.

        Those are kept, where they are expected and have room.
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
        """Return a randomly weighted sum of the pixels: others give another one, but for chance.

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
            # A copy: what is returned may be changed, and would keep the batch.
            self.known[key] = [ProjectedLayer(x.values.clone(), x.dims) for x in layers]
