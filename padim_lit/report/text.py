"""Numbers as the page writes them."""

import math
from typing import Any

import numpy as np

from padim_lit.system.console import MISSING

#: Below it a standard deviation is rounding: the method is deterministic.
NO_SPREAD = 1e-9


def known(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def share(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """Write an AUROC, as ".857"; "−.012" below 0."""
    if not known(value):
        return MISSING
    text = f"{abs(value):.{digits}f}".removeprefix("0")
    if not float(text):
        return text
    return ("−" if value < 0 else "+" if sign else "") + text


def spread(mean: float | None, sd: float | None, digits: int = 3) -> str:
    """Write ".857 ± .004"; the mean alone where nothing varies over seeds."""
    varies = known(sd) and sd > NO_SPREAD
    return share(mean, digits) + (f" ± {share(sd, digits)}" if varies else "")


def brief(value: float) -> str:
    """Write three significant digits, never in powers of ten; from 1,000 on all digits."""
    rounded = float(f"{value:.3g}")
    if abs(rounded) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    return np.format_float_positional(rounded, trim="-").replace("-", "−")


def size(count: float) -> str:
    """Write bytes in MB."""
    return f"{brief(count / 1e6)} MB"
