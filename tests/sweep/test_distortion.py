"""What projections do to lengths and distances: known truths, and the command."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from _helpers.cli import TINY
from _helpers.tables import long_table
from _helpers.trees import build_tree
from scipy.stats import spearmanr

from padim_lit.errors import InputError
from padim_lit.model.projection import JL, Identity, Subset
from padim_lit.model.ridge import Ridge
from padim_lit.sweep.distortion import full_distances, measure

C = 40
DISTORTION = [
    *(a for a in TINY if not a.startswith(("logger=", "dim=", "proj="))),
    "experiment=distortion",
    "dims=[4,12]",
    "seeds=[0,1]",
    "positions=5",
]


@pytest.fixture(scope="module")
def patches():
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(0.2, 3, C)
    draws = torch.randn(90, 3, C, generator=generator) * scale + 5
    return draws[:60], draws[60:]


def by_quantity(rows, dim):
    return {row["quantity"]: row for row in rows if row["dim"] == dim}


def test_identity_changes_nothing(patches):
    full = full_distances(*patches, Ridge())
    rows = list(measure(Identity(C), [C], patches, full, Ridge()))
    for row in rows:
        assert row["mean"] == pytest.approx(1, abs=1e-5) and row["sd"] < 1e-5
    assert by_quantity(rows, C)["distance"]["spearman"] == pytest.approx(1)


def test_ratios_equal_numpys(patches):
    eps, dims = 0.01, [6, 20]
    full = full_distances(*patches, Ridge(eps))
    projection = JL(C, 20, seed=3)
    rows = list(measure(projection, dims, patches, full, Ridge(eps)))
    train, test = (x.double().numpy() for x in patches)

    def distances(a, b):
        out = np.empty(b.shape[:2])
        for p in range(a.shape[1]):
            delta = b[:, p] - a[:, p].mean(axis=0)
            sigma = np.cov(a[:, p], rowvar=False) + eps * np.eye(a.shape[2])
            out[:, p] = np.sqrt(np.einsum("nd,nd->n", delta @ np.linalg.inv(sigma), delta))
        return out

    reference = distances(train, test)
    np.testing.assert_allclose(full.numpy(), reference, rtol=1e-3)
    for d in dims:
        matrix = JL(C, d, seed=3).matrix.double().numpy()  # a run of its own at d
        projected = distances(train @ matrix.T, test @ matrix.T)
        found = by_quantity(rows, d)
        assert found["distance"]["mean"] == pytest.approx((projected / reference).mean(), rel=1e-3)
        rank = spearmanr(projected.ravel(), reference.ravel()).statistic
        assert found["distance"]["spearman"] == pytest.approx(rank, abs=1e-3)
        norms = ((test @ matrix.T) ** 2).sum(-1) / (test**2).sum(-1)
        assert found["norm"]["q50"] == pytest.approx(np.median(norms), rel=1e-4)


@pytest.mark.slow
def test_jl_keeps_squared_lengths_as_theory_says(patches):
    full = full_distances(*patches, Ridge())
    means = [
        by_quantity(measure(JL(C, 25, seed), [25], patches, full, Ridge()), 25)["pair"]["mean"]
        for seed in range(60)
    ]
    # Of one pair the ratio is χ²_25/25; pairs of one draw are not independent.
    assert np.mean(means) == pytest.approx(1, abs=4 * math.sqrt(2 / 25 / 60))


@pytest.mark.slow
def test_subset_shrinks_lengths_by_its_share(patches):
    full = full_distances(*patches, Ridge())
    ratios = [
        by_quantity(measure(Subset(C, 10, seed), [10], patches, full, Ridge()), 10)["norm"]["mean"]
        for seed in range(60)
    ]
    assert np.mean(ratios) == pytest.approx(0.25, abs=0.03)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distortion")
    build_tree(folder / "data", train=6, test={"good": 3, "crack": 3})
    return folder


@pytest.mark.slow
def test_the_command_writes_a_table_and_pictures(here, zygote):
    out = zygote.run([*DISTORTION, "projs=[subset,jl]", "hydra.run.dir=one"], here)
    assert out.code == 0, out.err
    with (here / "one" / "distortion.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2 * 3
    assert {row["quantity"] for row in rows} == {"norm", "pair", "distance"}
    assert all((row["spearman"] != "") == (row["quantity"] == "distance") for row in rows)
    for name in ("distortion.png", "distortion.svg"):
        assert (here / "one" / name).stat().st_size > 1000
    found = json.loads((here / "one" / "distortion.json").read_text())
    assert found["positions"] == 5 and found["weights"].startswith("random")
    assert "rank corr" in out.out and "1 is no distortion" in out.out
    said = " ".join(out.out.split())
    assert "weights are random: no number here says" in said
    assert "times the mean variance of the features (proj=subset dim=12), larger than it" in said
    share = [*DISTORTION, "projs=[subset]", "eps_unit=variance", "hydra.run.dir=share"]
    assert "times the mean variance" not in zygote.run(share, here).out


@long_table(
    ("extra", "message"),
    [
        ("projs=[fisher]", "fisher is not drawn at random; allowed here: subset, jl"),
        ("positions=0", "positions=0: must be at least 1"),
        ("projs=[subset] dims=[500]", "dim=500 exceeds"),
    ],
    every=3,
)
def test_bad_input_is_one_line(here, zygote, extra, message):
    out = zygote.run([*DISTORTION, *extra.split(), "hydra.run.dir=bad"], here)
    assert out.code == 1
    (line,) = out.err.strip().splitlines()[-1:]
    assert line.startswith("error: ") and message in line
    assert not list((here / "bad").glob("distortion.*"))


def test_one_test_image_is_refused():
    with pytest.raises(InputError, match="1 test image"):
        full_distances(torch.zeros(3, 2, C), torch.zeros(1, 2, C), Ridge())
