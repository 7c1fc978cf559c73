"""What a projection does to lengths and to Mahalanobis distances, measured on real embeddings.

The Johnson–Lindenstrauss lemma is about lengths of difference vectors. Detection uses Mahalanobis
distances, of which it promises nothing: dividing by the spread of the good images undoes lengths.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from padim_lit.errors import InputError
from padim_lit.model.gaussian import factorize, mahalanobis
from padim_lit.model.moments import Moments, init, update
from padim_lit.model.projection import Projection
from padim_lit.model.ridge import Ridge

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
PAIRS = 10_000
CHUNK = 64


def full_distances(train: Tensor, test: Tensor, ridge: Ridge) -> Tensor:
    """Return M_C (N',P), the Mahalanobis distances of the test patches in all C channels.

    Args:
        train: (N,P,C) of the good images to fit, at some positions.
        test: (N',P,C) at the same ones.
        ridge: of the distances.

    Raises:
        InputError: a single test image.
    """
    if len(test) < 2:
        raise InputError(f"{len(test)} test image: distances between two need 2")
    state = _fit(train)
    return mahalanobis(test, state.mean, factorize(state, ridge))


def measure(
    projection: Projection, dims: list[int], whole: Sequence[Tensor], full: Tensor, ridge: Ridge
) -> Iterator[dict[str, Any]]:
    """Yield rows of distortion.json for one projection: each `quantity` for every d ≤ D.

    ``norm``: ‖Πx‖²/‖x‖² of the test patches. ``pair``: the same of differences of patches of one
    position in two test images, which is what the lemma is about. ``distance``: M_D/M_C of the
    test patches, with ``spearman``, the rank correlation of the two.

    Args:
        projection: drawn at the largest of `dims`, not one that learns.
        dims: each at most ``projection.dim``.
        whole: train (N,P,C) and test (N',P,C), as in `full_distances`.
        full: M_C, from there.
        ridge: of both distances.
    """
    train, test = (x @ projection.matrix.T for x in whole)
    state = _fit(train)
    first, second = _pairs(len(test))
    lengths = whole[1].square().sum(-1)
    apart = (whole[1][first] - whole[1][second]).square().sum(-1)
    for d in dims:
        rows, factor = projection.nested(d)
        x = test[..., rows] * factor
        mean = state.mean[:, rows] * factor
        distance = mahalanobis(x, mean, factorize(state, ridge, rows, factor))
        ratios = {
            "norm": x.square().sum(-1) / lengths,
            "pair": (x[first] - x[second]).square().sum(-1) / apart,
            "distance": distance / full,
        }
        for quantity, values in ratios.items():
            found = _spread(values)
            if quantity == "distance":
                ranks = spearmanr(distance.flatten().numpy(), full.flatten().numpy())
                found["spearman"] = float(ranks.statistic)
            run = {"proj": projection.name, "dim": d, "seed": projection.seed}
            yield {**run, "quantity": quantity, **found}


def _fit(x: Tensor) -> Moments:
    state = init(x.shape[1], x.shape[2], x.device)
    for batch in x.split(CHUNK):
        state = update(state, batch)
    return state


def _pairs(images: int) -> tuple[Tensor, Tensor]:
    """Draw seeded pairs of different images; every position of a pair counts."""
    generator = torch.Generator().manual_seed(0)
    count = min(PAIRS // 64, images * (images - 1))
    first = torch.randint(images, (count,), generator=generator)
    step = torch.randint(1, images, (count,), generator=generator)
    return first, (first + step) % images


def _spread(values: Tensor) -> dict[str, float]:
    values = values.double().flatten()
    values = values[values.isfinite()]  # a length of exactly zero has no ratio
    at = torch.quantile(values, torch.tensor(QUANTILES, dtype=torch.float64))
    quantiles = {f"q{100 * q:02.0f}": float(v) for q, v in zip(QUANTILES, at, strict=True)}
    return {"mean": float(values.mean()), "sd": float(values.std()), **quantiles}
