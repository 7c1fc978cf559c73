import numpy as np
import pytest

from padim_lit.data.planted import KINDS, MIN_CHANGE, plant


def cell(size=300, level=150, noise=2.0, seed=0):
    """A grey cell on a dark ground with three horizontal busbars."""
    rng = np.random.default_rng(seed)
    grey = np.full((size, size), level, dtype=float)
    edge = size // 40
    for row in (size // 6, size // 2, size - size // 6):
        grey[row - 1 : row + 2] *= 0.6
    frame = np.full((size, size), 45.0)
    frame[edge:-edge, edge:-edge] = grey[edge:-edge, edge:-edge]
    frame += rng.normal(0, noise, frame.shape)
    return np.repeat(frame.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("kind", KINDS)
def test_mask_is_exactly_where_the_image_changed(kind):
    original = cell()
    before = original.copy()
    for seed in range(20):
        planted, mask = plant(original, kind, seed)
        change = np.abs(planted.astype(int) - original).max(axis=2)
        assert np.array_equal(mask, change > MIN_CHANGE)
        assert planted.shape == original.shape and planted.dtype == np.uint8
    assert np.array_equal(original, before)


@pytest.mark.parametrize("kind", KINDS)
def test_defects_are_dark_visible_and_local(kind):
    original = cell()
    for seed in range(30):
        planted, mask = plant(original, kind, seed)
        assert (planted <= original).all()
        assert 20 < mask.sum() < 0.15 * mask.size
        deepest = (original.astype(int) - planted).max()
        assert 3 * MIN_CHANGE <= deepest <= 0.7 * (150 - 40)


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_one_defect(kind):
    first, again, other = (plant(cell(), kind, seed) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_dark_cell_gets_a_visible_defect_too(kind):
    for seed in range(10):
        _, mask = plant(cell(level=85, noise=0.5), kind, seed)
        assert mask.sum() >= 10


@pytest.mark.parametrize("kind", KINDS)
def test_other_sizes_and_shapes_work(kind):
    wide = cell(size=200)[:150]
    planted, mask = plant(wide, kind, 0)
    assert planted.shape == wide.shape and mask.shape == (150, 200)
    assert mask.any()


def test_fingers_run_across_the_busbars():
    upright = cell(noise=0.5)
    turned = np.ascontiguousarray(upright.transpose(1, 0, 2))
    for seed in range(10):
        rows, columns = np.nonzero(plant(upright, "planted_finger", seed)[1])
        assert np.ptp(rows) > 20
        rows_t, columns_t = np.nonzero(plant(turned, "planted_finger", seed)[1])
        assert (np.ptp(rows_t), np.ptp(columns_t)) == (np.ptp(columns), np.ptp(rows))


def test_cracks_are_thinner_than_they_are_long():
    thin = 0
    for seed in range(30):
        rows, columns = np.nonzero(plant(cell(), "planted_crack", seed)[1])
        thin += len(rows) < 0.35 * np.hypot(np.ptp(rows), np.ptp(columns)) ** 2
    assert thin >= 24
