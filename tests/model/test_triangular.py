"""Triangles in bands against plain (P,D,D) tensors."""

import pytest
import torch

from padim_lit.model.triangular import MAX_BANDS, Triangle, blocks, triangle_bytes

P = 3
DIMS = [1, 2, 7, 64, 65, 150, 401]


def lower(dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(P, dim, dim, generator=generator, dtype=torch.float64).tril()


@pytest.mark.parametrize("dim", DIMS)
def test_square_pack_and_unpack_are_inverse(dim):
    square = lower(dim)
    triangle = Triangle.of(square)
    assert (triangle.count, triangle.dim) == (P, dim)
    assert len(triangle.bands) <= MAX_BANDS
    assert torch.equal(triangle.to_dense(symmetric=False), square)
    row, column = torch.tril_indices(dim, dim)
    assert torch.equal(triangle.pack(), square[:, row, column])
    assert torch.equal(Triangle.unpack(triangle.pack()).to_dense(symmetric=False), square)
    mirrored = square + square.tril(-1).mT
    assert torch.equal(Triangle.of(mirrored).pack(), triangle.pack())


@pytest.mark.parametrize("dim", DIMS)
def test_products_and_norms_are_those_of_the_square(dim):
    x = torch.randn(P, 5, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    triangle = Triangle.zeros(P, dim, dtype=torch.float64)
    triangle.add_products(x, 0.5)
    torch.testing.assert_close(triangle.to_dense(symmetric=True), 0.5 * x.mT @ x)
    factor = lower(dim)
    expected = torch.linalg.vector_norm(x @ factor.mT, dim=2)
    torch.testing.assert_close(Triangle.of(factor).norms(x), expected)


def test_positions_are_views_and_can_be_filled():
    triangle = Triangle.zeros(P, 70, dtype=torch.float64)
    square = lower(70)
    triangle.fill(slice(1, 3), square[1:])
    assert not triangle.at(slice(0, 1)).to_dense(symmetric=False).any()
    assert torch.equal(triangle.at(slice(1, 3)).to_dense(symmetric=False), square[1:])
    triangle.at(slice(0, 1)).bands[0].fill_(2)
    assert (triangle.bands[0][0] == 2).all()


@pytest.mark.parametrize("dim", [100, 150, 550])
def test_it_holds_little_more_than_half(dim):
    triangle = Triangle.zeros(P, dim)
    held = sum(band.nbytes for band in triangle.bands)
    assert held == triangle_bytes(P, dim)
    assert held <= 0.76 * 4 * P * dim**2
    assert dim < 550 or held <= 0.59 * 4 * P * dim**2


def test_blocks_cover_every_position_once(monkeypatch):
    monkeypatch.setattr("padim_lit.model.triangular.SCRATCH_NUMBERS", 10)
    cpu = torch.device("cpu")
    for positions, numbers in ((7, 3), (7, 100), (1, 1)):
        covered = [i for part in blocks(positions, numbers, cpu) for i in range(positions)[part]]
        assert covered == list(range(positions))
    assert [part.stop - part.start for part in blocks(7, 5, cpu)] == [2, 2, 2, 1]
    assert list(blocks(7, 5, torch.device("meta"))) == [slice(0, 7)]
