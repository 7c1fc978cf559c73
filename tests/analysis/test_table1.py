"""experiment=table1: its jobs, its differences, and what stands beside them."""

import csv
import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from _helpers.trees import build_tree
from rich.console import Console

from padim_lit.analysis.bootstrap import paired_difference
from padim_lit.analysis.table1 import (
    CATEGORIES,
    MEAN,
    PADIM_PIXEL,
    PADIM_PIXEL_MEAN,
    TEXTURES,
    compare,
    print_table1,
    write_table1,
)
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


def text(rows) -> str:
    out = StringIO()
    print_table1(rows, console=Console(file=out, width=200))
    return out.getvalue()


def test_published_categories_average_to_the_published_means():
    paper = PADIM_PIXEL["wide_resnet50"]
    assert set(paper) == set(CATEGORIES) and len(CATEGORIES) == 15
    assert np.mean(list(paper.values())) == pytest.approx(
        PADIM_PIXEL_MEAN["wide_resnet50"], abs=1e-4
    )
    assert np.mean([paper[c] for c in TEXTURES]) == pytest.approx(0.969, abs=5e-4)
    assert np.mean([v for c, v in paper.items() if c not in TEXTURES]) == pytest.approx(
        0.978, abs=5e-4
    )
    assert set(PADIM_PIXEL["resnet18"]) < set(CATEGORIES)


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
            "proj_sd": a.std(ddof=1), "difference": expected.mean, "low": expected.low,
            "high": expected.high, "wins": 3,
        }.items():  # fmt: skip
            assert float(line[f"{metric}/{name}"]) == pytest.approx(value, abs=1e-9)
        assert line[f"{metric}/sign"] == "+" and expected.low > 0
    assert line["pixel_auroc/padim_paper"] == "0.985" and line["image_auroc/padim_paper"] == ""
    out = text([row])
    assert "+5." in out and "98.5" in out and "pixel AUROC in %" in out


def test_the_sign_needs_an_interval_off_zero(tmp_path):
    rows = compare([sweep(tmp_path / "0", "screw", jl=0.70, npca=0.80)])
    signs = {row.proj: _line(tmp_path, row)["image_auroc/sign"] for row in rows}
    assert signs == {"jl": "-", "npca": "0"}
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
    assert [(r.backbone, r.padim["test/pixel_auroc"]) for r in rows] == [
        ("wide_resnet50", None), ("resnet18", 0.974), ("efficientnet_lite0", None),
    ]  # fmt: skip


def test_the_mean_is_over_categories_in_the_papers_order(tmp_path):
    folders = [sweep(tmp_path / c, c) for c in ("zipper", "own", "carpet")]
    rows = compare(folders)
    assert [row.category for row in rows] == ["carpet", "zipper", "own", MEAN]
    *parts, mean = rows
    for metric, found in mean.differences.items():
        expected = np.mean([row.points[metric] for row in parts], axis=0)
        np.testing.assert_allclose(mean.points[metric], expected, rtol=1e-12)
        each = [row.differences[metric] for row in parts]
        assert found.mean == pytest.approx(np.mean([d.mean for d in each]))
        # Categories err apart: their mean is surer than they are.
        assert found.high - found.low < np.mean([d.high - d.low for d in each])
    assert mean.padim["test/pixel_auroc"] is None  # the paper knows no "own"
    assert compare(folders[::2])[-1].padim["test/pixel_auroc"] == pytest.approx((0.985 + 0.991) / 2)


def test_published_means_stand_beside_all_categories_alone(tmp_path):
    folders = [sweep(tmp_path / c, c) for c in CATEGORIES]
    mean = compare(folders)[-1]
    assert mean.categories == 15 and mean.padim["test/image_auroc"] == 0.953
    assert mean.report["test/pixel_auroc"] == (0.975, 0.979)
    assert compare(folders[1:])[-1].report["test/pixel_auroc"] is None
    assert "97.5 → 97.9" in text([mean])


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


def test_no_job_succeeds(zygote, here):
    args = [*COMMAND, "data.category=gear", "backbone=resnet18", "hydra.sweep.dir=none"]
    result = zygote.run(args, here)
    assert result.code == 1 and "Nothing to compare" in result.out
    assert "error: 1 of 1 jobs failed" in result.err and "Traceback" not in result.err


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


def test_the_default_is_all_of_table_1(zygote, here):
    # Jobs fail at once for want of data: their number and order is what is looked at.
    result = zygote.run(["experiment=table1", "data.root=nowhere", "hydra.sweep.dir=many"], here)
    assert result.code == 1 and "error: 30 of 30 jobs failed" in result.err
    jobs = lines(here / "many" / "sweep.csv")
    assert {(job["data.category"], job["backbone"]) for job in jobs} == {
        (category, backbone) for category in CATEGORIES for backbone in PADIM_PIXEL
    }
    assert all("no such folder: nowhere" in job["error"] for job in jobs)
    assert json.loads((here / "many" / "7" / "failed.json").read_text())["error"]
