"""Where users' own densities find their base: see `padim_lit.model.density`."""

from padim_lit.model.both import Both
from padim_lit.model.density import DENSITIES, Density, PerPosition
from padim_lit.model.mixture import Mixture

__all__ = ["DENSITIES", "Both", "Density", "Mixture", "PerPosition"]
