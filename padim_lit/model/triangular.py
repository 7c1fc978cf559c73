"""Lower triangles of all Gaussians, kept in bands of rows: half the memory and half the work.

A scatter is symmetric and a whitening factor lower triangular, so of (G,D,D) only the half below
the diagonal matters. Cut into bands of rows, each band is a plain (G, rows, columns) tensor from
the first column to its own last, and batched products stay batched products.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

# Rows of a band, about: thinner bands waste less above the diagonal, thicker multiply faster.
BAND_ROWS = 64
MAX_BANDS = 6
# Intermediate numbers of a step on a CPU, see `blocks`: 4 MB, which its cache holds.
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
        """Return G triangles of zeros."""
        shapes = [(count, stop - start, stop) for start, stop in pairwise(_edges(dim))]
        return cls(tuple(torch.zeros(s, device=device, dtype=dtype) for s in shapes))

    @classmethod
    def of(cls, square: Tensor) -> "Triangle":
        """Return the triangles of lower or symmetric matrices (G,D,D)."""
        edges = _edges(square.shape[-1])
        return cls(tuple(square[:, a:b, :b].contiguous() for a, b in pairwise(edges)))

    @classmethod
    def unpack(cls, packed: Tensor, dtype: torch.dtype | None = None) -> "Triangle":
        """Return what was packed by `pack`, with zeros above the diagonal: a factor."""
        dim, start = int((2 * packed.shape[1]) ** 0.5), 0
        triangle = cls.zeros(packed.shape[0], dim, packed.device, dtype or packed.dtype)
        for rows, band in triangle:
            row, column = _below(rows)
            band[:, row, column] = packed[:, start : start + len(row)].to(band.dtype)
            start += len(row)
        return triangle

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield each band's rows and the band, from the top."""
        stop = 0
        for band in self.bands:
            start, stop = stop, band.shape[2]
            yield slice(start, stop), band

    @property
    def dim(self) -> int:
        """D, the rows of a triangle."""
        return self.bands[-1].shape[2]

    @property
    def count(self) -> int:
        """G, the number of triangles."""
        return self.bands[0].shape[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.bands[0].dtype

    @property
    def device(self) -> torch.device:
        return self.bands[0].device

    def map(self, change: Callable[..., Tensor], *others: "Triangle") -> "Triangle":
        """Return triangles whose bands are `change` of these bands and those of `others`."""
        bands = zip(self.bands, *(other.bands for other in others), strict=True)
        return Triangle(tuple(change(*rows) for rows in bands))

    def at(self, some: slice | Tensor) -> "Triangle":
        """Return some of the G; a slice gives views, not copies."""
        return self.map(lambda band: band[some])

    def to_dense(self, symmetric: bool, dtype: torch.dtype | None = None) -> Tensor:
        """Return a copy (G,D,D); above the diagonal the mirror image if `symmetric`, else zero."""
        shape = (self.count, self.dim, self.dim)
        square = torch.zeros(shape, dtype=dtype or self.dtype, device=self.device)
        for rows, band in self:
            square[:, rows, : rows.stop] = band
            if symmetric:
                square[:, : rows.start, rows] = band[:, :, : rows.start].mT
        return square

    def fill(self, some: slice, square: Tensor) -> None:
        """Write lower or symmetric matrices (·,D,D) into some of the G."""
        for rows, band in self:
            band[some] = square[:, rows, : rows.stop]

    def pack(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return a copy (G, D(D+1)/2), row by row, without what is above the diagonal."""
        kept = []
        for rows, band in self:
            row, column = _below(rows)
            kept.append(band[:, row, column].to(dtype or self.dtype))
        return torch.cat(kept, dim=1)

    def add_products(self, x: Tensor, weight: float = 1.0) -> None:
        """Add weight · Σ_b x_b x_bᵀ in place, with x (G,B,D)."""
        for rows, band in self:
            band.baddbmm_(x[..., rows].mT, x[..., : rows.stop], alpha=weight)

    def times(self, x: Tensor) -> Tensor:
        """Return T x_b (G,B,D) of x (G,B,D), T the triangles."""
        return torch.cat([x[..., : rows.stop] @ band.mT for rows, band in self], dim=2)

    def norms(self, x: Tensor) -> Tensor:
        """Return ‖T x_b‖ (G,B) of x (G,B,D), T the triangles."""
        # With the triangle on the left, one image takes no longer than reading the triangle.
        squares = [
            torch.bmm(band, x[..., : rows.stop].mT).square_().sum(dim=1) for rows, band in self
        ]
        return torch.stack(squares).sum(dim=0).sqrt_()


def blocks(count: int, numbers: int, device: torch.device) -> Iterator[slice]:
    """Yield slices of the `count` Gaussians, so small that intermediate results stay in the cache.

    On a CPU large ones, whose memory is new each time, cost more than the arithmetic on them. A GPU
    keeps its memory, and takes all Gaussians at once.

    Args:
        count: Gaussians.
        numbers: of intermediate results for each.

    >>> list(blocks(5, numbers=2**19, device=torch.device('cpu')))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, SCRATCH_NUMBERS // numbers) if device.type == "cpu" else count
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def invert_lower(lower: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the inverses of lower triangles (G,D,D), by halves, in `out` if given.

    [[A, 0], [B, C]]⁻¹ = [[A⁻¹, 0], [−C⁻¹ B A⁻¹, C⁻¹]], so nearly all is matrix products. A
    triangular solve against the identity does three times the arithmetic, because it does not know
    that half of its right side is zero.

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
    """Return log det Σ (G,) float64 from whitening factors: −2 times the sum of log W_ii.

    >>> covariance_log_det(Triangle.of(torch.full((1, 1, 1), 0.5))).exp().item()  # a variance of 4
    4.0
    """
    diagonals = [band[:, :, rows].diagonal(dim1=1, dim2=2) for rows, band in whitening]
    return -2 * torch.cat(diagonals, dim=1).double().log().sum(dim=1)


def triangle_bytes(count: int, dim: int) -> int:
    """Return the bytes of `Triangle.zeros` in float32.

    >>> triangle_bytes(count=784, dim=100)
    23520000
    """
    return 4 * count * sum((b - a) * b for a, b in pairwise(_edges(dim)))


def scoring_bytes(gaussians: int, dim: int) -> int:
    """Return the bytes that scoring needs beside backbone and Π: means, packed triangles, float32.

    >>> scoring_bytes(gaussians=784, dim=100) / 2**20  # 15.4 MiB
    15.40...
    """
    return 4 * gaussians * (dim + dim * (dim + 1) // 2)


def _below(rows: slice) -> Tensor:
    """Return rows and columns of a band's numbers up to the diagonal, row by row."""
    return torch.tril_indices(rows.stop - rows.start, rows.stop, offset=rows.start)


def _edges(dim: int) -> Sequence[int]:
    """Return the rows at which bands start and end; bands have as equally many as they can."""
    bands = min(MAX_BANDS, -(-dim // BAND_ROWS))
    return [dim * i // bands for i in range(bands + 1)]
