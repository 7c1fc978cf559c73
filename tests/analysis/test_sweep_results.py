"""Sweep folders are read as they were written, and broken ones are named."""

import json
import pickle

import numpy as np
import pytest
import yaml
from _helpers.sweeps import write_rows, write_table

from padim_lit.analysis.sweep_results import join_parts, labels, read_distortion, read_sweeps
from padim_lit.errors import InputError
from padim_lit.sweep.job_table import write_sweep_csv


def configurations(projs=("subset", "jl"), dims=(50, 100), seeds=(0, 1)):
    return [
        {"proj": p, "dim": d, "seed": s, "test/image_auroc": round(0.8 + d / 1000 + s / 100, 6)}
        for p in projs
        for s in reversed(seeds)
        for d in dims
    ]


def halves(rows, size=7):
    """Resamples whose two rows are told apart, and every key too."""
    return {
        f"{r['proj']}-{r['dim']}-{r['seed']}": np.array(
            [np.full(size, r["dim"] + r["seed"]), np.full(size, -r["seed"])], dtype=np.float32
        )
        for r in rows
    }


def test_an_ablation_is_read_typed_and_by_seed(tmp_path):
    rows = configurations()
    command = ["experiment=ablation", "projs=[subset,jl]", "data.root=my parts"]
    write_rows(tmp_path / "one", rows, halves(rows), command)
    (sweep,) = read_sweeps([tmp_path])
    assert sweep.path == tmp_path / "one"
    assert (sweep.projs, sweep.dims, sweep.seeds) == (["subset", "jl"], [50, 100], [0, 1])
    assert sweep.metrics == ["test/image_auroc"]
    assert (sweep.data, sweep.backbone) == ("mvtec/screw", "wide_resnet50")
    assert sweep.constants["embedding_dim"] == 1792
    assert sweep.constants["eps"] == 0.01
    assert sweep.constants["split_seed"] is None
    assert sweep.command == (
        "python run.py experiment=ablation 'projs=[subset,jl]' 'data.root=my parts'"
    )
    assert sweep.points("jl", 100, "test/image_auroc").tolist() == [0.9, 0.91]
    assert sweep.points("jl", 100, "test/image_auroc", [1]).tolist() == [0.91]
    assert np.isnan(sweep.points("jl", 100, "test/pixel_auroc")).all()
    assert sweep.resamples("jl", 50, "test/image_auroc").tolist() == [[50] * 7, [51] * 7]
    assert sweep.resamples("jl", 50, "test/pixel_auroc", [1]).tolist() == [[-1] * 7]
    scores = sweep.scores
    assert scores.path[3] == "test/3.png"
    assert scores.kind[3] == "crack"
    assert scores.label.tolist() == [0, 1] * 6
    assert scores.count_image.sum() == 10
    assert list(scores.scores) == list(halves(rows))
    assert scores.scores["subset-100-1"][2] == 2.125
    assert sweep.distortion == []


def test_a_difference_pairs_the_seeds_that_both_have(tmp_path):
    rows = configurations(("jl",), (50,), (0, 1, 2)) + configurations(
        ("subset",), (100,), (1, 2, 3)
    )
    write_rows(tmp_path, rows, halves(rows))
    (sweep,) = read_sweeps([tmp_path])
    found = sweep.difference(("subset", 100), ("jl", 50), "test/image_auroc")
    assert found.mean == pytest.approx(0.05)
    assert (found.seeds, found.wins) == (2, 2)
    assert found.low == pytest.approx(0.05)
    assert sweep.seeds_of("jl", 50) == [0, 1, 2]
    assert sweep.dims_of("jl") == [50]
    assert sweep.seeds_of("jl", 100) == []
    with pytest.raises(InputError, match="jl at dim=100 was not measured; measured are"):
        sweep.points("jl", 100, "test/image_auroc")
    with pytest.raises(InputError, match="dim=50, seed 3 was not measured"):
        sweep.points("jl", 50, "test/image_auroc", [3])
    with pytest.raises(InputError, match="resampled are test/image_auroc"):
        sweep.resamples("jl", 50, "test/image_ap")


def test_resamples_may_be_missing(tmp_path):
    rows = configurations()
    some = halves(rows)
    del some["jl-50-1"]
    write_rows(tmp_path / "a", rows, some)
    write_rows(tmp_path / "b", rows)
    a, b = read_sweeps([tmp_path])
    assert a.resamples("jl", 50, "test/image_auroc") is None
    assert a.resamples("jl", 50, "test/image_auroc", [0]) is not None
    assert b.resamples("jl", 50, "test/image_auroc") is None
    assert "no resamples" in b.difference(("jl", 50), ("subset", 50), "test/image_auroc").why


def test_a_multirun_of_ablations_is_not_counted_twice(tmp_path):
    rows = configurations()
    jobs = [
        {"job": f"{job}/{r['proj']}/{r['dim']}/{r['seed']}", "status": "done", **r, "error": ""}
        for job in (0, 1)
        for r in rows
    ]
    fits = [{"job": "2", "status": "done", **rows[0], "error": ""}]
    write_table(tmp_path / "many" / "sweep.csv", jobs + fits)
    for job, data in enumerate(("screw", "bolt")):
        write_rows(tmp_path / "many" / str(job), rows, data=data)
    found = read_sweeps([tmp_path, tmp_path / "many" / "0"])
    # The job that was a fit is read from the table, because it has no other.
    assert [len(sweep.rows) for sweep in found] == [8, 8, 1]
    assert [sweep.data for sweep in found] == ["screw", "bolt", "None"]
    # A table alone, without the folders that it was made from, is all there is.
    write_table(tmp_path / "alone" / "sweep.csv", jobs[:8])
    (alone,) = read_sweeps([tmp_path / "alone"])
    assert len(alone.rows) == 8


def test_a_multirun_of_fits_is_read_by_what_else_it_varied(tmp_path):
    for job, (category, proj, seed) in enumerate(
        (c, p, s) for c in ("screw", "bolt") for p in ("subset", "jl") for s in (0, 1)
    ):
        folder = tmp_path / str(job)
        (folder / ".hydra").mkdir(parents=True)
        typed = ["data=mvtec", f"data.category={category}", f"proj={proj}", f"seed={seed}"]
        (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(typed))
        metrics = {
            "test/image_auroc": 0.5 + job / 100,
            "test/pixel_auroc": None,
            "test/pixel_auroc_why": "no test image has a known mask",
            "proj": proj,
            "proj/width": 300 if proj == "npca" else None,
            "dim": 50,
            "seed": seed,
            "data": f"mvtec/{category}",
            "backbone": "resnet18",
            "weights": f"random (seed {seed})",
            "grid": [28, 28],
        }
        (folder / "metrics.json").write_text(json.dumps(metrics))
    broken = tmp_path / "8"
    broken.mkdir()
    (broken / "failed.json").write_text('{"error": "out of memory"}')
    write_sweep_csv(tmp_path)
    hydra = {"hydra": {"overrides": {"task": ["data=mvtec", "data.category=screw,bolt"]}}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump(hydra))
    screw, bolt = read_sweeps([tmp_path])
    assert (screw.data, bolt.data) == ("mvtec/screw", "mvtec/bolt")
    assert screw.constants["grid"] == "28x28"
    assert screw.constants["weights"] == "random"
    assert screw.command == "python run.py -m data=mvtec data.category=screw,bolt"
    assert bolt.points("jl", 50, "test/image_auroc").tolist() == pytest.approx([0.56, 0.57])
    assert screw.resamples("jl", 50, "test/image_auroc") is None
    assert screw.scores is None


def test_a_multirun_that_failed_whole_is_no_sweep(tmp_path):
    write_table(tmp_path / "sweep.csv", [{"job": "0", "status": "failed", "error": "full disk"}])
    with pytest.raises(InputError, match=r"no sweep\.csv with a finished job"):
        read_sweeps([tmp_path])


def test_distortion_is_typed(tmp_path):
    rows = [{"proj": "jl", "dim": 50, "seed": 0, "quantity": "norm", "mean": 1.0, "q01": 0.8}]
    write_rows(tmp_path, configurations())
    write_table(tmp_path / "distortion.csv", rows)
    (sweep,) = read_sweeps([tmp_path])
    assert sweep.distortion == rows == read_distortion(tmp_path / "distortion.csv")


def test_labels_say_what_differs(tmp_path):
    write_rows(tmp_path / "a", configurations())
    write_rows(tmp_path / "b", configurations(), grid="56x56")
    write_rows(tmp_path / "c", configurations(), data="elpv")
    write_rows(tmp_path / "d", configurations(), data="elpv")
    a, b, c, d = labels(read_sweeps([tmp_path]))
    assert a == "mvtec/screw, wide_resnet50, grid=28x28"
    assert b == "mvtec/screw, wide_resnet50, grid=56x56"
    assert c == f"elpv, wide_resnet50, {tmp_path / 'c'}"
    assert d != c


def test_parts_of_one_experiment_are_joined_and_others_are_not(tmp_path):
    rows, more = configurations(dims=(50, 100)), configurations(("subset",), (550,))
    write_rows(tmp_path / "a", rows, halves(rows), ["dims=[50,100]"], train_images=320)
    write_rows(tmp_path / "b", more, halves(more), ["dims=[550]"], train_images=320)
    write_rows(tmp_path / "c", rows, halves(rows))
    write_rows(tmp_path / "d", more, halves(more), eps=0.1)
    joined = join_parts(read_sweeps([tmp_path]))
    assert [len(sweep.rows) for sweep in joined] == [10, 8, 2]
    whole = joined[0]
    assert whole.dims == [50, 100, 550]
    assert whole.command == "python run.py 'dims=[50,100]'\npython run.py 'dims=[550]'"
    assert whole.constants["train_images"] == 320
    assert whole.resamples("subset", 550, "test/image_auroc").tolist() == [[550] * 7, [551] * 7]
    assert whole.resamples("subset", 50, "test/image_auroc").tolist() == [[50] * 7, [51] * 7]
    assert len(whole.scores.scores) == 10
    # Other test images: no part, whatever the settings say.
    scores = tmp_path / "b" / "scores.csv"
    scores.write_text(scores.read_text().replace("test/0.png", "test/zero.png"))
    assert len(join_parts(read_sweeps([tmp_path / "a", tmp_path / "b"]))) == 2


def break_sweep(folder, what):
    table = folder / "sweep.csv"
    lines = table.read_text().splitlines()
    if what == "text for a number":
        lines[2] = lines[2].replace("0.91", "high")
    elif what == "cut off":
        lines[3] = lines[3][:20]
    elif what == "twice":
        lines[2] = lines[1]
    elif what == "no header":
        lines = lines[1:]
    elif what == "fraction for D":
        lines[1] = lines[1].replace(",50,", ",50.5,")
    elif what == "no row":
        lines = lines[:1]
    table.write_text("\n".join(lines) + "\n")
    if what == "bytes":
        table.write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("text for a number", r"sweep\.csv, line 3: test/image_auroc='high' is not a number"),
        ("cut off", r"sweep\.csv, line 4: must have 12 columns"),
        ("twice", r"sweep\.csv, line 3: subset-50-1 is there twice"),
        ("no header", r"sweep\.csv, line 1: no column 'proj'"),
        ("fraction for D", r"sweep\.csv, line 2: dim='50\.5' is not a whole number"),
        ("no row", r"sweep\.csv, line 1: no row follows"),
        ("bytes", r"sweep\.csv cannot be read"),
    ],
)
def test_a_broken_table_is_named_with_its_line(tmp_path, what, message):
    rows = [
        {k: r[k] for k in ("test/image_auroc", "proj", "dim", "seed")} for r in configurations()
    ]
    write_rows(tmp_path, rows)
    break_sweep(tmp_path, what)
    with pytest.raises(InputError, match=message) as error:
        read_sweeps([tmp_path])
    assert "\n" not in str(error.value)


def test_broken_companions_are_named(tmp_path):
    rows = configurations()
    write_rows(tmp_path, rows, {"jl-50-0": np.zeros((3, 7))})
    (sweep,) = read_sweeps([tmp_path])
    with pytest.raises(InputError, match=r"resamples\.npz: jl-50-0 has shape \(3, 7\)"):
        sweep.resamples("jl", 50, "test/image_auroc")
    np.savez(tmp_path / "resamples.npz", **{"jl-50-0": np.array([{}, None])})
    (sweep,) = read_sweeps([tmp_path])
    with pytest.raises(InputError, match="cannot be read"):
        sweep.resamples("jl", 50, "test/image_auroc")
    (tmp_path / "resamples.npz").write_bytes(pickle.dumps({"a": 1}))
    (sweep,) = read_sweeps([tmp_path])
    with pytest.raises(InputError, match="cannot be read"):
        sweep.resamples("jl", 50, "test/image_auroc")
    scores = tmp_path / "scores.csv"
    scores.write_text(scores.read_text().replace("test/1.png,crack,1,True", "test/1.png,crack,1,?"))
    with pytest.raises(InputError, match=r"scores\.csv, line 3: count_image='\?'"):
        _ = sweep.scores
    (tmp_path / ".hydra" / "overrides.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"overrides\.yaml does not hold"):
        read_sweeps([tmp_path])


def test_folders_that_hold_nothing_are_refused(tmp_path):
    with pytest.raises(InputError, match="run experiment=ablation first"):
        read_sweeps([tmp_path])
    with pytest.raises(InputError, match="nowhere is no folder"):
        read_sweeps([tmp_path / "nowhere"])
