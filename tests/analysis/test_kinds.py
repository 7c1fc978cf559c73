"""AUROC by kind of defect."""

import shutil

import numpy as np
import pytest
from _helpers.sweeps import editing
from sklearn.metrics import roc_auc_score

from padim_lit.analysis.kinds import auroc_by_kind, main
from padim_lit.analysis.sweep_results import read_sweeps
from padim_lit.errors import InputError
from padim_lit.system.atomic import write_csv, write_json

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
            expected = roc_auc_score(
                kinds[chosen] == kind, sweep.scores.scores[f"jl-10-{seed}"][chosen]
            )
            assert found[kind]["jl", 10][seed] == pytest.approx(expected)


def test_a_sweep_without_scores_says_so(folder):
    (folder / "scores.npz").unlink()
    with pytest.raises(InputError, match=r"neither scores\.npz nor"):
        auroc_by_kind(read_sweeps([folder])[0])


def test_a_multirun_of_fits_is_read_from_their_predictions(folder):
    (ablation,) = read_sweeps([folder])
    expected = auroc_by_kind(ablation)
    scores, sweep = ablation.scores, folder / "multirun"
    for seed in (0, 1):
        rows = [
            {"path": p, "kind": k, "label": n, "score": s, "p_value": None, "decision": None}
            for p, k, n, s in zip(
                scores.path, scores.kind, scores.label, scores.scores[f"jl-10-{seed}"], strict=True
            )
        ]
        write_csv(sweep / str(seed) / "predictions.csv", list(rows[0]), rows)
        # As where a fit counted otherwise: what is planted is each file's own matter.
        run = {"proj": "jl", "dim": 10, "seed": seed, "data": "parts"}
        run["data/test_planted"] = 3 + seed
        run |= {"data/split_seed": 0, "data/pixel_truth": "planted defects"}
        write_json(sweep / str(seed) / "metrics.json", run | {"test/image_auroc": 0.5})
    (sweep / "multirun.yaml").write_text("hydra: {overrides: {task: [proj=jl]}}")
    (found,) = read_sweeps([sweep])
    assert found.scores.count_image.tolist() == scores.count_image.tolist()
    for kind, values in auroc_by_kind(found).items():
        assert np.array_equal(values["jl", 10], expected[kind]["jl", 10])
    assert list(auroc_by_kind(found)) == list(expected)
    write_csv(sweep / "1" / "predictions.csv", list(rows[0]), rows[1:])
    with pytest.raises(InputError, match="on the same test images"):
        auroc_by_kind(read_sweeps([sweep])[0])
    # Where each seed splits the data anew, their images are others, and all else can be compared.
    write_json(sweep / "1" / "metrics.json", run | {"test/image_auroc": 0.7, "data/split_seed": 1})
    (split,) = read_sweeps([sweep])
    assert split.scores is None and split.constants["pixel_truth"] == "planted defects"
    assert split.points("jl", 10, "test/image_auroc").tolist() == [0.5, 0.7]
    with pytest.raises(InputError, match=r"give data.split_seed=0"):
        auroc_by_kind(split)


def test_the_table_has_a_column_for_each_kind(folder, capsys):
    main([str(folder)])
    out = capsys.readouterr().out
    words = ("image AUROC by kind", "parts, None", "crack", "hole", "5 images")
    assert all(word in out for word in words)


def test_tables_of_sweeps_on_the_same_data_are_told_apart(folder, capsys):
    shutil.copytree(folder, folder / "other")
    for place, density in ((folder, "position"), (folder / "other", "mixture")):
        with editing(place) as rows:
            for row in rows:
                row["density"] = density
    main([str(folder)])
    out = capsys.readouterr().out
    assert "density=position" in out and "density=mixture" in out


def test_names_in_brackets_are_shown_as_they_are(folder, capsys):
    with editing(folder) as rows:
        for row in rows:
            row["data"] = "folder/parts [old] :a: [/x]"
    main([str(folder)])
    assert "folder/parts [old] :a: [/x], None" in capsys.readouterr().out


def test_help_is_no_folder(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0 and "SWEEP_DIR" in capsys.readouterr().out


def test_bad_input_is_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        main([])
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert "arguments are required: SWEEP_DIR" in err
    with pytest.raises(SystemExit, match=r"^error: .*none is no folder[^\n]*$"):
        main([str(tmp_path / "none")])
