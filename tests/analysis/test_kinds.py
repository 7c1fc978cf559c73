"""AUROC by kind of defect."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from padim_lit.analysis.kinds import auroc_by_kind
from padim_lit.analysis.sweep_results import read_sweeps
from padim_lit.errors import InputError
from padim_lit.system.atomic import write_json

KINDS = ["good"] * 8 + ["crack"] * 5 + ["hole"] * 4 + ["planted_spot"] * 3


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "scores.npz",
        path=[f"{i}.png" for i in range(len(KINDS))],
        kind=KINDS,
        label=[int(kind != "good") for kind in KINDS],
        count_image=[not kind.startswith("planted") for kind in KINDS],
        **{f"jl-10-{seed}": rng.normal(size=len(KINDS)) for seed in (0, 1)},
    )
    shared = {"proj": "jl", "dim": 10, "test/image_auroc": 0.5, "data": "parts"}
    sweep = [{**shared, "seed": seed} for seed in (0, 1)]
    write_json(tmp_path / "rows.json", sweep)
    return tmp_path


def test_each_kind_is_compared_with_the_good_images(folder):
    (sweep,) = read_sweeps([folder])
    found = auroc_by_kind(sweep)
    assert list(found) == ["crack", "hole"]  # planted ones do not count in image metrics
    kinds = np.array(KINDS)
    for kind in found:
        chosen = (kinds == kind) | (kinds == "good")
        for seed in (0, 1):
            expected = roc_auc_score(kinds[chosen] == kind, sweep.scores[f"jl-10-{seed}"][chosen])
            assert found[kind]["jl", 10][seed] == pytest.approx(expected)


def test_a_sweep_without_scores_says_so(folder):
    (folder / "scores.npz").unlink()
    with pytest.raises(InputError, match=r"no scores\.npz"):
        auroc_by_kind(read_sweeps([folder])[0])


@pytest.mark.parametrize(("args", "words"), [([], "give the folder"), (["none"], "none")])
def test_bad_input_is_one_line(tmp_path, args, words):
    out = subprocess.run(
        [sys.executable, "-m", "padim_lit.analysis.kinds", *args],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert out.returncode == 1 and out.stderr.startswith("error: ")
    assert words in out.stderr and out.stderr.count("\n") == 1
