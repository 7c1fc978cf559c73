"""What makes covariances invertible: ε on the diagonal, and the pooled covariance Σ₀."""

from dataclasses import dataclass

import torch
from torch import Tensor

from padim_lit.errors import InputError, require_choice
from padim_lit.model.moments import Moments
from padim_lit.model.triangular import Triangle, blocks

#: Units of ε, see `Ridge`.
EPS_UNITS = ("feature", "variance")
#: The largest ε: far more than features vary, and far below what overflows in float32.
MAX_EPS = 1e9


@dataclass(frozen=True)
class Ridge:
    """Regularisation of the covariances, Σ = (S + νΣ₀)/(n−1+ν) + εI.

    Attributes:
        eps: 0 ≤ ε ≤ 10⁹, added to every diagonal (eq. 4).
        unit: of ε: "feature", squared feature units as in PaDiM, or "variance", the mean of Σ₀'s
            diagonal, so that it means the same for every backbone.
        shrinkage: ν ≥ 0, as many patches as Σ₀ weighs in each covariance.
        common: Σ₀ (D,D) where moments hold only some of its Gaussians; None: their own `pooled`.

    Raises:
        InputError: out of range, or another unit.

    >>> from padim_lit.model.moments import init, update
    >>> moments = update(init(4, 2), torch.rand(9, 4, 2))
    >>> eps, prior = Ridge(eps=0.1, unit="variance").of(moments)
    >>> 0 < eps < 0.1, prior
    (True, None)
    """

    eps: float = 0.01
    unit: str = "feature"
    shrinkage: float = 0.0
    common: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.eps <= MAX_EPS:
            raise InputError(
                f"eps={self.eps}: must be 0 or more and at most {MAX_EPS:g}; set eps > 0 (PaDiM "
                "uses 0.01)"
            )
        require_choice("eps_unit", self.unit, EPS_UNITS)

    def of(
        self, moments: Moments, rows: Tensor | None = None, factor: float = 1.0
    ) -> tuple[float, tuple[Tensor, float] | None]:
        """Return ε in squared feature units, and the prior of `covariance`; as for `factorize`."""
        if self.unit == "feature" and not self.shrinkage:
            return self.eps, None
        common, eps = pooled(moments) if self.common is None else self.common, self.eps
        if self.unit == "variance":
            variances = common.diagonal() if rows is None else common.diagonal()[rows] * factor**2
            eps *= float(variances.mean())
            if self.eps and not eps:
                raise InputError(
                    "the good images do not vary at all, so eps_unit=variance leaves ε at 0; give "
                    "more than copies of one image, or use eps_unit=feature"
                )
        return eps, (common, self.shrinkage) if self.shrinkage else None

    def too_small(self, dim: int) -> InputError:
        """Return the error of a covariance in `dim` dimensions that is not positive definite."""
        return InputError(
            f"eps={self.eps} with eps_unit={self.unit}: a covariance in {dim} dimensions is too "
            "near a singular one; set a larger eps or a smaller dim, or use more images, and such "
            "that differ"
        )


def pooled(moments: Moments) -> Tensor:
    """Return Σ₀ (D,D) float64, the covariance of all patches, each around its Gaussian's mean.

    It is the sum of all S over the sum of all n less the number of Gaussians that have a patch.

    >>> from padim_lit.model.moments import init, update
    >>> x = torch.tensor([[[0.0], [5.0]], [[2.0], [5.0]]])  # (2,2,1): one Gaussian has variance 2
    >>> pooled(update(init(2, 1), x)).item()
    1.0
    """
    scatter = moments.scatter
    total = Triangle.zeros(1, scatter.dim, scatter.device, torch.float64)
    # A sum in float64 copies what it sums, so a few at a time.
    for block in blocks(len(moments.mean), scatter.dim**2, scatter.device):
        for one, band in zip(total.bands, scatter.at(block).bands, strict=True):
            one += band.sum(dim=0, keepdim=True, dtype=torch.float64)
    return total.to_dense(symmetric=True)[0] / _freedom(moments)


def variances(moments: Moments) -> Tensor:
    """Return the diagonal (D,) of `pooled`, in a fraction of its time.

    >>> from padim_lit.model.moments import init, update
    >>> x = torch.tensor([[[0.0], [5.0]], [[2.0], [5.0]]])  # (2,2,1)
    >>> variances(update(init(2, 1), x)).item()
    1.0
    """
    bands = [band.diagonal(rows.start, 1, 2) for rows, band in moments.scatter]
    return torch.cat([band.sum(0, dtype=torch.float64) for band in bands]) / _freedom(moments)


def _freedom(moments: Moments) -> Tensor:
    return (moments.counts.sum() - (moments.counts > 0).sum()).clamp(min=1)
