"""Seeded, reproducible choice of held-out images."""

import hashlib
from collections.abc import Hashable, Sequence
from typing import TypeVar

from padim_lit.errors import InputError

T = TypeVar("T")


def derived_seed(seed: int, name: str) -> int:
    """A 64-bit seed for `name`, a pure function of both arguments.

    Hashing, unlike a library's random stream, is the same on every platform and version, and one
    file more or less leaves the seeds of the others as they are.
    """
    text = f"{seed}:{name}".encode("utf-8", "surrogateescape")  # a file's name may be no UTF-8
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def hold_out(
    values: Sequence[T],
    names: Sequence[str],
    count: int,
    seed: int,
    groups: Sequence[Hashable] | None = None,
    count_key: str = "number",
) -> tuple[list[T], list[T]]:
    """Split `values` into (kept, held out), `count` of them held out, order preserved.

    Args:
        values: what is split.
        names: a unique name for each value; with the seed it decides the draw.
        count: number of values to hold out.
        seed: same seed, same split.
        groups: values of one group stay on the same side. Groups are taken in a random order,
            skipping those that would exceed `count`.
        count_key: what a user sets `count` by, for the error.

    Raises InputError where no choice of that size was found.
    """
    labels = list(names) if groups is None else list(groups)
    members: dict[Hashable, list[int]] = {}
    for position, label in enumerate(labels):
        members.setdefault(label, []).append(position)
    held: set[int] = set()
    for group in sorted(members.values(), key=lambda m: derived_seed(seed, names[m[0]])):
        if len(held) + len(group) <= count:
            held.update(group)
    if len(held) != count:
        raise InputError(
            f"cannot hold out {count} of {len(values)} images in {len(members)} groups that stay "
            f"whole; choose another {count_key} or split_seed"
        )
    kept, out = ([v for n, v in enumerate(values) if (n in held) == side] for side in (False, True))
    return kept, out
