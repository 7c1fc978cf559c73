"""What stands below the pictures of one image is said of the picture above it."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from padim_lit.deploy.explanation import Explanation
from padim_lit.deploy.regions import View
from padim_lit.visualization.overlay import side_by_side
from padim_lit.visualization.panels import GAP

MAP = np.ones((8, 8), np.float32)
WHY = Explanation(2.0, {"layer 1": 0.6, "layer 2": 0.4}, [], np.stack([MAP, MAP]) / 2)


def drawn(shape, why=None):
    h, w = shape
    picture = np.full((h, w, 3), 100, np.uint8)
    png = side_by_side(picture, MAP, View((h, w), (0, 0, w, h)), (6.0, 30.0), None, ["a"], why)
    return Image.open(io.BytesIO(png))


def test_each_scale_is_said_of_its_own_pictures(monkeypatch):
    said, draw = {}, ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text",
        lambda self, at, text, **how: (said.update({text: at}), draw(self, at, text, **how)),
    )  # fmt: skip
    drawn((8, 8), WHY)  # each 256 pixels wide, in three columns
    assert said["map"] == (256 + GAP + 2, 256)
    assert said["the positions that matter"] == (2 * (256 + GAP) + 2, 256)
    assert said["layer 1: 60% of the score"][0] == 2
    assert said["layer 2: 40% of the score"][0] == 256 + GAP + 2
    assert {"map:", "layers:", "6.0", "3.0", "30.0"} < set(said)


@pytest.mark.parametrize(("shape", "columns"), [((30, 300), 1), ((300, 30), 5), ((300, 300), 3)])
def test_long_pictures_lie_below_or_beside_each_other(shape, columns):
    wide, high = drawn(shape, WHY).size
    assert wide >= columns * shape[1] and high >= -(-5 // columns) * shape[0]
    assert 1 / 3 < wide / high < 3
