"""experiment=table1: its jobs, its differences, and what stands beside them."""

import csv
import json
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import yaml
from _helpers.cli import ROOT
from _helpers.sweeps import editing
from _helpers.trees import build_tree
from rich.console import Console

from padim_lit.analysis.bootstrap import paired_difference
from padim_lit.analysis.published import (
    ANOMALIB,
    CATEGORIES,
    DIM,
    LAYERS,
    MEAN,
    OBJECTS,
    REPORT,
    REPORT_CHANNELS,
    REPORT_TEXT,
    TEXTURES,
    contradictions,
    published,
    report_mean,
)
from padim_lit.analysis.table1 import compare, print_table1, write_table1
from padim_lit.errors import InputError
from padim_lit.system import console
from padim_lit.system.atomic import write_json

SEEDS = (0, 1, 2)
R = 400


def sweep(folder: Path, category: str, backbone: str = "wide_resnet50", dim: int = 550, **kept):
    """An ablation's folder: jl 0.05 above subset, but for noise, in both AUROCs."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(category))
    rows, resamples = [], {}
    images = rng.normal(0, 0.002, (2, R))  # what both projections have from the drawn images
    for proj, level in {"subset": 0.80, "jl": 0.85, **kept}.items():
        for seed in SEEDS:
            point = level + rng.normal(0, 0.001, 2)
            row = {"proj": proj, "dim": dim, "seed": seed}
            row |= {"test/image_auroc": point[0], "test/pixel_auroc": point[1]}
            rows.append({**row, "data": f"mvtec/{category}", "backbone": backbone})
            resamples[f"{proj}-{dim}-{seed}"] = (point[:, None] + images).astype(np.float32)
    write_json(folder / "rows.json", rows)
    np.savez(folder / "resamples.npz", **resamples)
    return folder


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def text(rows, width: int = 100, terminal: bool = False) -> str:
    size = {"width": width, "force_terminal": terminal, "color_system": None}
    wide = partial(Console, **size)
    with redirect_stdout(StringIO()) as out, mock.patch.object(console, "Console", wide):
        print_table1(rows)
    return out.getvalue()


# --- What others published ------------------------------------------------------------------------

#: What is known from the paper itself, not through the report.
PAPER = {
    "wide_resnet50": dict(zip(CATEGORIES, [
        0.991, 0.973, 0.992, 0.941, 0.949, 0.983, 0.967, 0.985, 0.982, 0.972, 0.957, 0.985, 0.988,
        0.975, 0.985,
    ], strict=True)),
    "resnet18": {
        "grid": 0.949, "bottle": 0.981, "metal_nut": 0.967, "screw": 0.974, "zipper": 0.982,
    },
}  # fmt: skip
PAPER_MEAN = {"wide_resnet50": 0.975, "resnet18": 0.967}


def test_all_15_categories_of_two_backbones_are_there():
    assert len(CATEGORIES) == len(set(CATEGORIES)) == 15 and len(TEXTURES) == 5
    for numbers in (REPORT, ANOMALIB):
        assert set(numbers) == set(DIM)
        for rows in numbers.values():
            assert tuple(rows) == CATEGORIES
            assert all(0.7 < x <= 1 for row in rows.values() for x in row)


def test_the_reports_padim_columns_are_the_papers_numbers():
    for backbone, known in PAPER.items():
        assert {c: REPORT[backbone][c][0] for c in known} == pytest.approx(known)
        assert report_mean(backbone)[0] == pytest.approx(PAPER_MEAN[backbone], abs=5e-4)
    # Its averages by kind, as the paper prints them.
    assert report_mean("wide_resnet50", TEXTURES)[0] == pytest.approx(0.969, abs=5e-4)
    assert report_mean("wide_resnet50", OBJECTS)[0] == pytest.approx(0.978, abs=5e-4)


def test_the_reports_averages_contradict_its_text():
    means = {b: tuple(round(100 * x, 1) for x in report_mean(b)) for b in REPORT}
    assert means == {"wide_resnet50": (97.5, 97.9), "resnet18": (96.7, 96.9)}
    said = tuple(100 * x for x in REPORT_TEXT)
    assert said == pytest.approx((96.7, 97.3)) and said not in means.values()
    assert sum(LAYERS) == 1792 != REPORT_CHANNELS == 6048
    gains = {(b, c): b2 - a for b, rows in REPORT.items() for c, (a, b2) in rows.items()}
    assert [key for key, gain in gains.items() if gain < 1e-9] == [("resnet18", "tile")]
    found = "\n".join(contradictions())
    for words in (
        "97.5 → 97.9 (wide_resnet50) and 96.7 → 96.9 (resnet18)", "say 96.7 → 97.3",
        "6048 dimensions", "256 + 512 + 1024 = 1792", "31 %", "tile with resnet18 has no gain",
    ):  # fmt: skip
        assert words in found


def test_anomalibs_averages():
    # Over all categories, as its README has them.
    assert published("wide_resnet50", 550, CATEGORIES)["anomalib"] == pytest.approx(
        {"test/image_auroc": 0.950, "test/pixel_auroc": 0.979}, abs=5e-4
    )
    assert published("resnet18", 100, CATEGORIES)["anomalib"] == pytest.approx(
        {"test/image_auroc": 0.891, "test/pixel_auroc": 0.968}, abs=6e-4
    )
    # Its plain selection reaches what the report calls the gain of JL.
    selection = published("wide_resnet50", 550, CATEGORIES)["anomalib"]["test/pixel_auroc"]
    assert selection == pytest.approx(report_mean("wide_resnet50")[1], abs=5e-4)


# --- What was measured beside it ------------------------------------------------------------------


def test_a_row_has_the_means_the_paired_interval_and_the_published(tmp_path):
    (row,) = compare([sweep(tmp_path / "0", "screw")])
    write_table1(tmp_path, [row])
    (line,) = lines(tmp_path / "table1.csv")
    assert [line[k] for k in ("category", "backbone", "proj", "dim", "seeds")] == [
        "screw", "wide_resnet50", "jl", "550", "3",
    ]  # fmt: skip
    stored_rows = json.loads((tmp_path / "0" / "rows.json").read_text())
    read = {(r["proj"], r["seed"]): r for r in stored_rows}
    stored = np.load(tmp_path / "0" / "resamples.npz")
    for index, metric in enumerate(("image_auroc", "pixel_auroc")):
        a, b = (np.array([read[p, s][f"test/{metric}"] for s in SEEDS]) for p in ("jl", "subset"))
        ra, rb = (
            np.stack([stored[f"{p}-550-{s}"][index] for s in SEEDS]) for p in ("jl", "subset")
        )
        expected = paired_difference(a, b, ra, rb)
        for name, value in {
            "subset": b.mean(), "subset_sd": b.std(ddof=1), "proj": a.mean(),
            "proj_sd": a.std(ddof=1), "difference": expected.value, "low": expected.low,
            "high": expected.high,
        }.items():  # fmt: skip
            assert float(line[f"{metric}/{name}"]) == pytest.approx(value, abs=1e-9)
        assert line[f"{metric}/sign"] == "1"
        assert expected.low > 0
    names = ("padim_paper", "report_subset", "report_jl", "anomalib")
    assert [line[f"pixel_auroc/{name}"] for name in names] == ["0.985", "0.985", "0.988", "0.988"]
    assert [line[f"image_auroc/{name}"] for name in names] == ["", "", "", "0.845"]
    image, pixel = text([row]).split("pixel AUROC in %")
    assert "+5." in image and "84.5" in image and "subset→jl" not in image
    assert "+5." in pixel and "98.5→98.8" in pixel and "D = 550" in pixel


def test_the_sign_needs_an_interval_off_zero(tmp_path):
    rows = compare([sweep(tmp_path / "0", "screw", jl=0.70, npca=0.80)])
    signs = {row.proj: _line(tmp_path, row)["image_auroc/sign"] for row in rows}
    assert signs == {"jl": "-1", "npca": "0"}
    (tmp_path / "0" / "resamples.npz").unlink()
    (jl, _) = compare([tmp_path / "0"])
    line = _line(tmp_path, jl)
    assert line["image_auroc/sign"] == line["image_auroc/low"] == ""
    assert float(line["image_auroc/difference"]) < 0


def _line(folder: Path, row) -> dict[str, str]:
    (line,) = lines(write_table1(folder, [row]))
    return line


def test_another_dimension_or_backbone_has_nothing_published_beside_it(tmp_path):
    rows = compare([
        sweep(tmp_path / "0", "screw", dim=100), sweep(tmp_path / "1", "screw", "resnet18", 100),
        sweep(tmp_path / "2", "screw", "efficientnet_lite0", 100),
    ])  # fmt: skip
    assert [(r.backbone, r.published["report"]) for r in rows] == [
        ("wide_resnet50", {}), ("resnet18", {"test/pixel_auroc": (0.974, 0.975)}),
        ("efficientnet_lite0", {}),
    ]  # fmt: skip
    assert "JL report" not in text(rows[::2]) and "anomalib" not in text(rows[::2])


def test_a_folder_of_ones_own_is_no_category_of_mvtec(tmp_path):
    own = sweep(tmp_path / "own", "screw")
    with editing(own) as rows:
        for row in rows:
            row["data"] = "folder/screw"
    rows = compare([own, sweep(tmp_path / "mvtec", "screw")])
    assert [row.category for row in rows] == ["screw", "folder/screw", MEAN]
    assert [bool(row.published["report"]) for row in rows] == [True, False, False]


def test_what_two_sweeps_measured_is_refused_and_never_one_of_them_taken(tmp_path):
    for name, eps in (("0", 0.01), ("1", 0.1)):
        with editing(sweep(tmp_path / name, "screw")) as rows:
            for row in rows:
                row["eps"] = eps
    with pytest.raises(InputError, match=r"0 and .*1 both measured jl at D = 550 on mvtec/screw"):
        compare([tmp_path])


def test_the_mean_is_over_categories_in_the_papers_order(tmp_path):
    folders = [sweep(tmp_path / c, c) for c in ("zipper", "own", "carpet")]
    rows = compare(folders)
    assert [row.category for row in rows] == ["carpet", "zipper", "own", MEAN]
    *parts, mean = rows
    for metric, found in mean.differences.items():
        expected = np.mean([row.points[metric] for row in parts], axis=0)
        np.testing.assert_allclose(mean.points[metric], expected, rtol=1e-12)
        each = [row.differences[metric] for row in parts]
        assert found.value == pytest.approx(np.mean([d.value for d in each]))
        # Categories err apart: their mean is surer than they are.
        assert found.high - found.low < np.mean([d.high - d.low for d in each])
    assert not any(mean.published.values())  # nobody knows "own"
    assert compare(folders[::2])[-1].published["report"]["test/pixel_auroc"] == pytest.approx(
        ((0.985 + 0.991) / 2, (0.987 + 0.992) / 2)
    )


def test_averages_of_textures_objects_and_all(tmp_path):
    folders = [sweep(tmp_path / c, c) for c in CATEGORIES]
    rows = compare(folders)
    assert [row.category for row in rows] == [*CATEGORIES, "textures", "objects", MEAN]
    textures, objects, mean = rows[-3:]
    assert [row.categories for row in (textures, objects, mean)] == [5, 10, 15]
    expected = np.mean([row.points["test/pixel_auroc"] for row in rows[:5]], axis=0)
    np.testing.assert_allclose(textures.points["test/pixel_auroc"], expected, rtol=1e-12)
    assert mean.published["padim"]["test/image_auroc"] == 0.953
    assert "test/image_auroc" not in compare(folders[1:])[-1].published["padim"]
    assert mean.published["report"]["test/pixel_auroc"] == report_mean("wide_resnet50")
    out = text(rows)
    for name in ("5 textures", "10 objects", "mean of 15", "97.5→97.9"):
        assert name in out
    # One texture is no average, and an average of all that is there is the mean.
    assert [r.category for r in compare(folders[:2])] == [*CATEGORIES[:2], MEAN]
    assert [r.category for r in compare(folders[4:7])][-2:] == ["objects", MEAN]


def test_tables_fit_a_terminal_of_100_columns(tmp_path):
    rows = compare(
        [sweep(tmp_path / c, c, jl=0.5 if c == "toothbrush" else 0.9) for c in CATEGORIES]
    )
    rows += compare([sweep(tmp_path / "18" / c, c, "resnet18", 100) for c in CATEGORIES])
    tables = text(rows, terminal=True).split("sign:")[0]
    assert "…" not in tables and max(map(len, tables.splitlines())) <= 100
    for words in ("-30.", "toothbrush", "98.8→99.1", "resnet18, D = 100", "98.7→98.9"):
        assert words in tables
    assert tables.count("95 %") == 4  # a table for each backbone and AUROC


def test_nothing_measured_is_said():
    assert compare([]) == []
    assert "Nothing to compare" in text([])


# --- The command -------------------------------------------------------------------------------

COMMAND = [
    "experiment=table1", "data.root=all", "backbone.weights=random", "trainer=cpu",
    "image_size=64", "crop_size=64", "seeds=[0,1]",
]  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("table1")
    for category in ("bolt", "nut"):
        build_tree(folder / "all" / category, train=6, test={"good": 3, "crack": 3})
    return folder


@pytest.mark.slow
def test_one_command_makes_the_table_and_names_what_failed(zygote, here):
    args = [*COMMAND, "data.category=bolt,gear,nut", "backbone=resnet18"]
    result = zygote.run(args, here)
    assert result.code == 1
    assert result.err.rstrip().splitlines()[-1].startswith("error: 1 of 3 jobs failed")
    assert "Job 1 failed" in result.out and "unknown category 'gear'" in result.out
    (folder,) = (here / "multirun").iterdir()
    found = lines(folder / "table1.csv")
    assert [line["category"] for line in found] == ["bolt", "nut", MEAN]
    for line in found:
        assert (line["dim"], line["seeds"], line["proj"]) == ("100", "2", "jl")
        gain = float(line["image_auroc/proj"]) - float(line["image_auroc/subset"])
        assert float(line["image_auroc/difference"]) == pytest.approx(gain)
    assert "mean of 2" in result.out and str(folder / "table1.csv") in result.out
    again = zygote.run(args, here)
    assert again.out.count("done already, skipped") == 2 and again.code == 1
    assert lines(folder / "table1.csv") == found


def test_a_wrong_key_is_named_though_values_are_swept(zygote, here):
    words = ["data.category=bolt,nut", "backbone=resnet18", "sigmaa=4", "hydra.sweep.dir=wrong"]
    result = zygote.run([*COMMAND, *words], here)
    assert result.code == 1 and "unknown key sigmaa; did you mean sigma?" in result.err


def test_no_job_succeeds(zygote, here):
    args = [*COMMAND, "data.category=gear", "backbone=resnet18", "hydra.sweep.dir=none"]
    result = zygote.run(args, here)
    assert result.code == 1 and "Nothing to compare" in result.out
    assert "error: 1 of 1 jobs failed" in result.err and "Traceback" not in result.err
    assert "gear" in json.loads((here / "none" / "0" / "failed.json").read_text())["error"]


@pytest.mark.parametrize(
    ("args", "dims"),
    [
        ("backbone=wide_resnet50", [550]),
        ("backbone=resnet18", [100]),
        ("backbone=efficientnet_b5", [100]),
        ("backbone=efficientnet_b5 dims=[70]", [70]),
        ("backbone=resnet18 dims=[5,6]", [5, 6]),
    ],
)
def test_the_dimension_follows_the_backbone(zygote, here, args, dims):
    words = ["experiment=table1", *args.split(), "data.category=bolt", "--cfg", "job", "--resolve"]
    result = zygote.run(["data.root=all", *words], here)
    assert result.code == 0, result.err
    config = yaml.safe_load(result.out)
    assert config["dims"] == dims and config["mode"] == "ablation" and config["grid"] is None
    assert config["projs"] == ["subset", "jl"] and config["seeds"] == [0, 1, 2, 3, 4]


def test_the_default_is_all_of_table_1():
    hydra = yaml.safe_load((ROOT / "conf" / "experiment" / "table1.yaml").read_text())["hydra"]
    swept = {key: set(text.split(",")) for key, text in hydra["sweeper"]["params"].items()}
    assert swept == {"data.category": set(CATEGORIES), "backbone": set(DIM)}
    assert hydra["mode"] == "MULTIRUN"
