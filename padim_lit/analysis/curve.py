"""Eq. 15 of the JL report fitted to measured points: what of it the points determine."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import curve_fit
from scipy.stats import t

from padim_lit.analysis.bootstrap import CONFIDENCE
from padim_lit.errors import InputError

# Where the interval of q/k² goes beyond this factor each way, not even its order of magnitude is
# known, and the data do not say where the curve ends.
MAX_UNCERTAINTY = 10


@dataclass(frozen=True)
class Fit:
    """Eq. 15 fitted to measured points.

    Dividing by k shows that y depends on p and q/k² alone: y = 2p/(√((q/k²)/x) + 1) + 1 − p. No
    measurement of y can tell q from k, so these two are what is fitted.

    Attributes:
        p: the share of detection that the projection can cost.
        limit: q/k², the dimension at which y = 1: the upper end of the domain.
        covariance: (2,2) of p and ln(limit), from the residuals.
        rmse, r_squared: of the fit.
        points: how many were fitted.
    """

    p: float
    limit: float
    covariance: np.ndarray
    rmse: float
    r_squared: float
    points: int

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """Return y at x, also beyond the domain, where the formula goes on."""
        return _curve(np.asarray(x, float), self.p, math.log(self.limit))

    @property
    def limit_interval(self) -> tuple[float, float] | None:
        """Return the `CONFIDENCE` interval of the curve's end; None where the points do not tell.

        On a flat curve p and limit trade off, and limit may lie at the end of what is searched.
        """
        half = self._t() * math.sqrt(self.covariance[1, 1])
        # Points that are all alike have no R², and at 1 they are met by p = 0 and any limit.
        if math.isnan(self.r_squared) or not half < math.log(MAX_UNCERTAINTY):
            return None
        return self.limit * math.exp(-half), self.limit * math.exp(half)

    def band(self, x: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return the curve's pointwise band at `CONFIDENCE` (delta method, Student's t)."""
        x = np.asarray(x, float)
        gradient = _gradient(x, self.p, math.log(self.limit))
        variance = np.einsum("...i,ij,...j->...", gradient, self.covariance, gradient)
        half = self._t() * np.sqrt(np.maximum(variance, 0))
        return self(x) - half, self(x) + half

    def _t(self) -> float:
        """Return Student's t for the degrees of freedom that two fitted parameters leave."""
        return float(t.ppf((1 + CONFIDENCE) / 2, self.points - 2))


def fit_performance(x: ArrayLike, y: ArrayLike) -> Fit:
    """Fit eq. 15 by least squares to points (x, y): dimensions and detection, such as AUROC.

    Raises:
        InputError: fewer than four different dimensions.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(np.unique(x)) < 4:
        raise InputError(f"{len(np.unique(x))} dimensions: a fit of eq. 15 needs at least 4")

    # Several starts, because a flat stretch has local minima; the same ones each time.
    middle = math.log(np.median(x))
    starts = [(p, middle + shift) for p in (0.05, 0.3, 1.0) for shift in (0.0, 3.0, 7.0)]
    bounds = ([1e-9, math.log(x.min()) - 7], [2.0, math.log(x.max()) + 21])
    how = {"jac": _gradient, "bounds": bounds, "xtol": 1e-14, "ftol": 1e-14, "max_nfev": 1000}
    found = [curve_fit(_curve, x, y, start, **how, full_output=True) for start in starts]
    (p, log_limit), covariance, about, *_ = min(found, key=lambda one: (one[2]["fvec"] ** 2).sum())
    squares, total = (about["fvec"] ** 2).sum(), ((y - y.mean()) ** 2).sum()
    return Fit(
        p=float(p),
        limit=math.exp(log_limit),
        covariance=covariance,
        rmse=math.sqrt(squares / len(x)),
        r_squared=float(1 - squares / total) if np.ptp(y) else math.nan,
        points=len(x),
    )


def _curve(x: np.ndarray, p: float, log_limit: float) -> np.ndarray:
    return 2 * p / (np.sqrt(math.exp(log_limit) / x) + 1) + 1 - p


def _gradient(x: np.ndarray, p: float, log_limit: float) -> np.ndarray:
    """Return ∂y/∂p and ∂y/∂ln(limit), (..., 2)."""
    root = np.sqrt(math.exp(log_limit) / x)
    return np.stack([2 / (root + 1) - 1, -p * root / (root + 1) ** 2], axis=-1)
