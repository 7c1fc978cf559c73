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
    """ ".857" for an AUROC, "−.012" below 0."""
    if not known(value):
        return MISSING
    text = f"{abs(value):.{digits}f}".removeprefix("0")
    if not float(text):
        return text
    return ("−" if value < 0 else "+" if sign else "") + text


def spread(mean: float | None, sd: float | None, digits: int = 3) -> str:
    """ ".857 ± .004"; the mean alone where nothing varies over seeds."""
    varies = known(sd) and sd > NO_SPREAD
    return share(mean, digits) + (f" ± {share(sd, digits)}" if varies else "")


def brief(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    if abs(rounded := float(f"{value:.3g}")) >= 1000:
        return f"{value:,.0f}"
    return np.format_float_positional(rounded, trim="-")


def size(count: float) -> str:
    """Bytes in kB, MB or GB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if float(f"{count:.3g}") >= scale:  # no "1000 MB"
            return f"{brief(count / scale)} {unit}"
    return f"{count:g} B"


def number(value: float) -> str:
    """A number of unknown kind: integers whole, others to four places, small ones to two digits."""
    if float(value).is_integer():
        text = f"{value:,.0f}"
    else:
        forms = ((1000, ",.0f"), (10, ".1f"), (1e-3, ".4f"), (0, ".2g"))
        text = format(value, next(form for least, form in forms if abs(value) >= least))
    return text.replace("-", "−")
