"""Regions, masks and maps lie where the defect is in the picture, whatever was resized and cut."""

import json

import numpy as np
import pytest
import torch
from _helpers.fits import fit_on_images
from _helpers.paper import paper
from PIL import Image
from scipy import ndimage

from padim_lit import JL, Backbone, Detector, Predictor
from padim_lit.data.transform import ResizeCrop
from padim_lit.deploy import regions
from padim_lit.deploy.regions import View, find, spread

SIZES = [(97, 203), (301, 64), (256, 256), (61, 47), (1023, 517)]
LOOKS = [(256, 224), (64, 64), ([96, 128], None), (60, None), ([90, 70], [41, 70])]


def view_of(look: ResizeCrop, size: tuple[int, int]) -> View:
    return View(size, look.seen(*size))


def blob(shape: tuple[int, int], seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, 3).astype(np.float32)


@pytest.mark.parametrize("sizes", LOOKS)
@pytest.mark.parametrize("size", SIZES)
def test_every_seen_pixel_lies_where_it_came_from(size, sizes):
    # A picture whose values are coordinates: resized and cut, each still says where it was.
    look = ResizeCrop(*sizes)
    left, top, right, bottom = look.seen(*size)
    h, w = look.output_shape
    y, x = np.mgrid[0.5 : size[0], 0.5 : size[1]].astype(np.float32)
    columns, rows = (np.asarray(look.image(Image.fromarray(values))) for values in (x, y))
    for found, start, end, count in ((columns[0], left, right, w), (rows[:, 0], top, bottom, h)):
        expected = start + (np.arange(count) + 0.5) * (end - start) / count
        # At the picture's border the filter has pixels on one side alone.
        inside = slice(count // 10, -count // 10)
        assert np.abs(found - expected)[inside].max() < 0.1


def test_a_square_is_found_where_it_was_painted():
    picture = np.zeros((600, 900), np.float32)
    picture[200:260, 500:640] = 10
    for sizes in LOOKS[:4]:
        look = ResizeCrop(*sizes)
        view = view_of(look, picture.shape)
        (region,) = find(np.asarray(look.image(Image.fromarray(picture))), 5.0, view)
        pixel = max(600 / look.output_shape[0], 900 / look.output_shape[1])
        assert np.abs(np.subtract(region.box, (500, 200, 640, 260))).max() <= 0.6 * pixel
        assert region.area == pytest.approx(60 * 140, rel=0.15)
        assert region.peak == pytest.approx(10, abs=0.5)


@pytest.mark.parametrize("seed", range(4))
def test_regions_are_the_parts_of_the_mask(seed):
    map, view = blob((40, 56), seed), View((400, 560), (0, 0, 560, 400))
    found = find(map, 0.03, view)
    labels, count = ndimage.label(map >= 0.03)
    assert len(found) == count > 3
    assert [r.peak for r in found] == sorted((r.peak for r in found), reverse=True)
    assert {round(r.peak, 5) for r in found} == {
        round(float(map[labels == n].max()), 5) for n in range(1, count + 1)
    }
    # Interpolated linearly between the pixels: counted in the picture and measured are the same.
    mask = spread(map, view) >= 0.03
    assert sum(r.area for r in found) == pytest.approx(mask.sum(), rel=0.01)
    parts = ndimage.find_objects(ndimage.label(mask)[0])
    drawn = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in parts]
    for region in (r for r in found if r.area > 100):
        off = np.abs(np.subtract(drawn, region.box)).max(axis=1)
        assert off.min() < 2  # a pixel of the map is 10 wide


def test_a_ring_has_a_hole_and_a_whole_map_is_one_region():
    map = np.ones((21, 21), np.float32)
    map[8:13, 8:13] = 0
    (ring,) = find(map, 0.5, View((21, 21), (0, 0, 21, 21)))
    assert ring.area == pytest.approx(21 * 21 - 30, abs=6)
    (whole,) = find(np.ones((5, 7)), 1.0, View((50, 140), (0, 0, 140, 50)))
    assert whole.area == pytest.approx(140 * 50) and whole.numbers()["box"] == [0, 0, 140, 50]
    assert find(map, None, View((21, 21), (0, 0, 21, 21))) is None
    assert find(map, 2.0, View((21, 21), (0, 0, 21, 21))) == []


@pytest.mark.parametrize("at_threshold", [False, True])
def test_an_outline_has_its_corners_alone_and_stays_where_it_is(monkeypatch, at_threshold):
    view = View((300, 2000), (100, 7, 1700, 280))
    (whole,) = find(np.ones((224, 224)), 1.0, view)
    assert sorted(whole.polygon.tolist()) == [[100, 7], [100, 280], [1700, 7], [1700, 280]]
    maps = [blob((60, 70), seed) for seed in range(6)]
    if at_threshold:  # points lie on each other, and regions as thin as a line
        maps = [(map > 0.1).astype(np.float32) for map in maps]
    level = 1.0 if at_threshold else 0.1
    short = [region for map in maps for region in find(map, level, view)]
    monkeypatch.setattr(regions, "_corners", lambda ring: ring)
    full = [region for map in maps for region in find(map, level, view)]
    assert sum(len(r.polygon) for r in short) < 0.97 * sum(len(r.polygon) for r in full)
    for few, many in zip(short, full, strict=True):
        assert (few.box, few.area) == (many.box, many.area) and len(few.polygon) > 2
        a, b = few.polygon, np.roll(few.polygon, -1, axis=0)
        along = np.maximum(((b - a) ** 2).sum(axis=1), 1e-30)
        for point in many.polygon:  # each lies on a side of the other
            share = (((point - a) * (b - a)).sum(axis=1) / along).clip(0, 1)[:, None]
            assert np.abs(a + share * (b - a) - point).max(axis=1).min() < 1e-9


def test_diagonal_neighbours_are_two_regions():
    map = np.zeros((6, 6), np.float32)
    map[2, 2] = map[3, 3] = 2
    assert len(find(map, 1.0, View((6, 6), (0, 0, 6, 6)))) == 2


def test_a_map_over_the_picture_is_empty_where_nothing_was_seen():
    look = ResizeCrop(256, 224)
    view = view_of(look, (512, 1024))
    map = spread(blob((224, 224), 0), view)
    assert map.shape == (512, 1024) and map.dtype == np.float32
    seen = np.isfinite(map)
    left, top, right, bottom = view.box
    assert seen.sum() == round(right - left) * round(bottom - top)
    assert seen[256, round(left) : round(right)].all() and not seen[256, : int(left)].any()
    half = spread(blob((224, 224), 0), view, (256, 512))
    both = np.isfinite(half)
    assert np.abs(map[::2, ::2][both] - half[both]).max() < 0.1


@pytest.mark.parametrize("side", [16, 24, 40, 300])
def test_no_region_falls_between_the_pixels_of_a_small_photo(side):
    view = View((side, side), (0, 0, side, side))
    for seed in range(20):
        map = blob((224, 224), seed)
        threshold = float(np.quantile(map, 0.999))
        assert find(map, threshold, view)
        assert (spread(map, view, peaks=True) >= threshold).any()
    if side == 300:
        assert np.array_equal(spread(map, view, peaks=True), spread(map, view))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    backbone = Backbone("test_resnet", weights="random")
    detector = Detector(backbone, JL(backbone.embedding_dim, 8), (64, 48), **paper(8))
    images = np.random.default_rng(0).uniform(0.4, 0.6, (12, 3, 64, 48)).astype(np.float32)
    fit_on_images(detector, torch.from_numpy(images))
    return Predictor(detector, image_size=[80, 60], crop_size=[64, 48], threshold=8.0, device="cpu")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_those_of_the_upright_picture(predictor, tmp_path, orientation):
    upright = np.full((120, 90, 3), 128, np.uint8)
    upright[50:70, 20:60] = 255
    turned = {
        **{1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1]},
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "a.png", exif=exif)
    found, plain = predictor(tmp_path / "a.png"), predictor(upright)
    assert found.view == plain.view and found.view.size == (120, 90)
    assert [r.numbers() for r in found.regions] == [r.numbers() for r in plain.regions] != []


def test_the_picture_is_kept_when_asked_for(predictor):
    image = np.zeros((300, 600, 3), np.uint8)
    assert predictor.see(image).picture is None
    assert predictor.see(image, picture=1000).picture.size == (600, 300)
    assert predictor.see(image, picture=200).picture.size == (200, 100)
    (seen, found), *_ = predictor.stream_seen([image], picture=150)
    assert seen.picture.size == (150, 75) and found.view.size == (300, 600)


def test_numbers_are_json(predictor):
    found = predictor(np.full((120, 90), 255, np.uint8))
    said = json.loads(json.dumps([region.numbers() for region in found.regions]))
    assert said[0]["peak"] == pytest.approx(found.score)
