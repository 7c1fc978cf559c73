"""How much of photos a model sees, and in which proportions: notes where that is not all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from padim_lit.data.check import some
from padim_lit.data.images import read_header
from padim_lit.data.transform import ResizeCrop
from padim_lit.system.console import count, percent

# From which quotient of a photo's squeezed sides on details may be lost by it.
SQUEEZED_MUCH = 2.0
# Above 1 by so much, turned photos are distorted.
SQUEEZED_FROM = 0.05
# Files whose headers are read, and sizes that are counted, at most.
MEASURED_PHOTOS = 2000


@dataclass(eq=False)
class Sight:
    """What of photos a model sees, by their sizes.

    Attributes:
        resize_crop: how it sees them.
        photos: the first name of each size (h, w).
        paged: how many have further pages or frames, which are not read; `first` is one's name.

    >>> sight = Sight(ResizeCrop(256, 224))
    >>> sight.add("strip.png", (300, 2000))
    >>> sight.news(), sight.news()
    (['The model sees 11% of an image (strip.png, 2000×300 pixels): its centre, by ...'], [])
    """

    resize_crop: ResizeCrop
    photos: dict[tuple[int, int], str] = field(default_factory=dict)
    paged: int = 0
    first: str = ""
    _told: set[int] = field(default_factory=set, init=False)
    _changed: bool = field(default=False, init=False)

    def add(self, name: str, size: tuple[int, int], paged: bool = False) -> None:
        """Count a photo of `size` (h, w)."""
        if size not in self.photos and len(self.photos) < MEASURED_PHOTOS:
            self.photos[size], self._changed = name, True
        if paged:
            self.first = self.first or name
            self.paged, self._changed = self.paged + 1, True

    def look(self, paths: Sequence[Path]) -> None:
        """Count the photos in files, or so many of them; raise InputError for one without size."""
        for path in some(paths, MEASURED_PHOTOS):
            self.add(str(path), *read_header(path))

    def seen(self, size: tuple[int, int]) -> tuple[float, float]:
        """Return the (height, width) of what is seen of a photo, in its pixels."""
        left, top, right, bottom = self.resize_crop.seen(*size)
        return bottom - top, right - left

    def notes(self) -> list[str]:
        """Return a note for each reason: a crop, other proportions, further pages."""
        return list(filter(None, self._kinds()))

    def news(self) -> list[str]:
        """Return the notes for reasons that were not told before."""
        kinds = self._kinds() if self._changed else []  # most photos are of a known size
        found = {i: note for i, note in enumerate(kinds) if note and i not in self._told}
        self._changed = False
        self._told |= found.keys()
        return list(found.values())

    def _kinds(self) -> list[str]:
        return [self.out_of_sight(), self.squeezed(), self.further_pages()] if self.photos else []

    def out_of_sight(self) -> str:
        """Return a note where the crop leaves out a part of a photo, "" elsewhere."""
        shares = {size: math.prod(self.seen(size)) / math.prod(size) for size in self.photos}
        size = min(shares, key=lambda size: shares[size])
        if shares[size] > 0.999:
            return ""
        least = "" if len(shares) == 1 else "as little as "
        by = " and ".join(f"{key}={value}" for key, value in self.resize_crop.size.items())
        return (
            f"The model sees {least}{percent(shares[size])} of an image ({self._named(size)}): its "
            f"centre, by {by}; a fit with crop_size=null sees all."
        )

    def squeezed(self, turned: bool = False) -> str:
        """Return a note where a photo is squeezed much, or one to be `turned` at all."""
        h, w = self.resize_crop.output_shape
        stretches = {size: self.seen(size)[1] / w * h / self.seen(size)[0] for size in self.photos}
        ratios = {size: max(ratio, 1 / ratio) for size, ratio in stretches.items()}
        size = max(ratios, key=lambda size: ratios[size])
        distorted = turned and ratios[size] > 1 + SQUEEZED_FROM
        if not distorted and ratios[size] < SQUEEZED_MUCH:
            return ""
        # As many pixels in the photo's proportions.
        height, width = self.seen(size)
        long = max(height / width, width / height)
        short = max(32, 32 * round(math.sqrt(h * w / long) / 32))
        sides = [short, 32 * round(short * long / 32)]
        rows, columns = sides if width > height else reversed(sides)
        return (
            f"Photos are squeezed up to {ratios[size]:.3g}:1 ({self._named(size)})"
            f"{', so turned ones are distorted' if distorted else ''}; cut them, or fit with "
            f"image_size=[{rows},{columns}]"
            f"{'' if self.resize_crop.crop is None else ' crop_size=null'}, which nearly keeps "
            "these proportions."
        )

    def further_pages(self) -> str:
        """Return a note where photos have further pages, "" elsewhere."""
        others = f" and {count(self.paged - 1, 'other')}" if self.paged > 1 else ""
        have = "have" if others else "has"
        said = f"{self.first}{others} {have} several pages or frames; the first is read."
        return said if self.paged else ""

    def _named(self, size: tuple[int, int]) -> str:
        return f"{self.photos[size]}, {size[1]}×{size[0]} pixels"
