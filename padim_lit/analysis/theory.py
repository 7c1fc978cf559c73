"""The JL report's theory, under its own equation numbers: the lemma (1, 2), detection (11 to 15).

Arguments are numbers for which the equations mean something: dimensions and counts above 0, shares
between 0 and 1. ε is here the relative error of a length, not the key `eps`. D₁ is the distance of
a defective item to the centre of the good ones, D₂ that of a good item, d₁ and d₂ the same after
the projection.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from padim_lit.errors import InputError

#: The chance δ that a promise of the lemma fails.
DELTA = 0.05


def jl_dimension(points: int, epsilon: float) -> int:
    """Dimensions that keep all pairwise squared distances of `points` within 1 ± ε.

    D ≥ 4 ln n / (ε²/2 − ε³/3) (Dasgupta and Gupta 2003), which holds with a probability of at
    least 1/n. It is eq. 1 for the differences of all pairs at once.

    >>> jl_dimension(10_000, 0.1)
    7894
    """
    return int(4 * math.log(points) / (epsilon**2 / 2 - epsilon**3 / 3))


def vector_dimension(epsilon: float, delta: float = DELTA, vectors: int = 1) -> float:
    """Eq. 1, m = O(log(1/δ)/ε²): one Π keeps the squared lengths of given vectors within 1 ± ε.

    m ≥ ln(2n/δ) / (ε²/4 − ε³/6), from the tails of χ² (Dasgupta and Gupta 2003). It is true of
    vectors that were chosen before Π was drawn.

    >>> round(vector_dimension(0.1)), round(vector_dimension(0.5))
    (1581, 89)
    """
    return math.log(2 * vectors / delta) / (epsilon**2 / 4 - epsilon**3 / 6)


def subspace_dimension(d: int, epsilon: float, delta: float = DELTA) -> float:
    """Eq. 2, m = O((d log(1/ε) + log(1/δ))/ε²): the same for all vectors of a d-space at once.

    m ≥ ((√d + √(2 ln(2/δ))) / (√(1+ε) − 1))², from the singular values of a normal matrix
    (Davidson and Szarek 2001); for such a Π it needs no log(1/ε). m may exceed d, and C.

    >>> round(subspace_dimension(100, 0.5))
    3201
    """
    return ((math.sqrt(d) + math.sqrt(2 * math.log(2 / delta))) / (math.sqrt(1 + epsilon) - 1)) ** 2


def promised(dimension: Callable[[float], float], m: float) -> float | None:
    """Return the ε that m dimensions promise by a bound ε → dimension; None where it is 1 or more.

    >>> round(promised(vector_dimension, 150), 2)
    0.36
    >>> promised(lambda epsilon: subspace_dimension(319, epsilon), 550)
    """
    least, most = 1e-6, 1 - 1e-9
    if dimension(most) > m:
        return None
    return float(brentq(lambda epsilon: dimension(epsilon) - m, least, most))


def kept_between(distance: ArrayLike, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Return where a distance can lie after the projection, from (1−ε)D to (1+ε)D (eq. 11).

    Eq. 1 and 2 bound squared lengths, from √(1−ε)D to √(1+ε)D: eq. 11 is the wider of the two.

    >>> low, high = kept_between(2.0, 0.25)
    >>> float(low), float(high)
    (1.5, 2.5)
    """
    distance = np.asarray(distance, float)
    return (1 - epsilon) * distance, (1 + epsilon) * distance


def relative_gap(defective: ArrayLike, good: ArrayLike) -> np.ndarray:
    """k = (D₁−D₂)/(D₁+D₂) of eq. 12; the intervals of eq. 11 overlap where k < ε.

    >>> float(relative_gap(3.0, 2.0))
    0.2
    """
    defective, good = np.asarray(defective, float), np.asarray(good, float)
    return (defective - good) / (defective + good)


def still_right(epsilon: ArrayLike, k: ArrayLike) -> np.ndarray:
    """r = 2k/(ε+k) (eq. 12): 1 less the overlap of the two intervals, as a share of their union.

    The report takes it for the share of overlapping pairs that stay in order. For k → 0 it is 0,
    below the half that a coin would keep. Meant for ε ≥ k; 1 where the intervals do not overlap.

    >>> still_right(0.6, [0.2, 0.6, 0.9]).tolist()
    [0.5, 1.0, 1.0]
    """
    k = np.asarray(k, float)
    return np.minimum(1.0, 2 * k / (np.asarray(epsilon, float) + k))


def performance_at(epsilon: ArrayLike, p: float, k: float) -> np.ndarray:
    """Detection at distortion ε, y = p·r + (1−p) = 2pk/(ε+k) + 1 − p (eq. 13), for ε in (k, 1).

    1 at ε = k and 1 − p(1−k)/(1+k) at ε = 1.
    """
    return 2 * p * k / (np.asarray(epsilon, float) + k) + 1 - p


def distortion(x: ArrayLike, q: float) -> np.ndarray:
    """Distortion that x dimensions leave, ε(x) = √(q/x) (from eq. 14, x = q/ε²).

    Eq. 14 calls (d log(1/ε) + log(1/σ)) a constant q, although it holds ε; its σ is eq. 2's δ.
    """
    return np.sqrt(q / np.asarray(x, float))


def performance(x: ArrayLike, p: float, q: float, k: float) -> np.ndarray:
    """Detection against the dimension, y(x) = 2pk/(√(q/x)+k) + 1 − p (eq. 15).

    NaN outside its domain x in (q, q/k²), of which the report claims nothing.

    Raises:
        InputError: k not in (0, 1).
    """
    if not 0 < k < 1:
        raise InputError(f"k={k}: must be between 0 and 1, so that the domain (q, q/k²) exists")
    x = np.asarray(x, float)
    y = performance_at(distortion(x, q), p, k)
    return np.where((x > q) & (x < q / k**2), y, np.nan)
