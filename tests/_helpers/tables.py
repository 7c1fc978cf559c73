"""Long tables of cases: some of them in the default suite, all of them in CI."""

from collections.abc import Sequence
from typing import Any

import pytest


def long_table(
    names: str | Sequence[str], cases: Sequence[Any], every: int, **kwargs: Any
) -> pytest.MarkDecorator:
    """``pytest.mark.parametrize`` of whose cases all but every so many-th are slow."""
    several = not isinstance(names, str)
    chosen = [
        pytest.param(*(case if several else [case]), marks=[pytest.mark.slow] * (place % every > 0))
        for place, case in enumerate(cases)
    ]
    return pytest.mark.parametrize(names, chosen, **kwargs)
