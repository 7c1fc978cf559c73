"""Which defects of a test the model could find: where their masks lie in what counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from padim_lit.data.items import Item


@dataclass
class Truths:
    """Of test images whose mask shows a defect to the model: whether any of it counts.

    Attributes:
        counts: by position in the test set; False where all of the mask lies outside of roi.
    """

    counts: dict[int, bool] = field(default_factory=dict)

    def add(self, batch: Mapping[str, Any], roi: Tensor | None) -> None:
        """Take in a collated batch of B images; roi (h,w) bool is what counts, None: all."""
        mask = batch["mask"].bool()
        inside = mask if roi is None else mask & roi
        drawn, counts = (one.flatten(1).any(dim=1) for one in (mask, inside))
        self.counts |= dict(
            zip(batch["index"][drawn].tolist(), counts[drawn].tolist(), strict=True)
        )

    def facts(self, items: Sequence[Item]) -> tuple[dict[str, int], list[str]]:
        """For metrics.json: how many masks lie outside of roi, where any does; a note on each."""
        outside = [items[index] for index, some in self.counts.items() if not some]
        planted = sum(item.plant_seed is not None for item in outside)
        found = {"masks_outside_roi": len(outside) - planted, "planted_masks_outside_roi": planted}
        found = {key: count for key, count in found.items() if count}
        return found, [_NOTES[key].format(count) for key, count in found.items()]

    def in_pixel_metrics(self, items: Sequence[Item]) -> int:
        """How many images have a defect that pixel metrics count."""
        return sum(items[index].count_pixel for index, some in self.counts.items() if some)


_NOTES = {
    "masks_outside_roi": "Defective test images with the whole mask outside of roi: {}. The model "
    "does not look there, and they count as defective all the same; draw roi larger, or take them "
    "out of the test.",
    "planted_masks_outside_roi": "Planted defects with the whole mask outside of roi: {}. The "
    "model does not look there.",
}
