"""What stands below the pictures of one image is said of the picture above it."""

import numpy as np
from PIL import ImageDraw

from padim_lit.deploy.explanation import Explanation
from padim_lit.deploy.prediction import Prediction
from padim_lit.deploy.regions import View
from padim_lit.visualization.overlay import GAP, side_by_side


def test_each_scale_is_said_of_its_own_pictures(monkeypatch):
    said, draw = {}, ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text",
        lambda self, at, text, **how: (said.update({text: at}), draw(self, at, text, **how)),
    )  # fmt: skip
    map = np.ones((8, 8), np.float32)
    found = Prediction(2.0, None, None, map, None, None, None, None, View((8, 8), (0, 0, 8, 8)))
    why = Explanation(2.0, {"layer 1": 0.6, "layer 2": 0.4}, [], np.stack([map, map]) / 2)
    side_by_side(np.zeros((8, 8, 3), np.uint8), found, (6.0, 30.0), None, "colours", why)
    assert said["map: 6.0 to 30.0"][0] == 8 + GAP + 2
    assert said["layer 1: 60% of the score"][0] == 2 * (8 + GAP) + 2
    assert said["colours, of layers 3.0 to 30.0"][0] == 2
