"""PaDiM as it is usually written: keep every embedding, then loop over the positions.

The yardstick of `benchmarks.peers`, and a reference that shares no step with ours: concatenate all
channels at the finest grid, select D of them, one covariance and inverse a position.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

#: Arguments of our `Detector` that make it this, beside `PerPosition` and grid=None; all of them
#: are in conf/experiment/padim.yaml.
PAPER = {
    "eps": 0.01,
    "eps_unit": "feature",
    "neighbourhood": 1,
    "image_score": "max",
    "alignment": None,
}


class Naive:
    """Args: channels (D,) to keep; ε of eq. 4."""

    def __init__(self, channels: Tensor, eps: float = 0.01):
        self.channels, self.eps = channels, eps
        self.bank: list[Tensor] = []

    def embed(self, features: list[Tensor]) -> Tensor:
        """Maps (B,C_l,H_l,W_l) → (B,D,H·W)."""
        size = features[0].shape[-2:]
        full = torch.cat([F.interpolate(layer, size=size) for layer in features], dim=1)
        return full.index_select(1, self.channels).flatten(2)

    def collect(self, features: list[Tensor]) -> None:
        self.bank.append(self.embed(features))

    def fit(self) -> None:
        """Mean (D,P) and inverse covariance (P,D,D) of everything collected."""
        x = torch.cat(self.bank)
        self.bank = []
        self.mean = x.mean(dim=0)
        dim, positions = self.mean.shape
        self.inverse = torch.empty(positions, dim, dim)
        ridge = self.eps * torch.eye(dim)
        for p in range(positions):
            self.inverse[p] = torch.linalg.inv(torch.cov(x[:, :, p].T) + ridge)

    def distances(self, features: list[Tensor]) -> Tensor:
        """(B,P) Mahalanobis distances."""
        deviation = self.embed(features) - self.mean
        square = torch.einsum("bdp,pde,bep->bp", deviation, self.inverse, deviation)
        return square.clamp(min=0).sqrt()
