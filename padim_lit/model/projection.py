"""Linear maps Π from C channels to D dimensions: a class for each kind, drawn once from a seed.

To add one: subclass `Projection`, give it a `name` (which registers it), implement `draw`, and add
``conf/proj/NAME.yaml``, which names the class (docs/own.md).
"""

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from padim_lit.errors import InputError
from padim_lit.model.cpu import pointwise
from padim_lit.model.registered import Part


def require_seed(seed: int) -> None:
    """Raise InputError unless every random generator in use takes `seed`.

    >>> require_seed(-1)
    Traceback (most recent call last):
    padim_lit.errors.InputError: seed=-1: must be between 0 and 4294967295
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed={seed}: must be between 0 and {2**32 - 1}")


#: The largest D. A random map may have more rows than channels, but not so many that a typing
#: error takes all memory.
MAX_DIM = 2**16
#: Every subclass of `Projection` by its name, where its module has been imported.
PROJECTIONS: dict[str, type["Projection"]] = {}


class Projection(Part):
    """Base: draws ``matrix`` (D,C) float32 on the CPU, so that a seed gives one Π everywhere.

    Args:
        in_channels: C, the embedding's channels.
        dim: D, the projected dimension.
        seed: the only source of randomness.

    Raises:
        InputError: D < 1 or above MAX_DIM, or D > C where a class is `bounded`, or a `draw` that
            gives no tensor (D,C).

    >>> PROJECTIONS['jl'](in_channels=1056, dim=100).matrix.shape
    torch.Size([100, 1056])
    """

    key, known = "proj", PROJECTIONS
    #: True where D cannot exceed C.
    bounded: ClassVar[bool] = False
    #: True where the seed alone determines Π.
    drawn: ClassVar[bool] = True
    matrix: Tensor

    def __init__(self, in_channels: int, dim: int, seed: int = 0):
        super().__init__()
        if not 1 <= dim <= MAX_DIM:
            raise InputError(
                f"dim={dim}: must be at least 1 and at most {MAX_DIM} (the backbone gives "
                f"C={in_channels})"
            )
        if self.bounded and dim > in_channels:
            raise InputError(
                f"dim={dim} exceeds the backbone's C={in_channels} channels, which proj={self.name}"
                f" cannot do; use dim≤{in_channels} or proj=jl"
            )
        require_seed(seed)
        self.in_channels, self.dim, self.seed = in_channels, dim, seed
        generator = torch.Generator().manual_seed(int(seed))
        drawn: Any = self.draw(generator)
        if not isinstance(drawn, Tensor) or drawn.shape != (dim, in_channels):
            given = f"{type(drawn).__name__} {tuple(getattr(drawn, 'shape', ()))}"
            raise InputError(
                f"proj={self.name}: its draw gave a {given}; it must give a tensor (D,C), here "
                f"{(dim, in_channels)}"
            )
        # Drawn in float64 and rounded once: the same draw whatever the default dtype is.
        self.register_buffer("matrix", drawn.float())

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Tensor:
        """Return Π (D,C), drawn from `generator` on the CPU, row after row, as `nested` expects."""

    def nested(self, dim: int) -> tuple[Tensor, float]:
        """Return the same seed's Π' at a smaller D', as rows of this Π and a factor.

        So one pass at the largest D serves every smaller one: the moments of Π'x are those of Πx at
        these rows, scaled.

        Args:
            dim: D' ≤ D.

        Returns:
            Indices (D',) of rows and the factor √(D/D'), so that Π' = factor · Π[rows].
        """
        return torch.arange(dim), math.sqrt(self.dim / dim)

    def learn(self, within: Tensor, means: Tensor) -> None:
        """Choose Π from good images, before the fit.

        Args:
            within: S_w (C,C), the covariance around each position's mean, averaged over positions.
            means: (P,C), the mean at each position.
        """
        raise NotImplementedError(f"proj={self.name} does not depend on data")

    def require_learnt(self) -> Tensor:
        """Return Π; raise InputError where it is to be learnt and still is zeros."""
        by_matrix = type(self).project_layer is Projection.project_layer  # and by nothing else
        if self.fit_images and by_matrix and not self.matrix.any():
            raise InputError(
                f"proj={self.name} has learnt nothing yet, its Π is zeros; before the fit call "
                "padim_lit.model.warm_up.learn, as a Trainer's fit does"
            )
        return self.matrix

    def adopt(self, matrix: Tensor) -> None:
        """Take over another's Π (D,C) and learn nothing, so that moments of both can be added."""
        self.matrix.copy_(matrix)
        self.fit_images = 0

    def project_layer(self, features: Tensor, start: int) -> tuple[Tensor, slice]:
        """Project one layer: Π_l f_l with Π_l the columns of its channels (Πx = Σ_l up(Π_l f_l)).

        Args:
            features: f_l (B,C_l,H_l,W_l) float32.
            start: the layer's first channel among the C.

        Returns:
            (B,H_l,W_l,D_l), and the slice of the D dimensions that these are; in the others this
            layer's share is zero.
        """
        columns = self.matrix[:, start : start + features.shape[1]]
        if features.is_cuda:  # where a convolution may round to TF32
            projected = features.permute(0, 2, 3, 1) @ columns.T
        else:
            projected = pointwise(features, columns[:, :, None, None]).permute(0, 2, 3, 1)
        return projected, slice(0, self.dim)


class Subset(Projection):
    """D of the C channels, drawn at random without replacement and unscaled (PaDiM §3.1, "Rd").

    >>> Subset(in_channels=5, dim=2).matrix.sum(dim=1).tolist()
    [1.0, 1.0]
    """

    name = "subset"
    bounded = True

    def draw(self, generator: torch.Generator) -> Tensor:
        # Sorted, so that those of a layer lie side by side; distances do not depend on the order.
        chosen = torch.randperm(self.in_channels, generator=generator)[: self.dim].sort().values
        return nn.functional.one_hot(chosen, self.in_channels)

    def nested(self, dim: int) -> tuple[Tensor, float]:
        smaller = Subset(self.in_channels, dim, self.seed).matrix.argmax(dim=1)
        return torch.searchsorted(self.matrix.argmax(dim=1).cpu(), smaller), 1.0

    def project_layer(self, features: Tensor, start: int) -> tuple[Tensor, slice]:
        channels = self.matrix.argmax(dim=1)
        ends = channels.new_tensor([start, start + features.shape[1]])
        first, last = torch.searchsorted(channels, ends).tolist()
        chosen = features.permute(0, 2, 3, 1)[..., channels[first:last] - start]
        return chosen, slice(first, last)


class JL(Projection):
    """Johnson–Lindenstrauss: numbers from N(0,1), divided by √D (JL report, eq. 6 and 7).

    >>> JL(in_channels=1000, dim=100).matrix.square().sum(dim=0).mean().item()  # keeps lengths
    1.00...
    """

    name = "jl"

    def draw(self, generator: torch.Generator) -> Tensor:
        return gaussian_rows(self.dim, self.in_channels, generator) / math.sqrt(self.dim)


class Orthogonal(Projection):
    """Orthonormal rows from the Haar measure times √(C/D), so that E‖Πx‖² = ‖x‖² (JL report §3).

    PaDiM with such rows is the semi-orthogonal embedding of Kim et al. (2021).
    A Mahalanobis distance depends on Π's row space and on ε alone, and the row space is distributed
    as that of `JL`: the two differ in how much ε weighs.

    >>> matrix = Orthogonal(in_channels=9, dim=4).matrix
    >>> torch.allclose(matrix @ matrix.T, 9 / 4 * torch.eye(4), atol=1e-5)
    True
    """

    name = "orthogonal"
    bounded = True

    def draw(self, generator: torch.Generator) -> Tensor:
        q, r = torch.linalg.qr(gaussian_rows(self.dim, self.in_channels, generator).T)
        # QR alone is not Haar; fixing the signs of R's diagonal makes it so (Mezzadri 2007).
        rows = (q * r.diagonal().sign()).T
        return rows * math.sqrt(self.in_channels / self.dim)


class Sparse(Projection):
    """Sparse signs: ±1/√(δD) with probability δ/2 each, else 0 (Li, Hastie, Church 2006).

    Args:
        density: δ in (0, 1], or ``auto`` for 1/√C, as in scikit-learn's SparseRandomProjection;
            1/3 is that of Achlioptas (2003).

    >>> Sparse(in_channels=100, dim=50).matrix.ne(0).float().mean().item() < 0.15
    True
    """

    name = "sparse"

    def __init__(self, in_channels: int, dim: int, seed: int = 0, density: float | str = "auto"):
        if density == "auto":
            density = 1 / math.sqrt(in_channels)
        if not isinstance(density, int | float) or not 0 < density <= 1:
            raise InputError(f"proj.density={density}: must be 'auto' or a number in (0, 1]")
        self.density = float(density)
        super().__init__(in_channels, dim, seed)

    def draw(self, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(self.dim, self.in_channels, generator=generator, dtype=torch.float64)
        signs = (uniform < self.density / 2).double() - (uniform >= 1 - self.density / 2).double()
        return signs / math.sqrt(self.density * self.dim)


class Identity(Projection):
    """All C channels, D = C: what projections are compared with; only for small C.

    >>> Identity(in_channels=3).matrix.shape
    torch.Size([3, 3])
    """

    name = "identity"
    seeded = False
    drawn = False

    def __init__(self, in_channels: int, dim: int | None = None, seed: int = 0):
        super().__init__(in_channels, in_channels, seed)

    def draw(self, generator: torch.Generator) -> Tensor:
        return torch.eye(self.in_channels, dtype=torch.float64)

    def project_layer(self, features: Tensor, start: int) -> tuple[Tensor, slice]:
        return features.permute(0, 2, 3, 1), slice(start, start + features.shape[1])


def gaussian_rows(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return (rows, columns) of N(0,1), of which fewer rows of the same seed are the first.

    One call of `torch.randn` for all would not do: its last numbers depend on how many they are.

    >>> few, more = (gaussian_rows(n, 3, torch.Generator().manual_seed(0)) for n in (2, 5))
    >>> torch.equal(few, more[:2])
    True
    """
    draws = [torch.randn(columns, generator=generator, dtype=torch.float64) for _ in range(rows)]
    return torch.stack(draws)
