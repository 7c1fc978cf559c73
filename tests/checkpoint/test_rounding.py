"""Whitening in eight bits: how far it is off, and what a file of it must hold."""

import pytest
import torch
from _helpers.fits import fit_on_embeddings
from _helpers.paper import paper

from padim_lit import JL, Backbone, Detector, InputError
from padim_lit.checkpoint.rounding import from_int8, to_int8
from padim_lit.checkpoint.state import load_detector, save_detector, slim_state
from padim_lit.model.triangular import Triangle


def rows_of(packed):
    """Lists of rows of each triangle, by a loop of its own."""
    dim = Triangle.unpack(packed).dim
    square = Triangle.unpack(packed).to_dense(symmetric=False)
    return [square[:, row, : row + 1] for row in range(dim)]


@pytest.mark.parametrize("dim", [1, 2, 7, 70])
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e30])
def test_no_number_is_off_by_more_than_half_a_step_of_its_row(dim, size):
    packed = torch.randn(5, dim * (dim + 1) // 2, generator=torch.Generator().manual_seed(dim))
    packed *= torch.logspace(0, 4, packed.shape[1]) * size  # rows of very different size
    packed[1] = 0
    integers, scales = to_int8(packed)
    assert integers.dtype == torch.int8 and integers.abs().max() == 127
    restored = from_int8(integers, scales).pack()
    for row, found in zip(rows_of(packed), rows_of(restored), strict=True):
        # bfloat16 rounds a scale by up to 1/256 of it, and the step with it.
        step = row.abs().amax(dim=1, keepdim=True) / 127 * (1 + 1 / 256)
        assert ((row - found).abs() <= 0.5001 * step).all()
    assert not restored[1].any()
    again = to_int8(restored)
    assert torch.equal(from_int8(*again).pack(), restored)  # what was rounded stays as it is


def test_a_row_is_rounded_by_its_own_scale():
    packed = torch.tensor([[1000.0, 0.01, 0.02]])
    torch.testing.assert_close(from_int8(*to_int8(packed)).pack(), packed, rtol=1e-2, atol=0)


@pytest.fixture
def detector():
    backbone = Backbone("test_resnet", weights="random")
    made = Detector(backbone, JL(backbone.embedding_dim, 9), (64, 64), **paper(9, eps=0.01))
    fit_on_embeddings(made, torch.rand(20, made.positions, 9))
    return made


def test_distances_move_by_little(detector, tmp_path):
    save_detector(detector, tmp_path / "slim.ckpt", slim_state(detector, torch.int8))
    x = torch.rand(6, detector.positions, 9)
    given, found = detector.distances_of(x), load_detector(tmp_path / "slim.ckpt").distances_of(x)
    assert 1e-5 < (found / given - 1).abs().max() < 2e-2


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("scales"),
        lambda state: state.update(scales=state["scales"][:, 1:]),
        lambda state: state.update(scales=state["scales"].float()),
        lambda state: state["scales"].fill_(torch.inf),
        lambda state: state.update(whitening=state["whitening"][:, 1:]),
        lambda state: state.update(whitening=state["whitening"].short()),
    ],
)
def test_a_damaged_file_is_refused(detector, tmp_path, damage):
    state = slim_state(detector, torch.int8)
    save_detector(detector, tmp_path / "whole.ckpt", state)
    load_detector(tmp_path / "whole.ckpt")
    damage(state)
    save_detector(detector, tmp_path / "damaged.ckpt", state)
    with pytest.raises(InputError, match=r"damaged\.ckpt"):
        load_detector(tmp_path / "damaged.ckpt")
