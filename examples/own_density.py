"""A density of one's own: one Gaussian for all patches, wherever they lie.

python run.py --config-dir examples/conf own=[examples] density=single
"""

import torch

from padim_lit import Density
from padim_lit.model.gaussian import mahalanobis
from padim_lit.model.moments import update


class Single(Density):
    """One Gaussian for all patches, wherever they lie."""

    name = "single"

    def gaussians(self, positions):
        return 1

    def update_moments(self, moments, x, shares, counted):
        means = [counted(share).flatten(0, 1).mean(dim=0, keepdim=True) for share in shares]
        return update(moments, counted(x).flatten(0, 1).unsqueeze(1)), torch.stack(means)

    def nearest(self, x, mean, whitening):
        distances = mahalanobis(x.flatten(0, 1).unsqueeze(1), mean, whitening).view(x.shape[:2])
        return distances, torch.zeros_like(distances, dtype=torch.long)
