"""p, k and ε measured on pairs, and the table that the command prints."""

import numpy as np
import pytest
from _helpers.sweeps import write_rows, write_scores

from padim_lit.analysis.separation import mean_separations, separation
from padim_lit.analysis.sweep_results import read_sweeps
from padim_lit.analysis.theory import performance_at
from padim_lit.errors import InputError


def distances(seed: int = 0, epsilon: float = 0.2, scale: float = 1.0):
    """Distances and what a projection within 1 ± ε of `scale` makes of them."""
    rng = np.random.default_rng(seed)
    good, defective = rng.uniform(1, 1.2, 60), rng.uniform(1.3, 1.8, 40)
    after = [x * scale * rng.uniform(1 - epsilon, 1 + epsilon, len(x)) for x in (good, defective)]
    return good, defective, *after


def test_every_pair_is_counted_as_a_loop_counts_it():
    good, defective, good_after, defective_after = distances()
    found = separation(good, defective, good_after, defective_after)
    counted = []
    for a, a_after in zip(defective, defective_after, strict=True):
        for b, b_after in zip(good, good_after, strict=True):
            k = (a - b) / (a + b)
            r = 2 * k / (found["epsilon"] + k) if k < found["epsilon"] else 1
            counted.append((k, k < found["epsilon"], r, a_after > b_after))
    k, overlap, r, kept = np.array(counted, float).T
    assert found["auroc"] == 1
    assert found["k"][1] == pytest.approx(np.median(k))
    assert found["p"] == pytest.approx(overlap.mean()) and 0 < found["p"] < 1
    assert found["y"] == pytest.approx(r.mean()) and found["y_measured"] == pytest.approx(
        kept.mean()
    )
    assert found["r"] == pytest.approx(r[overlap == 1].mean())
    assert found["y"] == pytest.approx(found["p"] * found["r"] + 1 - found["p"])
    # Where the intervals do not overlap, almost nothing changes places.
    assert kept[overlap == 0].mean() > 0.99


def test_with_one_gap_it_is_eq_13():
    after = np.array([1.9, 2.1, 2.3, 2.5, 2.7, 3.0]), np.array([3.6, 2.0, 2.4, 2.8, 3.3, 3.2])
    found = separation(np.full(6, 2.0), np.full(6, 3.0), *after)
    assert (found["p"], found["k"][0], found["k"][2]) == (1, pytest.approx(0.2), pytest.approx(0.2))
    assert found["y"] == pytest.approx(performance_at(found["epsilon"], 1, 0.2))


def test_a_common_factor_changes_the_scale_alone():
    one, half = (separation(*distances(scale=scale)) for scale in (1.0, 0.5))
    assert half["scale"] == pytest.approx(one["scale"] / 2)
    for name in ("epsilon", "p", "r", "y", "y_measured"):
        assert half[name] == pytest.approx(one[name])


def test_nothing_lost_where_nothing_is_distorted():
    good, defective, *_ = distances()
    found = separation(good, defective, good, defective)
    assert (found["epsilon"], found["p"], found["y"], found["y_measured"]) == (0, 0, 1, 1)
    assert np.isnan(found["r"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (([1], [0], [1], [1]), "above 0"),
        (([], [2], [], [2]), "one good and one defective"),
        (([2], [1], [2], [1]), "no defective item"),
    ],
)
def test_distances_that_cannot_be_measured(values, message):
    with pytest.raises(InputError, match=message):
        separation(*values)


def test_means_are_over_seeds(tmp_path):
    rows = [{"proj": "identity", "dim": 1792, "seed": 0}]
    rows += [{"proj": "jl", "dim": dim, "seed": seed} for dim in (50, 150) for seed in (0, 1)]
    write_rows(tmp_path, rows)
    rng = np.random.default_rng(0)
    base = np.where(np.arange(12) % 2, 2.0, 1.0) + rng.uniform(0, 0.3, 12)
    scores = {
        "identity-1792-0": base,
        **{f"jl-{r['dim']}-{r['seed']}": base * rng.uniform(0.8, 1.2, 12) for r in rows[1:]},
    }
    write_scores(tmp_path, [f"{i}.png" for i in range(12)], scores)
    found = mean_separations(read_sweeps([tmp_path])[0])
    assert [(row["proj"], row["dim"], row["before"]) for row in found] == [
        ("jl", 50, 1.0), ("jl", 150, 1.0),
    ]  # fmt: skip
    expected = [
        separation(base[::2], base[1::2], scores[f"jl-50-{s}"][::2], scores[f"jl-50-{s}"][1::2])
        for s in (0, 1)
    ]
    assert found[0]["epsilon"] == pytest.approx(np.mean([e["epsilon"] for e in expected]))


def test_a_seed_is_compared_with_the_same_seed_before(tmp_path):
    rows = [
        {"proj": p, "dim": d, "seed": s} for p, d in (("identity", 99), ("jl", 50)) for s in (0, 1)
    ]
    write_rows(tmp_path, rows)
    rng = np.random.default_rng(0)
    draws = [np.where(np.arange(12) % 2, 2.0, 1.0) + rng.uniform(0, 0.9, 12) for _ in range(2)]
    # Nothing is lost by this projection: each seed's distances are what they were before it.
    scores = {f"{p}-{d}-{s}": draws[s] for p, d in (("identity", 99), ("jl", 50)) for s in (0, 1)}
    write_scores(tmp_path, [f"{i}.png" for i in range(12)], scores)
    (row,) = mean_separations(read_sweeps([tmp_path])[0])
    assert (row["epsilon"], row["p"], row["y_measured"]) == (0, 0, 1)
    each = [separation(x[::2], x[1::2], x[::2], x[1::2]) for x in draws]
    assert row["before"] == pytest.approx(np.mean([one["auroc"] for one in each]))
    assert row["k"] == pytest.approx(np.mean([one["k"] for one in each], axis=0))


def test_scores_that_lack_a_configuration_are_one_line(tmp_path):
    """As an ablation leaves them that was killed between two files of a folder used before."""
    rows = [{"proj": proj, "dim": dim, "seed": 0} for proj, dim in (("identity", 99), ("jl", 50))]
    write_rows(tmp_path, rows, eps=None)
    write_scores(tmp_path, [f"{i}.png" for i in range(12)], {"identity-99-0": range(1, 13)})
    with pytest.raises(InputError, match=r"scores\.npz"):
        mean_separations(read_sweeps([tmp_path])[0])
