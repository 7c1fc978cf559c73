"""Lower triangles of all Gaussians, stored in bands of rows: half the memory and half the work.

A scatter is symmetric and a whitening factor lower triangular, so of (G,D,D) only the half below
the diagonal matters. Cut into bands of rows, each band is a plain (G, rows, columns) tensor from
the first column to its own last, and batched products stay batched products.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

# Rows of a band, about: thinner ones waste less above the diagonal, thicker ones multiply faster.
BAND_ROWS = 64
MAX_BANDS = 6
# Numbers that a step on the CPU writes before it reads them again, see `blocks`.
SCRATCH_NUMBERS = 2**20
# Below this size a triangular solve beats splitting further.
SOLVE_DIM = 64


@dataclass(frozen=True, eq=False)
class Triangle:
    """G lower triangles of D rows; band i, (G, e−s, e), holds the rows s to e and columns 0 to e.

    What lies above the diagonal inside a band is the mirror image of a symmetric matrix, and zero
    in a factor.

    >>> Triangle.of(torch.eye(3)[None]).norms(torch.tensor([[[3.0, 0.0, 4.0]]])).item()
    5.0
    """

    bands: tuple[Tensor, ...]

    @classmethod
    def zeros(
        cls,
        count: int,
        dim: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "Triangle":
        """G triangles of nothing."""
        shapes = [(count, stop - start, stop) for start, stop in pairwise(_edges(dim))]
        return cls(tuple(torch.zeros(s, device=device, dtype=dtype) for s in shapes))

    @classmethod
    def of(cls, square: Tensor) -> "Triangle":
        """Of lower or symmetric (G,D,D)."""
        edges = _edges(square.shape[-1])
        return cls(tuple(square[:, a:b, :b].contiguous() for a, b in pairwise(edges)))

    @classmethod
    def unpack(cls, packed: Tensor, dtype: torch.dtype | None = None) -> "Triangle":
        """The inverse of a factor's `pack`: zero above the diagonal."""
        dim, start = int((2 * packed.shape[1]) ** 0.5), 0
        triangle = cls.zeros(packed.shape[0], dim, packed.device, dtype or packed.dtype)
        for rows, band in triangle:
            row, column = _below(rows)
            band[:, row, column] = packed[:, start : start + len(row)].to(band.dtype)
            start += len(row)
        return triangle

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """(rows, band), from the top."""
        stop = 0
        for band in self.bands:
            start, stop = stop, band.shape[2]
            yield slice(start, stop), band

    @property
    def dim(self) -> int:
        """D."""
        return self.bands[-1].shape[2]

    @property
    def count(self) -> int:
        """G."""
        return self.bands[0].shape[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.bands[0].dtype

    @property
    def device(self) -> torch.device:
        return self.bands[0].device

    def map(self, change: Callable[..., Tensor], *others: "Triangle") -> "Triangle":
        """Each band changed, together with those of others if there are any."""
        bands = zip(self.bands, *(other.bands for other in others), strict=True)
        return Triangle(tuple(change(*rows) for rows in bands))

    def at(self, some: slice | Tensor) -> "Triangle":
        """Some of them: of a slice views, not copies."""
        return self.map(lambda band: band[some])

    def to_dense(self, symmetric: bool, dtype: torch.dtype | None = None) -> Tensor:
        """(G,D,D), a copy; above the diagonal the mirror image if `symmetric`, else zero."""
        shape = (self.count, self.dim, self.dim)
        square = torch.zeros(shape, dtype=dtype or self.dtype, device=self.device)
        for rows, band in self:
            square[:, rows, : rows.stop] = band
            if symmetric:
                square[:, : rows.start, rows] = band[:, :, : rows.start].mT
        return square

    def fill(self, some: slice, square: Tensor) -> None:
        """Write lower or symmetric (g,D,D) into some of them."""
        for rows, band in self:
            band[some] = square[:, rows, : rows.stop]

    def pack(self, dtype: torch.dtype | None = None) -> Tensor:
        """Without anything above the diagonal, row by row: (G, D(D+1)/2), a copy."""
        kept = []
        for rows, band in self:
            row, column = _below(rows)
            kept.append(band[:, row, column].to(dtype or self.dtype))
        return torch.cat(kept, dim=1)

    def add_products(self, x: Tensor, weight: float = 1.0) -> None:
        """Add weight · Σ_b x_b x_bᵀ in place, x (G,B,D)."""
        for rows, band in self:
            band.baddbmm_(x[..., rows].mT, x[..., : rows.stop], alpha=weight)

    def times(self, x: Tensor) -> Tensor:
        """T x_b of x (G,B,D): (G,B,D)."""
        return torch.cat([x[..., : rows.stop] @ band.mT for rows, band in self], dim=2)

    def norms(self, x: Tensor) -> Tensor:
        """‖T x_b‖ of x (G,B,D): (G,B)."""
        # The triangle on the left: for one image that runs at the speed of reading it.
        squares = [
            torch.bmm(band, x[..., : rows.stop].mT).square_().sum(dim=1) for rows, band in self
        ]
        return torch.stack(squares).sum(dim=0).sqrt_()


def blocks(count: int, numbers: int, device: torch.device) -> Iterator[slice]:
    """Gaussians a few at a time, so that a step's scratch of `numbers` each stays in the cache.

    On a CPU large scratch costs more than the arithmetic on it: its pages are new each time. A GPU
    keeps its memory, and takes all at once.

    >>> list(blocks(5, numbers=2**19, device=torch.device('cpu')))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, SCRATCH_NUMBERS // numbers) if device.type == "cpu" else count
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def invert_lower(lower: Tensor, out: Tensor | None = None) -> Tensor:
    """Inverse of lower triangles (G,D,D), in `out` if given, by halves: nearly all is products.

    [[A, 0], [B, C]]⁻¹ = [[A⁻¹, 0], [−C⁻¹ B A⁻¹, C⁻¹]]. A triangular solve against the identity does
    three times the arithmetic, because it does not know that half of its right side is zero.

    >>> invert_lower(torch.tensor([[[2.0, 0.0], [0.0, 4.0]]])).tolist()
    [[[0.5, 0.0], [0.0, 0.25]]]
    """
    out = torch.empty_like(lower) if out is None else out
    dim = lower.shape[-1]
    if dim <= SOLVE_DIM:
        identity = torch.eye(dim, dtype=lower.dtype, device=lower.device)
        out.copy_(torch.linalg.solve_triangular(lower, identity, upper=False))
        return out
    half = dim // 2
    first, second = out[:, :half, :half], out[:, half:, half:]
    invert_lower(lower[:, :half, :half], first)
    invert_lower(lower[:, half:, half:], second)
    out[:, :half, half:] = 0
    out[:, half:, :half] = -second @ (lower[:, half:, :half] @ first)
    return out


def covariance_log_det(whitening: Triangle) -> Tensor:
    """log det(Σ + εI) = −2 Σ_i log W_ii of each of G Gaussians, from its factor: (G,) float64.

    >>> covariance_log_det(Triangle.of(torch.full((1, 1, 1), 0.5))).exp().item()  # a variance of 4
    4.0
    """
    diagonals = [band[:, :, rows].diagonal(dim1=1, dim2=2) for rows, band in whitening]
    return -2 * torch.cat(diagonals, dim=1).double().log().sum(dim=1)


def triangle_bytes(count: int, dim: int) -> int:
    """Bytes of `Triangle.zeros` in float32.

    >>> triangle_bytes(count=784, dim=100)
    23520000
    """
    return 4 * count * sum((b - a) * b for a, b in pairwise(_edges(dim)))


def scoring_bytes(gaussians: int, dim: int) -> int:
    """Bytes of what scoring needs beside backbone and Π: means and packed triangles in float32.

    >>> scoring_bytes(gaussians=784, dim=100) / 2**20  # 15.4 MiB
    15.40...
    """
    return 4 * gaussians * (dim + dim * (dim + 1) // 2)


def _below(rows: slice) -> Tensor:
    """Rows and columns of a band's numbers up to the diagonal, row by row."""
    return torch.tril_indices(rows.stop - rows.start, rows.stop, offset=rows.start)


def _edges(dim: int) -> Sequence[int]:
    """Rows at which bands start and end: as equal as they can be."""
    bands = min(MAX_BANDS, -(-dim // BAND_ROWS))
    return [dim * i // bands for i in range(bands + 1)]
