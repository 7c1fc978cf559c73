"""Whether photos still are like those that set the threshold: another light raises all scores."""

from collections.abc import Collection

#: Of a watched folder so many photos are judged, the newest: in them a change shows.
NEWEST = 20
# Fewer photos are all high by chance, or because somebody tries defects.
LEAST = 5
# The p-value of a high score: so few good images reach it. It takes 19 of them.
HIGH = 0.05


def changed(p_values: Collection[float | None]) -> str:
    """Return one line where more than half of these photos score high, "" elsewhere.

    By chance good photos do in less than 1 % of all cases. Defective ones do, too, so the line
    asks.

    Args:
        p_values: see `padim_lit.deploy.calibration.p_value`; None, or anything that a damaged file
            has in its place, is not high.

    >>> changed([0.004, 0.004, 0.01, 0.05, 0.3, 0.8])
    '4 of the last 6 photos score above 95% of the good photos that the model knows: another ...'
    >>> changed([0.004] * 4), changed([0.004, 0.06] * 10), changed([None] * 20)
    ('', '', '')
    """
    high, total = _high(p_values), len(p_values)
    if total < LEAST or 2 * high <= total:
        return ""
    return (
        f"{high} of the last {total} photos score above {1 - HIGH:.0%} of the good photos that the "
        "model knows: another light, camera or lot? (or most are defective)"
    )


def settled(p_values: Collection[float | None]) -> bool:
    """Whether a quarter of these photos or fewer score high, so that a new change would be news.

    >>> settled([0.004, 0.06, 0.3, 0.8]), settled([0.004, 0.04, 0.3, 0.8])
    (True, False)
    """
    return 4 * _high(p_values) <= len(p_values)


def _high(p_values: Collection[float | None]) -> int:
    return sum(isinstance(p, float) and p <= HIGH for p in p_values)
