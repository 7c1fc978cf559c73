import pytest
import torch
from torch.nn import functional as F

from padim_lit import JL, Backbone, Detector, PerPosition
from padim_lit.errors import InputError
from padim_lit.model.anomaly_map import AnomalyMap
from padim_lit.model.grid import resolve_alignment
from padim_lit.model.region_of_interest import RestrictedMap


class Means:
    """A backbone whose layers are means of blocks, each moved by some pixels beforehand."""

    def __init__(self, strides, moved):
        self.strides, self.moved, self.channels = strides, moved, [3] * len(strides)
        self.embedding_dim, self.pixel_mean = 3 * len(strides), torch.zeros(1)

    def __call__(self, images):
        return [
            F.avg_pool2d(images.roll(by, dims=(2, 3)), stride)
            for stride, by in zip(self.strides, self.moved, strict=True)
        ]


def test_means_of_blocks_lie_where_they_are():
    found = resolve_alignment(Means([4, 8], [(0, 0)] * 2), (64, 96), (16, 24), "auto")
    assert found == pytest.approx((0, 0), abs=0.3)


def test_what_is_moved_is_moved_back_by_the_layers_mean():
    found = resolve_alignment(Means([4, 8], [(4, 0), (8, -8)]), (64, 96), (16, 24), "auto")
    assert found == pytest.approx((6, -4), abs=0.3)


def test_a_coarser_grid_and_odd_layers_are_looked_at_as_the_embedding_is_made():
    # 21 and 11 positions: position j of the coarser layer is repeated at 2j and 2j + 1.
    backbone = Means([8, 16], [(0, 0)] * 2)
    images = lambda x: [F.avg_pool2d(x, 8), F.avg_pool2d(F.pad(x, (0, 8, 0, 8)), 16)]  # noqa: E731
    backbone.__class__ = type("Padded", (Means,), {"__call__": lambda self, x: images(x)})
    found = resolve_alignment(backbone, (168, 168), (21, 21), "auto")
    assert found == pytest.approx((0, 0), abs=1)


@pytest.mark.parametrize("grid", [4, 3, 2])
def test_a_grid_coarser_than_the_layers_changes_little(grid):
    found = resolve_alignment(Means([8], [(4, 0)]), (64, 64), (grid, grid), "auto")
    assert found == pytest.approx((4, 0), abs=2)


def test_a_layer_that_nothing_changes_has_no_offset():
    backbone = Means([8], [(0, 0)])
    backbone.__class__ = type(
        "Blind", (Means,), {"__call__": lambda self, x: [x[:, :, ::8, ::8] * 0]}
    )
    assert resolve_alignment(backbone, (64, 64), (8, 8), "auto") == (0, 0)


@pytest.mark.parametrize(
    "given", ["yes", [1], [1, 2, 3], ["a", 1], True, [40, 0], [0, float("nan")]]
)
def test_others_are_refused(given):
    with pytest.raises(InputError, match="alignment="):
        resolve_alignment(Means([8], [(0, 0)]), (64, 64), (8, 8), given)


def test_none_and_numbers_are_taken_as_they_are():
    backbone = Means([8], [(0, 0)])
    assert resolve_alignment(backbone, (64, 64), (8, 8), None) == (0, 0)
    assert resolve_alignment(backbone, (64, 64), (8, 8), [3, -1.5]) == (3, -1.5)


def test_without_an_offset_the_map_is_torchs_interpolation():
    distances = torch.rand(2, 6 * 5)
    expected = F.interpolate(distances.view(2, 1, 6, 5), (33, 40), mode="bilinear")[:, 0]
    torch.testing.assert_close(AnomalyMap((6, 5), (33, 40), sigma=0)(distances), expected)


def test_a_map_with_an_offset_is_the_map_moved_back():
    distances = torch.rand(2, 8 * 8)
    drawn = AnomalyMap((8, 8), (64, 64), sigma=0)(distances)
    moved = AnomalyMap((8, 8), (64, 64), sigma=0, offset=(5.0, -3.0))(distances)
    torch.testing.assert_close(moved[:, :-5, 3:], drawn[:, 5:, :-3])
    torch.testing.assert_close(moved[:, -5:, 3:], drawn[:, -1:, :-3].expand(-1, 5, -1))


def test_a_region_of_interest_counts_what_is_drawn_in_it():
    roi = torch.zeros(64, 64, dtype=torch.bool)
    roi[20:23, 40:43] = True
    roi[61:, 10:30] = roi[10:30, :3] = True  # what is drawn there may come from beyond the image
    distances = 1 + torch.rand(1, 64)
    for offset in ((0.0, 0.0), (6.0, -6.0), (-11.0, 9.0)):
        whole = AnomalyMap((8, 8), (64, 64), sigma=0, offset=offset)
        found = RestrictedMap(whole, roi)(distances)[0]
        assert found[~roi].eq(0).all()
        least, most = distances.min() * 0.999, distances.max() * 1.001
        assert found[roi].ge(least).all() and found[roi].le(most).all()
        there = round(21.5 + offset[0]) // 8, round(41.5 + offset[1]) // 8
        assert there[0] * 8 + there[1] in RestrictedMap(whole, roi).kept.tolist()


@pytest.mark.parametrize("size", [168, 232])
def test_a_planted_spot_is_shown_where_it_is(size):
    backbone = Backbone(
        "tf_efficientnet_lite0", weights="pretrained", feature_location="bottleneck",
        mean=[0.5] * 3, std=[0.5] * 3,
    )  # fmt: skip
    random = torch.Generator().manual_seed(3)
    good = 0.4 + 0.2 * torch.rand(12, 3, size, size, generator=random)
    off = []
    for alignment in (None, "auto"):
        density = PerPosition(dim=40)
        detector = Detector(
            backbone, JL(backbone.embedding_dim, 40), (size, size), density, alignment=alignment
        )
        state = detector.update_state(detector.empty_state(), {"image": good})
        detector.set_state(state)
        found = []
        for y, x in ((60, 70), (75, 90), (90, 63), (101, 84)):
            image = good[:1].clone()
            image[:, :, y - 4 : y + 4, x - 4 : x + 4] = 0
            rise = (detector(image)[1] - detector(good[:1])[1])[0].clamp(min=0).square()
            share = rise / rise.sum()
            pixels = torch.arange(size) + 0.5
            found.append((share.sum(1) @ pixels - y, share.sum(0) @ pixels - x))
        off.append(torch.tensor(found).mean(0).abs().max())
    unaligned, aligned = off
    assert aligned < 4.5
    assert unaligned > aligned + 1
