"""What a test batch knows of its images."""

from typing import Any

import torch
from torch import Tensor

from padim_lit.errors import InputError, require_labels, require_tensors


def truth_of(batch: Any, maps: Tensor) -> dict[str, Tensor]:
    """What a test batch says of each image: what is true, and in which metrics it counts.

    Where nothing else is said each image counts, in pixel metrics if the batch has masks.

    Args:
        batch: ``label`` (B,), 0 or 1; it may have ``mask`` (B,h,w), ``count_image`` and
            ``count_pixel`` (B,).
        maps: (B,h,w).

    Returns:
        All four, the flags as bool.

    Raises:
        InputError: another shape, a label that is neither, or masks that count and are not there.

    >>> truth_of({"label": torch.tensor([1])}, torch.ones(1, 8, 8))["count_pixel"]
    tensor([False])
    >>> truth_of({"label": torch.tensor([1]), "mask": torch.ones(1, 1, 8, 8)}, torch.ones(1, 8, 8))
    Traceback (most recent call last):
    padim_lit.errors.InputError: a test batch's mask is (1, 1, 8, 8); it must be (1, 8, 8), ...
    """
    require_tensors(batch, "label")
    every, masked = torch.ones(len(maps), dtype=torch.bool, device=maps.device), "mask" in batch
    mask = batch["mask"] if masked else torch.zeros_like(maps)
    truth = {"count_image": every, "count_pixel": every & masked, **batch, "mask": mask}
    keys = ("count_image", "count_pixel", "label", "mask")
    require_tensors(truth, *keys)
    for key in keys:
        given, wanted = truth[key].shape, maps.shape if key == "mask" else maps.shape[:1]
        if given != wanted:
            raise InputError(
                f"a test batch's {key} is {tuple(given)}; it must be {tuple(wanted)}, see "
                "help(padim_lit.PaDiM); a collate_fn can make it"
            )
    if not masked and truth["count_pixel"].any():
        raise InputError("a test batch has count_pixel and no mask; give its masks, or no flag")
    require_labels(truth["label"], whole=True)
    return {key: truth[key].bool() if key in keys[:2] else truth[key] for key in keys}
