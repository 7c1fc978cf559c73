"""Which images moments hold: a digest of each image's pixels, so that none is counted twice.

A digest is BLAKE2b over what the model sees (after resize and crop), 16 bytes. The same picture
under another name or in another lossless format has the same digest.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor

BYTES = 16


def digest(pixels: np.ndarray) -> Tensor:
    """(16,) uint8 of an image (h,w,3) uint8."""
    text = f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()
    return torch.frombuffer(
        bytearray(hashlib.blake2b(text, digest_size=BYTES).digest()), dtype=torch.uint8
    )


def ordered(digests: Tensor) -> Tensor:
    """(N,16) in lexical order, so that the order in which images came does not matter."""
    return torch.from_numpy(np.sort(_keys(digests)).view(np.uint8).reshape(-1, BYTES).copy())


def repeats(digests: Tensor) -> int:
    """How many images are there more often than once, not counting each first one."""
    return len(digests) - len(np.unique(_keys(digests)))


def shared(a: Tensor, b: Tensor) -> int:
    """How many different images are in both."""
    return len(np.intersect1d(_keys(a), _keys(b)))


def without(whole: Tensor, part: Tensor) -> Tensor | None:
    """`whole` without `part`, each as often as it is there; None where `part` is not within it."""
    kinds, counts = np.unique(_keys(whole), return_counts=True)
    gone, times = np.unique(_keys(part), return_counts=True)
    at = np.searchsorted(kinds, gone)
    if (at == len(kinds)).any() or (kinds[at] != gone).any() or (counts[at] < times).any():
        return None
    counts[at] -= times
    left = np.repeat(kinds, counts)
    return torch.from_numpy(left.view(np.uint8).reshape(-1, BYTES).copy())


def keys(digests: Tensor) -> list[bytes]:
    """A hashable value for each of (N,16)."""
    return _keys(digests).tolist()


def _keys(digests: Tensor) -> np.ndarray:
    """One comparable value an image."""
    return np.ascontiguousarray(digests.cpu().numpy()).view(f"S{BYTES}").reshape(-1)
