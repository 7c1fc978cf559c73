"""Detectors that are fitted without a Trainer."""

from copy import deepcopy
from functools import cache

import torch
from _helpers.paper import paper
from torch import Tensor

from padim_lit import JL, Backbone, Detector


def fit_on_embeddings(detector: Detector, x: Tensor) -> None:
    """Fit on embeddings (N,P,D) as if all of them came from the first layer."""
    state = detector.empty_state()
    means = torch.zeros_like(state.layer_means)
    means[0] = x.mean(dim=0)
    moments, _ = detector.density.update_moments(state.moments, x, x[None], lambda every: every)
    detector.set_state(state.update(moments, means).with_images(len(x), None))


def fit_on_images(detector: Detector, images: Tensor, batch: int = 7) -> None:
    """Fit on images (N,3,h,w), a few at a time."""
    state = detector.empty_state()
    for part in images.split(batch):
        state = detector.update_state(state, {"image": part})
    detector.set_state(state)


def fitted_detector(dim: int = 8) -> Detector:
    """A small one for images of 64×64 pixels, the caller's own."""
    return deepcopy(_fitted(dim))


@cache
def _fitted(dim: int) -> Detector:
    backbone = Backbone("test_resnet", weights="random")
    jl = JL(backbone.embedding_dim, dim)
    detector = Detector(backbone, jl, image_shape=(64, 64), **paper(dim))
    images = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    fit_on_images(detector, images)
    return detector.eval()
