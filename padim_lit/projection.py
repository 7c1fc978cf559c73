"""Where users' own projections find their base: see `padim_lit.model.projection`."""

from padim_lit.model.learned import NPCA, Fisher, Learned
from padim_lit.model.projection import (
    JL,
    PROJECTIONS,
    Identity,
    Orthogonal,
    Projection,
    Sparse,
    Subset,
)

__all__ = [
    "JL",
    "NPCA",
    "PROJECTIONS",
    "Fisher",
    "Identity",
    "Learned",
    "Orthogonal",
    "Projection",
    "Sparse",
    "Subset",
]
