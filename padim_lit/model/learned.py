"""Projections that choose their directions from good images before the fit."""

import math

import torch
from scipy import linalg
from torch import Tensor

from padim_lit.errors import InputError, refusing
from padim_lit.model.projection import Projection, gaussian_rows


class Learned(Projection):
    """Base of the projections that choose their directions from good images before the fit.

    Π is zero until `learn` has been called. Its best rows come first, so that Π at a smaller D is
    the first rows of Π at a larger one.

    Args:
        fit_images: number of good images to learn from, spread evenly over the training set. Few
            are enough, because the covariance is averaged over the positions.

    >>> Fisher(in_channels=1056, dim=100).fit_images
    100
    """

    drawn = False

    def __init__(self, in_channels: int, dim: int, seed: int = 0, fit_images: int = 100):
        if fit_images < 2:
            raise InputError(f"proj.fit_images={fit_images}: must be at least 2 images")
        self.fit_images = fit_images
        super().__init__(in_channels, dim, seed)

    def draw(self, generator: torch.Generator) -> Tensor:
        return torch.zeros(self.dim, self.in_channels)

    def nested(self, dim: int) -> tuple[Tensor, float]:
        return torch.arange(dim), 1.0


class Fisher(Learned):
    """The D weighted sums that differ most between positions, least within one.

    Good parts look different at different positions, so what varies between the positions' means
    is what the CNN knows about such parts; what varies around them is noise. Π's rows are the
    directions v with the largest vᵀ S_b v / vᵀ (S_w + λ s̄ I) v, S_w and S_b the covariances within
    and between positions, s̄ the mean of S_w's diagonal (Fisher 1936; λ as in regularised
    discriminant analysis). Nothing is random: every seed gives the same Π.

    The rows are scaled to a denominator of 1/30, so that ε = 0.01 squared feature units weighs as
    0.3 of it. With eps_unit=variance take ε = 0.1, under which good images that the fit does not
    know are likeliest.

    Args:
        shrinkage: λ > 0, the share of s̄ that is added to each channel's variance.
        fit_images: see `Learned`.

    >>> fisher = Fisher(in_channels=4, dim=2)
    >>> fisher.learn(within=torch.eye(4), means=torch.diag(torch.tensor([9.0, 1.0, 0.0, 4.0])))
    >>> fisher.matrix.abs().argmax(dim=1).tolist()  # channels 0 and 3 tell positions apart best
    [0, 3]
    """

    name = "fisher"
    bounded = True
    seeded = False

    def __init__(
        self,
        in_channels: int,
        dim: int,
        seed: int = 0,
        fit_images: int = 100,
        shrinkage: float = 0.1,
    ):
        if not 0 < shrinkage < math.inf:
            raise InputError(f"proj.shrinkage={shrinkage}: must be above 0 (default 0.1)")
        self.shrinkage = shrinkage
        super().__init__(in_channels, dim, seed, fit_images)

    def learn(self, within: Tensor, means: Tensor) -> None:
        within, means = within.double().cpu(), means.double().cpu()
        between = torch.cov(means.T, correction=0)
        one = torch.eye(len(within), dtype=torch.float32)
        noise = within + self.shrinkage * within.diagonal().mean() * one
        # By ascending ratio, and scaled to vᵀ·noise·v = 1.
        best = [self.in_channels - self.dim, self.in_channels - 1]
        what = "proj=fisher learns from what varies between images, and these are alike"
        with refusing(what, "use images that differ, or proj=jl", linalg.LinAlgError):
            _, vectors = linalg.eigh(between.numpy(), noise.numpy(), subset_by_index=best)
        rows = torch.from_numpy(vectors).T.flip(0) * math.sqrt(0.01 / 0.3)
        self.matrix = rows.float().to(self.matrix.device)


class PCA(Learned):
    """The D directions of most variance over all good patches: principal components.

    Args:
        fit_images: see `Learned`.

    >>> pca = PCA(in_channels=3, dim=2)
    >>> pca.learn(within=torch.diag(torch.tensor([1.0, 2.0, 0.5])), means=torch.zeros(4, 3))
    >>> pca.matrix.abs().argmax(dim=1).tolist()
    [1, 0]
    """

    name = "pca"
    bounded = True
    seeded = False

    def learn(self, within: Tensor, means: Tensor) -> None:
        total = within.double().cpu() + torch.cov(means.double().cpu().T, correction=0)
        _, vectors = torch.linalg.eigh(total)  # ascending
        self.matrix = vectors.T.flip(0)[: self.dim].float().to(self.matrix.device)


class NPCA(Learned):
    """The D directions of least variance within a position, in a JL sketch.

    Negated PCA (Rippel et al. 2020): good parts hardly vary along these directions, so a defect
    stands out. Among all C channels these would be directions without any signal; in a sketch, C
    channels projected as by `JL`, each direction has a share of every channel.

    Args:
        fit_images: see `Learned`.
        sketch: dimensions of the sketch, at least D; above C as C.

    >>> NPCA(in_channels=40, dim=2, sketch=10).matrix.any().item()  # nothing is learnt yet
    False
    """

    name = "npca"
    bounded = True

    def __init__(
        self, in_channels: int, dim: int, seed: int = 0, fit_images: int = 100, sketch: int = 300
    ):
        if dim > sketch:
            raise InputError(
                f"dim={dim} exceeds proj.sketch={sketch}, out of which proj=npca chooses; use a "
                "wider sketch or a smaller dim"
            )
        self.sketch = sketch
        super().__init__(in_channels, dim, seed, fit_images)

    def learn(self, within: Tensor, means: Tensor) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        # With more rows than channels, some directions would not vary, whatever the images.
        rows = min(self.sketch, self.in_channels)
        sketch = gaussian_rows(rows, self.in_channels, generator) / math.sqrt(rows)
        _, vectors = torch.linalg.eigh(sketch @ within.double().cpu() @ sketch.T)  # ascending
        self.matrix = (vectors[:, : self.dim].T @ sketch).float().to(self.matrix.device)
