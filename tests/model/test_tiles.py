"""tiles=: large images tile by tile are one image to all that follows."""

import numpy as np
import pytest
import torch
from _helpers.fits import fit_on_images
from _helpers.paper import paper

from padim_lit import JL, Backbone, Detector, InputError
from padim_lit.checkpoint.state import load_detector, save_detector
from padim_lit.deploy.graph import Graph
from padim_lit.deploy.predictor import Predictor
from padim_lit.model.tiles import MARGIN, spans

SHAPE, TILES = (256, 192), [4, 3]
OWN, SEEN = 64, 128  # pixels of a tile's own a side, and with what it shows of its neighbours


def images(count: int, seed: int = 0) -> torch.Tensor:
    noise = torch.rand(count, 3, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return 0.4 + 0.2 * noise


def backbone(tiles=TILES, model="test_resnet", **options) -> Backbone:
    return Backbone(model, weights="random", tiles=tiles, **options)


@pytest.fixture(scope="module")
def detector() -> Detector:
    net = backbone()
    made = Detector(net, JL(net.embedding_dim, 8), SHAPE, **paper(8))
    fit_on_images(made, images(12))
    return made.eval()


def test_joined_features_are_those_of_each_tile_cut_by_hand():
    whole, tiled, x = backbone(1), backbone(), images(2)
    starts = {4: (0, 32, 96, 128), 3: (0, 32, 64)}  # moved inside at the ends
    for layer, (found, coarse) in enumerate(zip(tiled(x), whole.grids(SHAPE), strict=True)):
        assert found.shape[-2:] == coarse
        stride = SHAPE[0] // coarse[0]
        for i, top in enumerate(starts[4]):
            for j, left in enumerate(starts[3]):
                tile = whole(x[..., top : top + SEEN, left : left + SEEN])[layer]
                rows, columns = (
                    slice((n * OWN - at) // stride, (n * OWN - at + OWN) // stride)
                    for n, at in ((i, top), (j, left))
                )
                y, x0 = (slice(n * OWN // stride, (n + 1) * OWN // stride) for n in (i, j))
                torch.testing.assert_close(found[..., y, x0], tile[..., rows, columns])


def test_fine_layers_do_not_see_where_tiles_meet():
    # Their receptive field is smaller than what a tile shows of its neighbours.
    net, x = [1], images(1)
    whole, tiled = (Backbone("resnet18", net, "random", tiles=t)(x)[0] for t in (1, TILES))
    torch.testing.assert_close(tiled, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("side", "tiles", "step"), [(896, 4, 16), (128, 2, 32), (84, 2, 14)])
def test_tiles_have_one_size_and_each_pixel_one_owner(side, tiles, step):
    found = spans(side, tiles, step)
    assert len({span.stop - span.start for span in found}) == 1
    assert [p for span in found for p in range(span.first, span.last)] == list(range(side))
    for span in found:
        assert all(edge % step == 0 for edge in span) and span.start >= 0 >= span.stop - side
        assert span.start in (0, *range(span.first - MARGIN + 1))
        assert span.stop == side or span.stop >= span.last + MARGIN


def test_the_backbone_meets_no_more_than_a_tile_of_each_image(monkeypatch):
    net, seen = backbone(), []
    monkeypatch.setattr(net.net, "forward", lambda x, run=net.net.forward: seen.append(x) or run(x))
    net(images(2))
    assert [tuple(x.shape) for x in seen] == [(2, 3, SEEN, SEEN)] * 12


def test_a_defect_where_four_tiles_meet_is_one_region_in_pixels_of_the_picture(detector):
    predictor = Predictor(detector, image_size=list(SHAPE), device="cpu", threshold=9.0)
    picture = np.full((512, 768, 3), 128, np.uint8)  # 2 and 4 pixels for one that is seen
    assert predictor(picture).regions == []
    picture[236:276, 236:276] = 255  # tiles meet at (256, 256)
    (region,) = predictor(picture).regions
    left, top, right, bottom = region.numbers()["box"]
    assert abs(left + right - 2 * 256) < 40 and abs(top + bottom - 2 * 256) < 40
    assert 40 < right - left < 180 and 20 < bottom - top < 120


def test_checkpoint_and_graph_are_the_same_detector(detector, tmp_path):
    save_detector(detector, tmp_path / "model.ckpt")
    again, x = load_detector(tmp_path / "model.ckpt"), images(2, seed=1)
    assert again.backbone.tiles == TILES
    with torch.inference_mode():
        score, maps = detector(x)
        for found in (again(x), Graph(detector).eval()(x)):
            torch.testing.assert_close(found, (score, maps), rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_a_transformer_of_one_size_takes_large_images_by_tiles():
    name, options = "vit_tiny_patch16_224", {"img_size": [SEEN, SEEN]}
    assert backbone(model=name, **options).grids(SHAPE)[0] == (16, 12)
    with pytest.raises(InputError, match=f"images of {SEEN}×{SEEN} pixels"):
        backbone(model="hiera_tiny_224").grids(SHAPE)


@pytest.mark.parametrize(
    ("tiles", "said"),
    [
        ("4x4", "must be a whole number .*from 1 to 64"),
        ([1, 2, 3], "must be a whole number .*from 1 to 64"),
        (0, "must be a whole number .*from 1 to 64"),
        (65, "must be a whole number .*from 1 to 64"),
        (None, "must be a whole number .*from 1 to 64"),
        ([5, 3], r"256×192 pixels: .* times 16, .* set image_size=\[240,192\]"),
    ],
)
def test_wrong_tiles_are_one_line(tiles, said):
    with pytest.raises(InputError, match=said):
        backbone(tiles).grids(SHAPE)
