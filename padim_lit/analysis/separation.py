"""p, k and ε of the JL report measured, so that eq. 11 to 13 are tested without fitting a curve.

The report's page has a table of it for each ablation with scores of proj=identity (before the
projection) and of another projection (after it).
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from padim_lit.analysis.sweep_results import WHOLE, SweepFolder
from padim_lit.analysis.theory import DELTA, relative_gap, still_right
from padim_lit.errors import InputError

#: Columns of the table, by attribute; "q" is ε²D.
MEASURED = {
    "scale": "d/D",
    "epsilon": "ε",
    "q": "ε²D",
    "p": "p",
    "r": "r eq. 12",
    "r_measured": "r seen",
    "y": "y eq. 13",
    "y_measured": "y seen",
    "auroc_after": "AUROC after",
}


def separation(
    good: ArrayLike, defective: ArrayLike, good_after: ArrayLike, defective_after: ArrayLike
) -> dict[str, Any]:
    """Measure p, k and ε from distances to the centre before, (N,) and (M,), and after projecting.

    A pair of a defective and a good item is *right* where the defective one is farther from the
    centre.

    Returns:
        auroc: share of pairs that are right before the projection; the report takes it for 1.
        auroc_after: the same after it, pairs that turned right among them.
        k: quartiles of the relative gap of right pairs (eq. 12), (3,).
        scale: median of d/D; 1 where lengths are kept. AUROC does not see it, so it is divided out.
        epsilon: d/(scale·D) lies within 1 ± ε for all items but the share `DELTA` (eq. 11).
        p: share of right pairs whose intervals overlap (eq. 13).
        r: of these, the share that eq. 12 says is still right, each pair with its own k.
        r_measured: of these, the share that is still right; NaN where none overlap.
        y: share of right pairs that eq. 13 says is still right, p·r + 1 − p.
        y_measured: the share that is.

    Raises:
        InputError: distances that do not belong together, or none in the right order.

    >>> found = separation([1.0, 1.1], [2.0, 1.2], [0.9, 1.1], [2.0, 1.0])
    >>> found["p"], found["y_measured"]  # 3 of 4 pairs stay right
    (0.5, 0.75)
    """
    good, defective, good_after, defective_after = (
        np.asarray(x, float) for x in (good, defective, good_after, defective_after)
    )
    before, after = np.concatenate([good, defective]), np.concatenate([good_after, defective_after])
    if good.ndim != 1 or not good.size or not defective.size or not (before > 0).all():
        raise InputError("give distances above 0 of one good and one defective item or more")
    k = relative_gap(defective[:, None], good)
    right = k > 0
    if not right.any():
        raise InputError("no defective item is farther from the centre than a good one")
    k_after = relative_gap(defective_after[:, None], good_after)
    ratio = after / before
    scale = float(np.median(ratio))
    epsilon = float(np.quantile(np.abs(ratio / scale - 1), 1 - DELTA))
    gaps, kept = k[right], (k_after > 0)[right]
    overlap = gaps < epsilon
    r = still_right(epsilon, gaps)
    return {
        "auroc": _right(k),
        "auroc_after": _right(k_after),
        "k": np.quantile(gaps, (0.25, 0.5, 0.75)),
        "scale": scale,
        "epsilon": epsilon,
        "p": float(overlap.mean()),
        "r": float(r[overlap].mean()) if overlap.any() else np.nan,
        "r_measured": float(kept[overlap].mean()) if overlap.any() else np.nan,
        "y": float(r.mean()),
        "y_measured": float(kept.mean()),
    }


def _right(k: np.ndarray) -> float:
    """Return the share of pairs with a gap above 0, plus half of those with none."""
    return float((k > 0).mean() + (k == 0).mean() / 2)


def mean_separations(folder: SweepFolder) -> list[dict[str, Any]]:
    """Return a row of means over seeds for each projection and D; "q" is ε²D (eq. 14).

    Image scores are the distances. A seed is compared with the same seed before the projection,
    where centroids are drawn by it too, or with the first, where there is but one. None without
    proj=identity and another.

    Raises:
        InputError: the folder holds no image scores.
    """
    if not {WHOLE} < {*folder.projs}:
        return []
    by_seed, images = folder.all_image_scores(), folder.scores
    kinds = [images.count_image & (images.label == label) for label in (0, 1)]
    whole = next(key for key in by_seed if key[0] == WHOLE)
    before = dict(zip(folder.seeds_of(*whole), by_seed[whole], strict=True))
    first = by_seed[whole][0]
    rows = []
    for (proj, dim), scores in by_seed.items():
        if proj == WHOLE:
            continue
        seeds = []
        for seed, after in zip(folder.seeds_of(proj, dim), scores, strict=True):
            both = before.get(seed, first), after
            found = separation(*(x[kind] for x in both for kind in kinds))
            seeds.append(found | {"before": found["auroc"], "q": found["epsilon"] ** 2 * dim})
        means = {name: np.mean([one[name] for one in seeds], axis=0).tolist() for name in seeds[0]}
        rows.append({"proj": proj, "dim": dim, **means})
    return rows
