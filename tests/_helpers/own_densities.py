"""Densities of one's own, derived from each of ours: what is fast for those is wrong for these."""

from dataclasses import replace
from functools import partial
from typing import Any

from padim_lit import Mixture, PerPosition
from padim_lit.model.density import DENSITIES
from padim_lit.model.triangular import Triangle


def own_densities() -> dict[str, Any]:
    """Each as a function of D and the seed; no other test finds them among `DENSITIES`."""

    class Diagonal(PerPosition):
        name = "own_diagonal"

        def factorize(self, moments, ridge, out=None):
            dense = moments.scatter.to_dense(symmetric=True)
            alone = Triangle.of(dense * dense.new_ones(self.dim).diag())
            return super().factorize(replace(moments, scatter=alone), ridge, out)

    class Largest(PerPosition):
        name = "own_largest"

        def nearest(self, x, mean, whitening):
            _, owner = super().nearest(x, mean, whitening)
            return (x - mean.to(x.dtype)).abs().amax(dim=-1), owner

    class Halved(Mixture):
        name = "own_halved"

        def nearest(self, x, mean, whitening):
            distances, owner = super().nearest(x, mean, whitening)
            return distances / 2, owner

    for kind in (Diagonal, Largest, Halved):
        del DENSITIES[kind.name]
    halved = partial(Halved, components=4, fit_images=6)
    return {Diagonal.name: Diagonal, Largest.name: Largest, Halved.name: halved}
