"""docs/method.md says enough: examples/method_in_numpy.py, made of it, gives the same numbers."""

import pytest
import torch

from examples.method_in_numpy import compute
from padim_lit import JL, Backbone, Both, Detector, Predictor
from padim_lit.model.warm_up import learn


def test_numpy_gives_the_same_numbers():
    noise = torch.randint(256, (13, 64, 64, 3), generator=torch.Generator().manual_seed(0))
    photos = list(noise.to(torch.uint8).numpy())
    images = noise.permute(0, 3, 1, 2).float()[:9] / 255
    backbone = Backbone("test_resnet", weights="random")
    jl, both = JL(backbone.embedding_dim, dim=8), Both(dim=8, components=4, fit_images=5)
    detector = Detector(backbone, jl, (64, 64), density=both)
    learn(detector, lambda n: [{"image": images[[i * 9 // n for i in range(n)]]}])
    detector.set_state(detector.update_state(detector.empty_state(), {"image": images}))
    model = Predictor(detector, image_size=64, crop_size=None, device="cpu")
    c, w, scores = compute(model, photos[:9], photos[9:])
    assert c == pytest.approx(both.scales_in(detector.whitening)[0], rel=1e-4)
    assert w == pytest.approx(float(both.position_weight), abs=1e-4) and w > 0
    assert scores == pytest.approx([one.score for one in model(photos[9:])], rel=1e-4)
