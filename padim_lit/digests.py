"""Which images moments hold: a digest of each image's pixels, so that none is counted twice.

A digest is BLAKE2b over what the model sees (after resize and crop), 16 bytes. The same picture
under another name or in another lossless format has the same digest.
"""

import hashlib
from collections import Counter
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

BYTES = 16


def digest(pixels: np.ndarray) -> Tensor:
    """Return (16,) uint8 of an image (h,w,3) uint8: what ``digest`` of a batch holds of each."""
    text = f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()
    return torch.frombuffer(
        bytearray(hashlib.blake2b(text, digest_size=BYTES).digest()), dtype=torch.uint8
    )


def sha256_of(file: BinaryIO) -> str:
    """In hex, of what is left to read of a file."""
    found = hashlib.sha256()
    while part := file.read(2**20):
        found.update(part)
    return found.hexdigest()


def ordered(digests: Tensor) -> Tensor:
    """(N,16) in lexical order, so that the order in which images came does not matter."""
    return _tensor(sorted(keys(digests)))


def repeats(digests: Tensor) -> int:
    """How many images are there more often than once, not counting each first one."""
    return len(digests) - len(set(keys(digests)))


def shared(a: Tensor, b: Tensor) -> int:
    """How many different images are in both."""
    return len(set(keys(a)).intersection(keys(b)))


def without(whole: Tensor, part: Tensor) -> Tensor | None:
    """`whole` without `part`, each as often as it is there; None where `part` is not within it."""
    left = Counter(keys(whole))
    left.subtract(keys(part))
    return None if min(left.values(), default=0) < 0 else _tensor(sorted(left.elements()))


def keys(digests: Tensor) -> list[bytes]:
    """A hashable value for each of (N,16), that sorts as they do."""
    # NumPy takes zeros off the end and `_tensor` puts them back.
    return np.ascontiguousarray(digests.cpu().numpy()).view(f"S{BYTES}").reshape(-1).tolist()


def _tensor(keys: list[bytes]) -> Tensor:
    return torch.from_numpy(np.array(keys, f"S{BYTES}").view(np.uint8).reshape(-1, BYTES))
