"""Running mean and scatter of every position: constant in N, mergeable, subtractable.

The state is n, the mean μ (P,D) in float64 and the scatter S = Σ (x−μ)(x−μ)ᵀ, of which the lower
triangles are kept. Every
update is centred on its own batch and joined by the pairwise formula of Chan, Golub and LeVeque
(1979), so nothing cancels when the mean is large against the spread.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from padim_lit.errors import InputError
from padim_lit.model.triangular import Triangle, blocks

# Positions whose scatter crosses the network at once.
REDUCE_POSITIONS = 256


@dataclass(frozen=True)
class Moments:
    """n images, their mean (P,D) float64 and scatter S = Σ (x−μ)(x−μ)ᵀ, P triangles of D rows."""

    count: int
    mean: Tensor
    scatter: Triangle

    def map(self, change: Callable[[Tensor], Tensor]) -> "Moments":
        """Each tensor changed."""
        return Moments(self.count, change(self.mean), self.scatter.map(change))


def init(
    positions: int,
    dim: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Moments:
    """Moments of no image; `dtype` is the scatter's.

    >>> init(positions=4, dim=2).mean.shape
    torch.Size([4, 2])
    """
    return Moments(
        0,
        torch.zeros(positions, dim, dtype=torch.float64, device=device),
        Triangle.zeros(positions, dim, device, dtype),
    )


def update(moments: Moments, x: Tensor) -> Moments:
    """Add B images. The scatter is changed in place; use the returned moments.

    S ← S + Σ_b y_b y_bᵀ + (nB/(n+B)) δδᵀ with y = x − m, m the batch's mean and δ = m − μ
    (eq. 3 and 4 in running form). The last term joins the product as one more row, so that the
    state is read and written once.

    Args:
        x: (B,P,D), finite.

    >>> update(init(4, 2), torch.rand(8, 4, 2)).count
    8
    """
    batch = x.shape[0]
    if batch == 0:
        return moments
    x = x.to(moments.scatter.dtype).transpose(0, 1)
    total = moments.count + batch
    mean = torch.empty_like(moments.mean)
    for block in blocks(x.shape[0], (batch + 1) * x.shape[2], x.device):
        part = x[block]
        rows = part.new_empty(part.shape[0], batch + 1, part.shape[2])
        centred = rows[:, :batch]
        # Centring on the rounded mean adds n times the rounding's square, which is 10⁻⁸ of the
        # scatter even where the mean is 1000 times the spread. What is left over is small, so its
        # own mean in float32 makes the sum as exact as one in float64, at a tenth of the time.
        rounded = part.mean(dim=1)
        torch.sub(part, rounded.unsqueeze(1), out=centred)
        delta = rounded.double() + centred.mean(dim=1) - moments.mean[block]
        rows[:, batch] = delta * (moments.count * batch / total) ** 0.5
        moments.scatter.at(block).add_products(rows)
        torch.add(moments.mean[block], delta, alpha=batch / total, out=mean[block])
    return Moments(total, mean, moments.scatter)


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of both sets of images, as if fitted on all; new tensors.

    S = S_a + S_b + (n_a n_b / n) δδᵀ with δ = μ_b − μ_a.

    Raises:
        InputError: the two have other positions or dimensions.

    >>> one = update(init(4, 2), torch.rand(3, 4, 2))
    >>> merge(one, one).count
    6
    """
    _check_alike(a, b)
    if a.count == 0 or b.count == 0:
        filled = b if a.count == 0 else a
        return replace(filled, mean=filled.mean.clone(), scatter=filled.scatter.map(Tensor.clone))
    total = a.count + b.count
    delta = b.mean - a.mean
    pairs = zip(a.scatter.bands, b.scatter.bands, strict=True)
    scatter = Triangle(tuple(x + y for x, y in pairs))
    _add_outer(scatter, delta, a.count * b.count / total)
    mean = a.mean + delta * (b.count / total)
    return Moments(total, mean, scatter)


def subtract(whole: Moments, part: Moments) -> Moments:
    """Moments of the images of `whole` without those of `part`; new tensors.

    The inverse of `merge`. Rounding of the whole stays, so it is relatively less exact the more
    is taken away.

    Raises:
        InputError: other shapes, or fewer than 2 images would be left.

    >>> one = update(init(4, 2), torch.rand(3, 4, 2))
    >>> subtract(merge(one, one), one).count
    3
    """
    _check_alike(whole, part)
    left = whole.count - part.count
    if left < 2:
        raise InputError(
            f"cannot remove {part.count} of {whole.count} images: at least 2 must stay"
        )
    mean = (whole.mean * whole.count - part.mean * part.count) / left
    pairs = zip(whole.scatter.bands, part.scatter.bands, strict=True)
    scatter = Triangle(tuple(x - y for x, y in pairs))
    _add_outer(scatter, part.mean - mean, -part.count * left / whole.count)
    return Moments(left, mean, scatter)


def reduce(moments: Moments, sum_over_ranks: Callable[[Tensor], Tensor]) -> Moments:
    """Moments of all ranks' images, on every rank. The scatter is changed in place.

    S = Σ_r S_r + n_r δ_r δ_rᵀ with δ_r = μ_r − μ. Sums alone cross the network, a block of
    positions at a time, so nothing is ever held once per rank.

    Args:
        moments: this rank's; n_r may be 0.
        sum_over_ranks: all-reduce of a contiguous tensor by summing, in place or not.

    >>> reduce(update(init(4, 2), torch.rand(3, 4, 2)), lambda mine: mine * 2).count  # two ranks
    6
    """
    count = int(sum_over_ranks(moments.mean.new_tensor([moments.count])).item())
    mean = sum_over_ranks(moments.mean * moments.count) / max(count, 1)
    _add_outer(moments.scatter, moments.mean - mean, moments.count)
    for band in moments.scatter.bands:
        for block in band.split(REDUCE_POSITIONS):
            block.copy_(sum_over_ranks(block))
    return Moments(count, mean, moments.scatter)


def covariance(moments: Moments, eps: float, symmetric: bool = True) -> Tensor:
    """Σ_ij = S/(n−1) + εI (eq. 4 and 9), (P,D,D) float64.

    Without `symmetric`, zeros above the diagonal: all that a Cholesky factorisation reads.

    Raises:
        InputError: fewer than 2 images.

    >>> x = torch.tensor([0.0, 2.0]).view(2, 1, 1)
    >>> covariance(update(init(1, 1), x), eps=0.5).item()
    2.5
    """
    if moments.count < 2:
        raise InputError(
            f"{moments.count} training image: a covariance needs at least 2; add good images"
        )
    sigma = moments.scatter.square(symmetric, dtype=torch.float64).div_(moments.count - 1)
    sigma.diagonal(dim1=-2, dim2=-1).add_(eps)
    return sigma


def _add_outer(scatter: Triangle, delta: Tensor, weight: float) -> None:
    scatter.add_products(delta.to(scatter.dtype).unsqueeze(1), weight)


def _check_alike(a: Moments, b: Moments) -> None:
    if a.mean.shape != b.mean.shape:
        raise InputError(
            f"moments of {tuple(a.mean.shape)} and {tuple(b.mean.shape)} (positions, dimensions) "
            "do not combine; both must come from one config"
        )
