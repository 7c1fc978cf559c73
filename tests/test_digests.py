"""Digests of images: same pixels, same digest; sets of them add and subtract."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from padim_lit.digests import digest, ordered, repeats, shared, without

pictures = st.lists(st.integers(0, 9), max_size=12)


def of(values: list[int]) -> torch.Tensor:
    rows = [digest(np.full((2, 3, 3), value, dtype=np.uint8)) for value in values]
    return torch.stack(rows) if rows else torch.empty(0, 16, dtype=torch.uint8)


def test_a_digest_depends_on_pixels_and_shape():
    base = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    assert digest(base).shape == (16,)
    assert digest(base).equal(digest(np.asfortranarray(base)))
    assert not digest(base).equal(digest(base.reshape(3, 2, 3)))
    assert not digest(base).equal(digest(base + np.uint8(1)))


@given(pictures, pictures)
def test_counts_are_those_of_python_lists(a, b):
    assert repeats(of(a)) == len(a) - len(set(a))
    assert shared(of(a), of(b)) == len(set(a) & set(b))
    assert ordered(of(a)).equal(ordered(of(a[::-1])))
    assert without(ordered(of(a + b)), of(b)).equal(ordered(of(a)))


@given(pictures)
def test_what_is_not_there_cannot_go(a):
    assert without(of(a), of([200])) is None
    if a:
        assert without(of(a), of([a[0]] * (a.count(a[0]) + 1))) is None
