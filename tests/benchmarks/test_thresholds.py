"""The benchmark of the thresholds fits on images that the backbone has seen before."""

from argparse import Namespace

import numpy as np
import torch
from PIL import Image

from benchmarks.thresholds import fitted, judged, looked_at, score
from padim_lit import Backbone
from padim_lit.data.transform import ResizeCrop
from padim_lit.deploy.calibration import calibrate
from padim_lit.deploy.left_out import measure


def test_a_fit_takes_no_image_but_those_that_are_remembered(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for i, path in enumerate(paths):
        noise = np.random.default_rng(i).integers(0, 256, (64, 64, 3), "uint8")
        Image.fromarray(noise).save(path)
    args = Namespace(grid=4, rotations=1, proj="jl", dim=4, density="position")
    backbone = Backbone("test_resnet", weights="random").eval()
    known = looked_at(backbone, paths, ResizeCrop(64, None), args)
    detector = fitted(known, range(4), args)
    fresh = score(detector, [4, 5])
    assert np.isfinite(fresh).all()
    good = calibrate(measure(detector, [{"image": torch.arange(4)}]))
    rate, alarms, *_ = judged(good, fresh)
    assert rate == 1 / 5 and 0 <= alarms <= 1
