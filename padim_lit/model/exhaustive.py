"""The nearest of a mixture's Gaussians, all of them computed: on a GPU, and in exported graphs."""

import torch
from torch import Tensor, nn

from padim_lit.model.triangular import Triangle

# Numbers that a step writes on a GPU: 256 MB of them, so that its products are large ones.
SCRATCH_NUMBERS = 2**26


class Exhaustive(nn.Module):
    """Patches → the nearest of K Gaussians: d² = min_k ‖W_k(x−μ_k)‖² (eq. 5 and 10).

    Which components could be left out depends on the values. A graph is the same for all values,
    and a GPU computes all sooner than it would say which are left, as `Search` finds on a CPU.

    Args:
        mean: (K,D).
        whitening: K triangles of D rows.

    >>> mean, whitening = torch.tensor([[0.0], [5.0]]), Triangle.of(torch.ones(2, 1, 1))
    >>> Exhaustive(mean, whitening)(torch.tensor([[[3.0], [1.0]]]))
    (tensor([[2., 1.]]), tensor([[1, 0]]))
    """

    centre: Tensor

    def __init__(self, mean: Tensor, whitening: Triangle):
        super().__init__()
        self.components, self.dim = mean.shape
        # So that Wx − Wμ does not cancel.
        self.register_buffer("centre", mean.double().mean(dim=0).float())
        mean = (mean.double() - self.centre).float().unsqueeze(2)
        self.rows = [rows for rows, _ in whitening]
        for i, (rows, band) in enumerate(whitening):
            band = band.float()
            offset = band @ mean[:, : rows.stop]
            matrix = torch.cat([-offset, band], dim=2)  # (K,r,1+e)
            self.register_buffer(f"whitening{i}", matrix.permute(2, 0, 1).contiguous())

    def forward(
        self, x: Tensor, at_most: Tensor | None = None, at_once: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Distances, not squared, of (B,P,D), and to which component they are: both (B,P).

        Args:
            x: (B,P,D).
            at_most: not needed, see `padim_lit.model.search.Search`.
            at_once: components in a step, all patches in each; None: all components, some patches.
        """
        x = torch.cat([torch.ones_like(x[..., :1]), x - self.centre], dim=2)
        if at_once is None:
            parts = x.flatten(0, 1).split(max(1, SCRATCH_NUMBERS // (self.components * self.dim)))
            found = [self._of_all(part).min(dim=0) for part in parts]
            squares, owner = (
                torch.cat(both).view(x.shape[:2]) for both in zip(*found, strict=True)
            )
        else:
            starts = range(0, self.components, at_once)
            found = [self._of_some(x, slice(k, k + at_once)).min(dim=2) for k in starts]
            squares, step = torch.stack([one.values for one in found]).min(dim=0)
            within = torch.stack([one.indices for one in found]).gather(0, step.unsqueeze(0))[0]
            owner = within + step * at_once
        return squares.sqrt(), owner

    def _of_all(self, x: Tensor) -> Tensor:
        """(n,1+D) → ‖W(x−μ)‖² (K,n), patches last: so a GPU adds up rows side by side."""
        squares: Tensor | float = 0.0
        for i, rows in enumerate(self.rows):
            matrix = getattr(self, f"whitening{i}")
            z = matrix.flatten(1).T @ x[:, : rows.stop + 1].T  # (K·r,n)
            norms = torch.linalg.vector_norm(z.unflatten(0, matrix.shape[1:]), dim=1)
            squares = squares + norms.square_()
        return squares

    def _of_some(self, x: Tensor, some: slice) -> Tensor:
        """(B,P,1+D) → ‖W(x−μ)‖² of some components, (B,P,some)."""
        squares: Tensor | float = 0.0
        for i, rows in enumerate(self.rows):
            matrix = getattr(self, f"whitening{i}")[:, some]
            z = x[..., : rows.stop + 1] @ matrix.flatten(1)  # (B,P,some·r)
            squares = squares + (z * z).unflatten(-1, matrix.shape[1:]).sum(dim=-1)
        return squares
