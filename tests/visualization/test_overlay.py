"""What lies over a picture, and what stands below it, is said of the picture above it."""

import numpy as np
import pytest
from _helpers.drawing import written_by
from PIL import ImageColor
from scipy.ndimage import binary_dilation

from padim_lit.deploy.explanation import Explanation, Position
from padim_lit.deploy.regions import View
from padim_lit.visualization.overlay import Heat, boxed, contour, heat_map, side_by_side
from padim_lit.visualization.palette import FOUND, TRUTH
from padim_lit.visualization.panels import GAP, keys, overlay

MAP = np.ones((8, 8), np.float32)
WHY = Explanation(2.0, {"layer 1": 0.6, "layer 2": 0.4}, [], np.stack([MAP, MAP]) * 6)
SCALE = (6.0, 30.0)


def drawn(shape, why=None, threshold=None, roi=None):
    h, w = shape
    picture, view = np.full((h, w, 3), 100, np.uint8), View((h, w), (0, 0, w, h))
    return written_by(side_by_side, picture, Heat(MAP, view, SCALE, threshold, roi), ["a"], why)


def test_each_scale_is_said_of_its_own_pictures():
    said = dict(drawn((8, 8), WHY)[0])  # each 256 pixels wide, in three columns
    assert said["map"] == (256 + GAP + 2, 256)
    assert said["boxes: the positions that matter"] == (2 * (256 + GAP) + 2, 256)
    assert said["layer 1: 60% of the score"][0] == 2
    assert said["layer 2: 40% of the score"][0] == 256 + GAP + 2
    assert {"map:", "layers:", "6.0", "3.0", "30.0"} < set(said)


def test_layers_have_their_scale_and_what_does_not_count_is_grey_in_each():
    said, image = drawn((256, 256), WHY, roi=MAP.cumsum(axis=0) > 4)
    layer = overlay(np.full((1, 1, 3), 100, np.uint8), np.full((1, 1), 6.0), (3.0, 30.0))
    for text in WHY.captions:
        x, y = dict(said)[text]
        cell = image[y - 256 : y, x - 2 : x + 254]
        assert (cell[:120] == 50).all() and (cell[136:] == layer).all()


def test_a_distance_has_one_colour_on_bright_and_on_dark_photos():
    """The brighter, the less like good parts: it had been of the photo's own brightness, too."""
    noise = np.random.default_rng(0).integers(0, 20, (32, 32, 1), dtype=np.uint8)
    distances = np.full((32, 32), 6.0)
    on = [overlay((base + noise).repeat(3, axis=2), distances, (2.0, 12.0)) for base in (10, 220)]
    assert np.array_equal(*on) and np.ptp(on[0]) > 0
    inside = np.full((64, 64, 3), 250, np.uint8)  # a bright margin that was cut off
    inside[16:48, 16:48] = 10 + noise
    seen = np.pad(distances, 16, constant_values=np.nan)
    assert np.array_equal(overlay(inside, seen, (2.0, 12.0))[16:48, 16:48], on[0])
    (ramp, _), *_ = keys(10, {"distance": (2.0, 12.0)}, {})
    meant = np.asarray(ramp)[0, round(0.4 * ramp.width)]
    assert np.abs(on[0].mean(axis=(0, 1)) - meant).max() < 6


def test_the_region_of_interest_has_a_line_and_its_name():
    said, image = drawn((256, 256), None, roi=MAP.cumsum(axis=0) > 4)
    assert "beyond" in dict(said) and "beyond" not in dict(drawn((256, 256), None)[0])
    assert "beyond" not in dict(drawn((256, 256), None, roi=MAP > 0)[0])
    heat = image[:256, 256 + GAP : 512 + GAP]
    lines = (heat == 255).all(axis=2).any(axis=1).sum()
    assert lines == 2  # as thin as lines are, and none at the photo's rim


@pytest.mark.parametrize(("shape", "columns"), [((30, 300), 1), ((300, 30), 5), ((300, 300), 3)])
def test_long_pictures_lie_below_or_beside_each_other(shape, columns):
    high, wide, _ = drawn(shape, WHY)[1].shape
    assert wide >= columns * shape[1] and high >= -(-5 // columns) * shape[0]
    assert 1 / 3 < wide / high < 3


def test_the_key_names_an_outline_only_where_there_is_one():
    said = [" ".join(text for text, _ in drawn((8, 8), None, at)[0]) for at in (1.0, 1.1, None)]
    assert "map at or above 1.00" in said[0] and "above" not in said[1] + said[2]
    assert "map below 1.10 everywhere" in said[1] and "map below" not in said[0] + said[2]


def test_the_key_shows_the_colours_that_maps_have_over_grey():
    ((ramp, _),) = keys(13, {"distance": (2.0, 12.0)}, {})
    grey, ends = np.full((1, 2, 3), 128, np.uint8), np.array([[2.0, 12.0]])
    assert np.array_equal(
        np.asarray(ramp)[[5], :: ramp.width - 1], overlay(grey, ends, (2.0, 12.0))
    )


def test_outlines_have_a_dark_rim_and_the_truth_has_dashes():
    flat, map, truth = np.full((60, 60, 3), 120, np.uint8), np.zeros((60, 60)), np.zeros((60, 60))
    map[20:40, 20:40], truth[5:15, 35:55] = 9, 1
    laid = Heat(map, View((60, 60), (0, 0, 60, 60)), (0.0, 12.0), 6.0, truth=truth > 0)
    heat = heat_map(flat, laid, 2)
    for region in (map > 0, truth > 0):
        assert (heat[binary_dilation(region) & ~region] == 0).all()
    assert (heat[contour(map > 0, 2)] == ImageColor.getrgb(FOUND)).all()
    yellow = (heat == ImageColor.getrgb(TRUTH)).all(axis=2)
    assert (yellow | (heat == 0).all(axis=2))[contour(truth > 0, 2)].all()
    assert np.diff(yellow[5, 35:55]).sum() > 2


def test_a_box_is_white_with_a_dark_rim_and_where_it_is_in_the_picture():
    why = Explanation(2.0, {}, [Position(0, 0, (40, 20, 80, 60), 2.0, 1.0)], np.zeros((1, 8, 8)))
    grey = np.full((60, 60, 3), 120, np.uint8)  # half of its size
    expected = grey.copy()
    for grown, colour in ((1, 0), (0, 255), (-2, 120)):
        expected[10 - grown : 30 + grown, 20 - grown : 40 + grown] = colour
    assert np.array_equal(boxed(grey, why, (120, 120), 2), expected)
