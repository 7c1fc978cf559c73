"""Sweep folders are read as they were written, and broken ones are named."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
import yaml
from _helpers.sweeps import ROW_CONSTANTS, editing, write_rows
from sklearn.metrics import roc_auc_score

from padim_lit.analysis import sweep_results
from padim_lit.analysis.bootstrap import resample_counts
from padim_lit.analysis.result_files import PREDICTIONS, SWEEP, load_arrays, read_distortion
from padim_lit.analysis.sweep_results import (
    OWN_SPLIT,
    RESAMPLES,
    labels,
    mean_of,
    pooled,
    read_sweeps,
)
from padim_lit.errors import InputError
from padim_lit.metric_names import METRICS
from padim_lit.model.density import DENSITIES
from padim_lit.system.atomic import write_csv, write_json


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
    assert [m for m in METRICS if sweep.rows[0].measured.get(m)] == ["test/image_auroc"]
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
    assert (scores.path[3], scores.kind[3]) == ("test/3.png", "crack")
    assert scores.label.tolist() == [0, 1] * 6
    assert scores.count_image.sum() == 10
    assert list(scores.scores) == list(halves(rows))
    assert scores.scores["subset-100-1"][2] == 2.125


def test_a_difference_pairs_the_seeds_that_both_have(tmp_path):
    rows = configurations(("jl",), (50,), (0, 1, 2)) + configurations(
        ("subset",), (100,), (1, 2, 3)
    )
    write_rows(tmp_path, rows, halves(rows))
    (sweep,) = read_sweeps([tmp_path])
    found = sweep.difference(("subset", 100), ("jl", 50), "test/image_auroc")
    assert found.value == pytest.approx(0.05)
    assert found.seeds == 2
    assert found.low == pytest.approx(0.05)
    assert sweep.seeds_of("jl", 50) == [0, 1, 2]
    assert sweep.dims_of("jl") == [50]
    assert sweep.seeds_of("jl", 100) == []
    assert sweep.points("jl", 100, "test/image_auroc").shape == (0,)
    with pytest.raises(KeyError):
        sweep.points("jl", 50, "test/image_auroc", [3])
    assert sweep.resamples("jl", 50, "test/image_ap") is None


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


def write_multirun(folder, typed=("data=mvtec",)):
    """What Hydra leaves in the folder of a multirun."""
    folder.mkdir(parents=True, exist_ok=True)
    hydra = {"hydra": {"overrides": {"task": list(typed)}}}
    (folder / "multirun.yaml").write_text(yaml.safe_dump(hydra))


@pytest.mark.parametrize("groups", [None, 12])
def test_images_of_a_multiruns_fits_are_resampled_as_an_ablations(tmp_path, groups, monkeypatch):
    """Also where each seed has other test images; not where photos of one part belong together."""
    write_multirun(tmp_path)
    rng = np.random.default_rng(0)
    kinds = [*["good"] * 12, *["crack"] * 9, *["planted_spot"] * 4]
    label = np.array([kind != "good" for kind in kinds[:21]])
    scores, jobs = {}, [(proj, seed) for proj in ("subset", "jl") for seed in (0, 1)]
    for number, (proj, seed) in enumerate(jobs):
        folder = tmp_path / str(number)
        run = {"proj": proj, "dim": 50, "seed": seed, "data/split_seed": seed, **ROW_CONSTANTS}
        run |= {"data/test_planted": 4, "data/test_groups": groups, "test/pixel_auroc": 0.9}
        write_json(folder / "metrics.json", run | {"test/image_auroc": 0.5})
        scores[proj, seed] = rng.normal(size=25)
        rows = [
            {"path": f"{seed}/{i}", "kind": kind, "label": int(kind != "good"), "score": score}
            for i, (kind, score) in enumerate(zip(kinds, scores[proj, seed], strict=True))
        ]
        full = [row | dict.fromkeys(("p_value", "decision")) for row in rows]
        write_csv(folder / "predictions.csv", list(PREDICTIONS), full)
    (sweep,), read = read_sweeps([tmp_path]), []
    one = sweep_results.read_predictions
    monkeypatch.setattr(
        sweep_results,
        "read_predictions",
        lambda file, plants: read.append(file) or one(file, plants),
    )
    found = sweep.resamples("jl", 50, "test/image_auroc")
    assert sweep.scores is None and len(read) == 4  # each file once
    assert sweep.resamples("jl", 50, "test/pixel_auroc") is None
    if groups:
        assert found is None
        return
    drawn = np.repeat(np.arange(21), resample_counts(torch.tensor(label), RESAMPLES)[3])
    assert found.shape == (2, RESAMPLES)
    expected = [roc_auc_score(label[drawn], scores["jl", seed][drawn]) for seed in (0, 1)]
    assert found[:, 3] == pytest.approx(expected)
    assert sweep.difference(("jl", 50), ("subset", 50), "test/image_auroc").low is not None


def test_aurocs_differ_by_at_most_1(tmp_path):
    rows = configurations()
    for row in rows:
        row["test/image_auroc"] = 0.5 + 0.4 * row["seed"] * (row["proj"] == "jl")
    write_rows(tmp_path, rows, halves(rows, 1000))
    found = read_sweeps([tmp_path])[0].difference(("jl", 50), ("subset", 50), "test/image_auroc")
    assert (found.value, found.low, found.high) == (pytest.approx(0.2), -1, 1)


def test_a_multirun_of_ablations_is_not_counted_twice(tmp_path):
    rows, many = configurations(), tmp_path / "many"
    write_multirun(many)
    for job, data in enumerate(("screw", "bolt")):
        write_rows(many / str(job), rows, data=data)
    write_json(many / "2" / "metrics.json", {**rows[0], "data": "nut"})
    found = read_sweeps([tmp_path, many / "0"])
    # The job that was a fit is of the multirun, because it has no table of its own.
    assert [len(sweep.rows) for sweep in found] == [8, 8, 1]
    assert [sweep.data for sweep in found] == ["screw", "bolt", "nut"]
    assert [sweep.path for sweep in found] == [many / "0", many / "1", many]


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
    write_multirun(tmp_path, ["data=mvtec", "data.category=screw,bolt"])
    screw, bolt = read_sweeps([tmp_path])
    assert (screw.data, bolt.data) == ("mvtec/screw", "mvtec/bolt")
    assert screw.constants["grid"] == "28x28"
    assert screw.constants["weights"] == "random"
    assert screw.command == "python run.py -m data=mvtec data.category=screw,bolt"
    assert bolt.points("jl", 50, "test/image_auroc").tolist() == pytest.approx([0.56, 0.57])
    assert screw.resamples("jl", 50, "test/image_auroc") is None
    assert screw.scores is None


def write_job(folder, typed, proj="jl", dim=50, seed=0, scores=None):
    """One finished fit of a multirun."""
    run = {"proj": proj, "dim": dim, "seed": seed, "data": "parts", "backbone": "resnet18"}
    write_json(folder / "metrics.json", run | {"test/image_auroc": 0.5})
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(typed)))


def test_an_ablation_that_an_earlier_sweep_left_is_not_of_this_one(tmp_path):
    for job, sweep in enumerate(("this", "earlier")):
        write_rows(tmp_path / str(job), configurations(), eps=job)
        (tmp_path / str(job) / SWEEP).write_text(sweep)
    (tmp_path / SWEEP).parent.mkdir()
    (tmp_path / SWEEP).write_text("this")
    write_multirun(tmp_path)
    assert [sweep.path for sweep in read_sweeps([tmp_path])] == [tmp_path / "0"]


def test_fits_that_each_split_the_data_anew_say_so(tmp_path):
    for name, splits in (("own", (0, 1)), ("one", (5, 5))):
        for seed, split in enumerate(splits):
            run = {"proj": "jl", "dim": 50, "seed": seed, "data": name, "backbone": "resnet18"}
            run |= {"data/split_seed": split, "test/image_auroc": 0.5}
            write_json(tmp_path / name / str(seed) / "metrics.json", run)
        write_multirun(tmp_path / name)
    one, own = read_sweeps([tmp_path])
    assert own.constants["split_seed"] == OWN_SPLIT
    assert "split_seed" not in one.constants and len(one.rows) == len(own.rows) == 2


@pytest.mark.parametrize("density", ["position", "mixture", "both"])
def test_fits_over_several_dims_are_one_sweep_though_shrinkage_follows_d(tmp_path, density):
    usual = {dim: DENSITIES[density](dim).shrinkage for dim in (25, 50)}
    for job, (dim, shrinkage) in enumerate([*usual.items(), (25, 7.0)]):
        run = {"proj": "jl", "dim": dim, "seed": 0, "data": "parts", "backbone": "resnet18"}
        run |= {"density": density, "density/shrinkage": shrinkage, "test/image_auroc": 0.5}
        write_json(tmp_path / str(job) / "metrics.json", run)
    write_multirun(tmp_path)
    assert [len(sweep.rows) for sweep in read_sweeps([tmp_path])] == [2, 1]
    for job in range(2):  # typed, and at one D what it would have been anyway
        (tmp_path / str(job) / ".hydra").mkdir()
        typed = yaml.safe_dump(["density.shrinkage=25"])
        (tmp_path / str(job) / ".hydra" / "overrides.yaml").write_text(typed)
        file = tmp_path / str(job) / "metrics.json"
        write_json(file, json.loads(file.read_text()) | {"density/shrinkage": 25.0})
    assert [len(sweep.rows) for sweep in read_sweeps([tmp_path])] == [2, 1]


def test_identity_for_several_dims_is_one_fit(tmp_path):
    for job, (proj, dim) in enumerate((p, d) for p in ("identity", "jl") for d in (25, 50)):
        kept = 176 if proj == "identity" else dim
        write_job(tmp_path / str(job), [f"proj={proj}", f"dim={dim}"], proj, kept)
    write_multirun(tmp_path)
    (sweep,) = read_sweeps([tmp_path])
    assert [row.key for row in sweep.rows] == ["identity-176-0", "jl-25-0", "jl-50-0"]


def test_what_was_typed_tells_sweeps_of_one_folder_apart(tmp_path):
    for job, rate in enumerate((0.01, 0.01, 0.05, 0.05)):
        typed = [f"false_alarm_rate={rate}", "batch_size=8", f"seed={job % 2}"]
        write_job(tmp_path / str(job), typed, seed=job % 2)
    write_multirun(tmp_path)
    assert labels(read_sweeps([tmp_path])) == [
        "parts, resnet18, false_alarm_rate=0.01",
        "parts, resnet18, false_alarm_rate=0.05",
    ]


def test_a_multirun_that_failed_whole_is_no_sweep(tmp_path):
    write_multirun(tmp_path)
    write_json(tmp_path / "0" / "failed.json", {"error": "full disk"})
    with pytest.raises(InputError, match=r"no sweep with a finished job"):
        read_sweeps([tmp_path])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "distortion.json cannot be read"),
        ([], "no JSON object"),
    ],
)
def test_a_broken_distortion_is_named(tmp_path, content, message):
    file = write_json(tmp_path / "distortion.json", content)
    with pytest.raises(InputError, match=message) as error:
        read_distortion(file)
    assert "\n" not in str(error.value)


def test_distortion_is_read_as_it_was_written(tmp_path):
    rows = [{"proj": "jl", "dim": 50, "seed": 0, "quantity": "norm", "q01": 0.8, "spearman": None}]
    assert read_distortion(write_json(tmp_path / "distortion.json", {"rows": rows})) == rows


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


def test_options_of_a_density_are_named_where_they_differ_within_it(tmp_path):
    for name, density, components in (("a", "position", None), ("b", "both", 8), ("c", "both", 16)):
        options = {"density/components": components, "density/shrinkage": components}
        write_rows(tmp_path / name, configurations(), density=density, **options)
    a, b, c = labels(read_sweeps([tmp_path]))
    assert a == "mvtec/screw, wide_resnet50, density=position"
    told = "mvtec/screw, wide_resnet50, density=both, density/components="
    assert (b, c) == (f"{told}8, density/shrinkage=8", f"{told}16, density/shrinkage=16")
    _, both = labels(read_sweeps([tmp_path / "a", tmp_path / "b"]))
    assert both == told.partition(", density/")[0]


def test_fits_of_other_kinds_and_layers_are_told_apart(tmp_path):
    for job, (components, layers) in enumerate([(16, [1, 2]), (64, [1, 2]), (64, [1, 2, 3])]):
        run = {"proj": "jl", "dim": 50, "seed": 0, "data": "parts", "backbone": "resnet18"}
        run |= {"density/components": components, "layers": layers, "test/image_auroc": 0.5}
        write_json(tmp_path / str(job) / "metrics.json", run)
    write_multirun(tmp_path)
    assert labels(read_sweeps([tmp_path])) == [
        "parts, resnet18, density/components=16, layers=[1, 2]",
        "parts, resnet18, density/components=64, layers=[1, 2]",
        "parts, resnet18, density/components=64, layers=[1, 2, 3]",
    ]


def test_a_mean_over_data_sets_resamples_each_on_its_own(tmp_path):
    """Also where two have as many test images, whose draws are the same."""
    rows = configurations(seeds=(0,))
    drawn = np.random.default_rng(0).normal(size=(2, 4000)).astype(np.float32)
    kept = {f"{r['proj']}-{r['dim']}-0": drawn + r["dim"] for r in rows}
    for data in ("a", "b", "c", "d"):
        write_rows(tmp_path / data, rows, kept, data=data)
    mean = mean_of(read_sweeps([tmp_path]), "mean")
    found = mean.resamples("jl", 50, "test/image_auroc")
    assert found.std() == pytest.approx(drawn[0].std() / 2, rel=0.05)
    # Configurations still pair.
    apart = mean.resamples("subset", 100, "test/image_auroc") - found
    assert np.allclose(apart, 50, atol=1e-4)


def test_a_pooled_difference_knows_which_sweeps_share_their_test_images(tmp_path):
    rows = configurations(seeds=(0,))
    rng = np.random.default_rng(0)
    kept = {f"{r['proj']}-{r['dim']}-0": rng.normal(scale=0.01, size=(2, 4000)) for r in rows}

    def width(name, **other):
        for i, more in enumerate(({}, other)):
            write_rows(
                tmp_path / name / str(i), rows, kept, **{"data": "a", "backbone": str(i), **more}
            )
        sweeps = read_sweeps([tmp_path / name])
        found = pooled(sweeps, ("jl", 50), ("subset", 50), "test/image_auroc")
        alone = sweeps[0].difference(("jl", 50), ("subset", 50), "test/image_auroc")
        assert found.value == pytest.approx(alone.value)
        return (found.high - found.low) / (alone.high - alone.low)

    assert width("same") == pytest.approx(1)
    assert width("other", data="b") == pytest.approx(0.5**0.5, rel=0.05)
    assert width("split", split_seed=1) == pytest.approx(0.5**0.5, rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: r[1].update({"test/image_auroc": "high"}),
            "row 2: test/image_auroc='high'",
        ),
        (lambda r: r[1].update({"state_bytes": True}), "row 2: state_bytes=True must be a finite"),
        (lambda r: r[2].pop("proj"), "row 3: proj=None must be a text"),
        (lambda r: r[0].update(dim=50.5), r"row 1: dim=50\.5 must be a whole number"),
        (lambda r: r[0].update(dim=10**30), r"row 1: dim=1000.* must be a whole number"),
        (lambda r: r[0].update(state_bytes=10**400), "row 1: state_bytes=1.* must be a finite"),
        (lambda r: r.insert(0, "text"), "row 1 is no JSON object"),
        (lambda r: r.clear(), "no sweep with a finished job"),
    ],
)
def test_a_broken_row_is_named(tmp_path, change, message):
    write_rows(tmp_path, configurations())
    with editing(tmp_path) as rows:
        change(rows)
    with pytest.raises(InputError, match=message) as error:
        read_sweeps([tmp_path])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00", b'[{"proj": "jl",', b"{}", b"[" * 100_000, b'[{"state_bytes": NaN}]'],
)
def test_a_file_that_is_no_table_is_named(tmp_path, content):
    write_rows(tmp_path, configurations())
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(InputError, match=r"rows\.json") as error:
        read_sweeps([tmp_path])
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_broken_companions_are_named(tmp_path, monkeypatch):
    rows = configurations()
    write_rows(tmp_path, rows)
    np.savez(tmp_path / "resamples.npz", **{"jl-50-0": np.array([{}, None])})
    (sweep,) = read_sweeps([tmp_path])
    with pytest.raises(InputError, match="cannot be read"):
        sweep.resamples("jl", 50, "test/image_auroc")
    broken = (b"{'descr': '<f8', 'shape': (2, 3", f"{{'shape': (2, {'9' * 5000}), }}".encode())
    for header in broken:
        with zipfile.ZipFile(tmp_path / "resamples.npz", "w") as archive:
            head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
            archive.writestr("jl-50-0.npy", head + header)
        (sweep,) = read_sweeps([tmp_path])
        with pytest.raises(InputError, match="cannot be read"):
            sweep.resamples("jl", 50, "test/image_auroc")
    monkeypatch.setattr("padim_lit.analysis.result_files.MOST_BYTES", 9)
    with pytest.raises(InputError, match="bytes unpacked, at most 9 are read"):
        load_arrays(tmp_path / "resamples.npz")
    monkeypatch.undo()
    (tmp_path / "resamples.npz").write_bytes(pickle.dumps({"a": 1}))
    (sweep,) = read_sweeps([tmp_path])
    with pytest.raises(InputError, match="cannot be read"):
        sweep.resamples("jl", 50, "test/image_auroc")
    good = {"path": ["a", "b"], "kind": ["x", "y"], "label": [0, 1], "count_image": [True] * 2}
    np.savez(tmp_path / "scores.npz", **{"jl-50-0": [0.5, 1.5]})
    (sweep,) = read_sweeps([tmp_path])
    with pytest.raises(InputError, match=r"scores\.npz cannot be read"):
        _ = sweep.scores
    np.savez(tmp_path / "scores.npz", **good | {"jl-50-0": [0.5]})
    (sweep,) = read_sweeps([tmp_path])
    with pytest.raises(InputError, match=r"scores\.npz cannot be read \(its arrays are of shapes"):
        _ = sweep.scores
    swells = "- &a [x]\n- &b [*a, *a]\n- [*b, *b]\n"  # nine more lines of this kind are gigabytes
    for text in ("a: [", swells, "[" * 9999):
        (tmp_path / ".hydra" / "overrides.yaml").write_text(text)
        with pytest.raises(InputError, match=r"overrides\.yaml cannot be read"):
            read_sweeps([tmp_path])


def test_folders_that_hold_nothing_are_refused(tmp_path):
    with pytest.raises(InputError, match="give the folder of an experiment=ablation"):
        read_sweeps([tmp_path])
    with pytest.raises(InputError, match="nowhere is no folder"):
        read_sweeps([tmp_path / "nowhere"])
