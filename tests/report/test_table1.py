"""experiment=table1: its jobs, its differences, and what stands beside them."""

import csv
import json
import re
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import yaml
from _helpers.cli import ROOT
from _helpers.sweeps import editing, paired
from _helpers.trees import build_tree
from rich.console import Console

from padim_lit.analysis.published import CATEGORIES, DIM, report_mean
from padim_lit.report.table1 import table1
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


def printed(folder: Path, *jobs: Path, width: int = 300, terminal: bool = False) -> str:
    """What is printed of the jobs; table1.csv lies in `folder` then."""
    size = {"width": width, "force_terminal": terminal, "color_system": None}
    wide = partial(Console, **size)
    with redirect_stdout(StringIO()) as out, mock.patch.object(console, "Console", wide):
        table1(folder, jobs)
    return out.getvalue()


def test_a_row_has_the_means_the_paired_interval_and_the_published(tmp_path):
    out = printed(tmp_path, sweep(tmp_path / "0", "screw"))
    (line,) = lines(tmp_path / "table1.csv")
    assert [line[k] for k in ("data", "backbone", "proj", "dim", "seeds")] == [
        "mvtec/screw", "wide_resnet50", "jl", "550", "3",
    ]  # fmt: skip
    stored_rows = json.loads((tmp_path / "0" / "rows.json").read_text())
    read = {(r["proj"], r["seed"]): r for r in stored_rows}
    stored = np.load(tmp_path / "0" / "resamples.npz")
    for index, metric in enumerate(("image_auroc", "pixel_auroc")):
        a, b = (np.array([read[p, s][f"test/{metric}"] for s in SEEDS]) for p in ("jl", "subset"))
        ra, rb = (
            np.stack([stored[f"{p}-550-{s}"][index] for s in SEEDS]) for p in ("jl", "subset")
        )
        expected = paired(a, b, ra, rb)
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
    image, pixel, beside_image, beside_pixel = re.split("Table 1:|AUROC beside", out)[1:]
    assert "+.05" in image and "+.05" in pixel and "mvtec/screw, wide_resnet50" in pixel
    assert ".845" in beside_image and "JL report" not in beside_image
    assert ".985 → .988" in beside_pixel and "PaDiM paper" in beside_pixel


def test_the_sign_needs_an_interval_off_zero(tmp_path):
    printed(tmp_path, sweep(tmp_path / "0", "screw", jl=0.70, npca=0.80))
    signs = {line["proj"]: line["image_auroc/sign"] for line in lines(tmp_path / "table1.csv")}
    assert signs == {"jl": "-1", "npca": "0"}
    (tmp_path / "0" / "resamples.npz").unlink()
    printed(tmp_path, tmp_path / "0")
    (line, _) = lines(tmp_path / "table1.csv")
    assert line["image_auroc/sign"] == line["image_auroc/low"] == ""
    assert float(line["image_auroc/difference"]) < 0


def test_another_dimension_or_backbone_has_nothing_published_beside_it(tmp_path):
    jobs = [
        sweep(tmp_path / "0", "screw", dim=100), sweep(tmp_path / "1", "screw", "resnet18", 100),
        sweep(tmp_path / "2", "screw", "efficientnet_lite0", 100),
    ]  # fmt: skip
    printed(tmp_path, *jobs)
    assert [
        (line["backbone"], line["pixel_auroc/report_jl"]) for line in lines(tmp_path / "table1.csv")
    ] == [("wide_resnet50", ""), ("resnet18", "0.975"), ("efficientnet_lite0", "")]
    out = printed(tmp_path, *jobs[::2])
    assert "JL report" not in out and "anomalib" not in out


def test_a_folder_of_ones_own_is_no_category_of_mvtec(tmp_path):
    own = sweep(tmp_path / "own", "screw")
    with editing(own) as rows:
        for row in rows:
            row["data"] = "folder/screw"
    printed(tmp_path, own, sweep(tmp_path / "mvtec", "screw"))
    found = {line["data"]: line["pixel_auroc/report_jl"] for line in lines(tmp_path / "table1.csv")}
    assert found == {"folder/screw": "", "mvtec/screw": "0.988"}  # and no mean of both


def test_what_two_sweeps_measured_stands_there_twice_and_has_no_mean(tmp_path):
    jobs = [sweep(tmp_path / name, "screw") for name in "01"] + [sweep(tmp_path / "2", "grid")]
    with editing(jobs[1]) as rows:
        for row in rows:
            row["eps"] = 0.1
    out = printed(tmp_path, *jobs)
    assert "mvtec/screw, wide_resnet50, eps=0.1" in out
    found = [line["data"] for line in lines(tmp_path / "table1.csv")]
    assert found == ["mvtec/screw", "mvtec/screw", "mvtec/grid", "mean of 2 MVTec categories"]
    with editing(jobs[1]) as rows:
        for row in rows:
            del row["eps"]
    printed(tmp_path, *jobs)
    assert len(lines(tmp_path / "table1.csv")) == 3


def test_the_mean_is_surer_than_its_parts(tmp_path):
    jobs = [sweep(tmp_path / c, c) for c in ("zipper", "own", "carpet")]
    printed(tmp_path, *jobs)
    *parts, mean = lines(tmp_path / "table1.csv")
    assert mean["data"] == "mean of 3 MVTec categories"
    for metric in ("image_auroc", "pixel_auroc"):
        for name in ("subset", "proj", "difference"):
            each = [float(line[f"{metric}/{name}"]) for line in parts]
            assert float(mean[f"{metric}/{name}"]) == pytest.approx(np.mean(each))
        # Categories err apart.
        wide = [float(x[f"{metric}/high"]) - float(x[f"{metric}/low"]) for x in (*parts, mean)]
        assert wide[-1] < np.mean(wide[:-1])
    assert mean["pixel_auroc/report_jl"] == ""  # nobody knows "own"
    printed(tmp_path, *jobs[::2])
    mean = lines(tmp_path / "table1.csv")[-1]
    assert float(mean["pixel_auroc/report_jl"]) == pytest.approx((0.987 + 0.992) / 2)


def test_averages_of_textures_objects_and_all(tmp_path):
    jobs = [sweep(tmp_path / c, c) for c in CATEGORIES]
    out = printed(tmp_path, *jobs)
    found = lines(tmp_path / "table1.csv")
    assert [line["data"].removeprefix("mvtec/") for line in found] == [
        *CATEGORIES, "mean of 5 MVTec textures", "mean of 10 MVTec objects",
        "mean of 15 MVTec categories",
    ]  # fmt: skip
    each = [float(line["pixel_auroc/proj"]) for line in found]
    assert each[15] == pytest.approx(np.mean(each[:5]))
    assert found[-1]["image_auroc/padim_paper"] == "0.953"
    said = [float(found[-1][f"pixel_auroc/report_{name}"]) for name in ("subset", "jl")]
    assert said == list(report_mean("wide_resnet50"))
    assert ".975 → .979" in out
    # One texture is no average, and an average of all that is there is the mean.
    printed(tmp_path, *jobs[4:7])
    names = [line["data"] for line in lines(tmp_path / "table1.csv")]
    assert names[-2:] == ["mean of 2 MVTec objects", "mean of 3 MVTec categories"]


def test_tables_are_whole_on_a_terminal_of_100_columns(tmp_path):
    jobs = [sweep(tmp_path / c, c, jl=0.5 if c == "toothbrush" else 0.9) for c in CATEGORIES]
    out = printed(tmp_path, *jobs, width=100, terminal=True)
    assert "…" not in out.split("[...]")[0]
    assert max(map(len, out.split("[...]")[0].splitlines())) <= 100


def test_nothing_measured_is_said(tmp_path):
    assert "Nothing to compare" in printed(tmp_path)
    assert lines(tmp_path / "table1.csv") == []


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
    assert [line["data"] for line in found] == [
        "mvtec/bolt", "mvtec/nut", "mean of 2 MVTec categories",
    ]  # fmt: skip
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
        ("backbone=resnet50v2", [550]),
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
