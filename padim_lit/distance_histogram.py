"""Histograms of distances whose bins need no range beforehand: batches and ranks share them.

A distance's bin is the head of its float32 bit pattern, which orders positive floats: 30 octaves
(2⁻¹⁰ to 2²⁰) of 65,536 bins each. Two distances in one bin differ by less than 0.0016 %.
"""

import numpy as np
import torch
from torch import Tensor

from padim_lit.errors import require_order

MANTISSA_BITS = 16
LOWEST_EXPONENT = -10
OCTAVES = 30
BINS = OCTAVES << MANTISSA_BITS
# Share of pixels in the first and last bin, which are open-ended, from which metrics would lie.
OUTSIDE_LIMIT = 0.01


def distance_bins(distances: Tensor) -> Tensor:
    """Bin in [0, `BINS`) of each distance ≥ 0, in order; int32. InputError for one not finite."""
    require_order(distances, "distances")
    bits = distances.float().contiguous().view(torch.int32)
    first = (127 + LOWEST_EXPONENT) << MANTISSA_BITS
    return ((bits >> (23 - MANTISSA_BITS)) - first).clamp(0, BINS - 1)


def bin_edge(bins: Tensor) -> Tensor:
    """Lower edge of each bin, float32: the smallest distance that falls into it."""
    first = (127 + LOWEST_EXPONENT) << MANTISSA_BITS
    return ((bins.int() + first) << (23 - MANTISSA_BITS)).view(torch.float32)


def empty_histogram(dtype: torch.dtype, device: torch.device) -> Tensor:
    """`BINS` zeros."""
    if device.type != "cpu":
        return torch.zeros(BINS, dtype=dtype, device=device)
    # NumPy's take no memory until they are written, and few octaves ever are.
    return torch.from_numpy(np.zeros(BINS, str(dtype).removeprefix("torch.")))


def add_to_histogram(histogram: Tensor, bins: Tensor, sign: int = 1) -> None:
    """Count each of `bins` (N,) in `histogram`, in place."""
    # Between the least and the greatest alone: a histogram of all bins would be 16 MB each time.
    if not len(bins):
        return
    low = int(bins.min())
    counts = torch.bincount(bins - low)
    histogram[low : low + len(counts)].add_(counts, alpha=sign)
