"""Where users' own densities find their base: see `padim_lit.model.density`."""

from padim_lit.model.both import Both as Both
from padim_lit.model.density import DENSITIES as DENSITIES
from padim_lit.model.density import Density as Density
from padim_lit.model.density import PerPosition as PerPosition
from padim_lit.model.mixture import Mixture as Mixture
