"""The HTML report: what is in it, what it refuses, and what a browser makes of it."""

import json
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _helpers.browser import texts
from _helpers.sweeps import editing, paired, write_distortion, write_scores, write_sweep
from PIL import Image
from scipy.stats import norm, t

from padim_lit.analysis.curve import fit_performance
from padim_lit.analysis.published import ANOMALIB, CATEGORIES, CONTRADICTIONS, REPORT, report_mean
from padim_lit.analysis.result_files import find, finite
from padim_lit.analysis.sweep_results import read_sweeps
from padim_lit.analysis.table1 import base_of
from padim_lit.errors import InputError
from padim_lit.report import command, figures
from padim_lit.report.command import build, main, render
from padim_lit.report.content import describe
from padim_lit.report.page import to_script
from padim_lit.report.pictures import embed
from padim_lit.report.tables import beside_published, table_one
from padim_lit.system.atomic import write_json

ROOT = Path(__file__).parents[2]
SCREW = "mvtec/screw, tf_efficientnet_lite0"
EVIL = "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'>"


def picture(path: Path, size: tuple[int, int] = (400, 200)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), 128, np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Three sweeps, a distortion and two pictures."""
    folder = tmp_path_factory.mktemp("multirun")
    write_sweep(folder / "0", "mvtec/screw", ("subset", "jl", "npca", "identity"), ceiling=0.87)
    write_sweep(folder / "1", "elpv/mono", ("subset", "jl"), pixel_truth="planted defects")
    write_sweep(
        folder / "2", "mvtec/screw", ("subset", "jl"), dims=[550], backbone="wide_resnet50",
        weights="random (seed 0)", embedding_dim=1792,
    )  # fmt: skip
    write_distortion(folder / "0")
    picture(folder / "0" / "figure4.png")
    picture(folder / "fit" / "heatmaps" / "overview.png")
    run = {"data": "elpv/mono", "backbone": "b0", "proj": "jl", "dim": 100, "seed": 0}
    (folder / "fit" / "metrics.json").write_text(json.dumps(run))
    return folder


@pytest.fixture(scope="module")
def content(folders) -> dict:
    return build([folders])


@pytest.fixture(scope="module")
def drawn(content) -> dict[str, bytes]:
    return figures.draw(content)


@pytest.fixture(scope="module")
def html(content, drawn) -> str:
    return render(content, drawn)


@pytest.fixture(scope="module")
def page(html, tmp_path_factory) -> str:
    """The address of the rendered report."""
    return write(tmp_path_factory.mktemp("page"), html)


def rendered(content: dict) -> str:
    return render(content, figures.draw(content))


def write(folder: Path, html: str) -> str:
    file = folder / "page.html"
    file.write_text(html, encoding="utf-8")
    return file.as_uri()


# ------------------------------------------------------------------ content


def test_means_spreads_and_differences_are_those_of_the_sweep(folders, content):
    sweep = read_sweeps([folders / "0"])[0]
    shown = content["sweeps"][0]
    (jl,) = [c for c in shown["configurations"] if (c["proj"], c["dim"]) == ("jl", 100)]
    points = sweep.points("jl", 100, "test/pixel_auroc")
    assert jl["mean"]["pixel_auroc"] == pytest.approx(points.mean())
    assert jl["sd"]["pixel_auroc"] == pytest.approx(points.std(ddof=1))
    assert jl["values"]["pixel_auroc"] == points.tolist()
    assert jl["mean"]["total_ms"] == pytest.approx(41 + jl["mean"]["score/ms_per_image"])
    (row,) = [r for r in content["table"] if (r["title"], r["dim"]) == (SCREW, 100)]
    found = row["cells"]["jl"]["difference"]["image_auroc"]
    expected = sweep.difference(("jl", 100), ("subset", 100), "test/image_auroc")
    assert (found["value"], found["low"], found["high"]) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    aupro = row["cells"]["jl"]["difference"]["pixel_aupro"]
    assert aupro["low"] is None
    assert aupro["why"].startswith("no resamples of the test images were kept")
    assert row["cells"]["subset"]["difference"] == {}


def test_eq15_is_fitted_to_the_means_of_jl(content):
    fit = content["sweeps"][0]["fits"]["image_auroc"]
    assert fit["points"] == 8
    assert (fit["x"][0], fit["x"][-1]) == (25, min(550, round(fit["limit"], 6)))
    assert all(
        low < y < high for low, y, high in zip(fit["low"], fit["y"], fit["high"], strict=True)
    )
    assert content["sweeps"][2]["fits"] == {}


def test_figure_2_predicts_from_the_points_up_to_200(content, drawn):
    shown = content["sweeps"][0]
    image = shown["predictions"]["image_auroc"]
    y = [c["mean"]["image_auroc"] for c in shown["configurations"] if c["proj"] == "jl"]
    fit = fit_performance([25, 50, 100, 150, 200], y[:5])
    assert image["points"] == 5 and image["limit"] == pytest.approx(fit.limit)
    assert image["x"][-1] == pytest.approx(min(550, fit.limit))
    assert image["y"] == pytest.approx(fit(image["x"]), abs=1e-5)
    assert content["sweeps"][2]["predictions"] == {}  # one D
    assert {"prediction.svg", "prediction_pixel.png"} <= set(drawn)


def test_three_dimensions_are_too_few_for_eq15(tmp_path):
    write_sweep(tmp_path, dims=(50, 200, 550))
    (sweep,) = describe(read_sweeps([tmp_path]))["sweeps"]
    assert sweep["claimed"] and sweep["fits"] == {}


def test_missed_defects_are_those_below_a_threshold(tmp_path):
    good, bad = np.linspace(1, 2, 40), np.linspace(1.5, 3, 20)
    scores = np.empty(80)
    scores[::2], scores[1::2] = good, np.concatenate([bad, bad])
    folder = write_sweep(tmp_path / "s", projs=("jl", "identity"), dims=(50,), seeds=(0, 1))
    halved = np.where(np.arange(80) % 2, 0.8, 0.5) * scores  # good ones move away: fewer missed
    write_scores(
        folder, [f"{i}.png" for i in range(80)],
        {"identity-1056-0": scores, "jl-50-0": scores, "jl-50-1": halved},
    )  # fmt: skip
    content = build([tmp_path])
    found = {c["proj"]: c["missed"] for c in content["sweeps"][0]["configurations"]}
    # 5 % of 40 are two that may alarm: the threshold lies just above the third highest.
    top = np.sort(good)[-3]
    misses = 2 * np.array([(bad <= top).sum(), (0.8 * bad <= 0.5 * top).sum()])
    assert found["identity"] == {
        "misses": misses[0], "defective": 40, "alarms": 2, "good": 40, "own": False,
    }  # fmt: skip
    assert found["jl"]["misses"] == misses.mean() < misses[0]
    html = rendered(content)
    assert f"{misses[0]} of 40, 2 of 40" in html and "—: not counted" not in html
    (write_sweep(tmp_path / "without scores", "elpv/mono") / "scores.npz").unlink()
    assert "—: not counted, for the folder kept no scores" in rendered(build([tmp_path]))
    # p, k and ε of the same scores: nothing is distorted by seed 0, and seed 1 keeps all in order.
    (row,) = content["separations"]
    assert (row["proj"], row["dim"]) == ("jl", 50)
    right = (bad[:, None] > good).mean()
    assert row["before"] == pytest.approx(right) and row["y_measured"] == 1
    assert "p, k and ε, measured" in rendered(content)


def test_a_run_that_set_its_threshold_is_judged_by_it(tmp_path):
    folder = write_sweep(tmp_path, projs=("jl",), dims=(50,), seeds=(0, 1))
    with editing(folder) as rows:
        for row, misses in zip(rows, (3, 4), strict=True):
            row |= {"test/misses": misses, "test/false_alarms": 1}
    (found,) = (c["missed"] for c in build([tmp_path])["sweeps"][0]["configurations"])
    assert (found["misses"], found["alarms"], found["own"]) == (3.5, 1, True)


def test_warnings_name_their_sweeps(content):
    said = "\n".join(content["warnings"])
    assert "Random backbone weights in mvtec/screw, wide_resnet50:" in said
    assert "Planted (synthetic) defects in elpv/mono, tf_efficientnet_lite0:" in said
    assert "The threshold of F1-max is the best one on the test set" in said


def test_runs_that_were_timed_apart_are_warned_of(tmp_path):
    """As those of an ablation that was taken up on another machine, or beside other work."""
    write_sweep(tmp_path, dims=(50, 100))
    assert "Timed apart" not in "".join(describe(read_sweeps([tmp_path]))["warnings"])
    with editing(tmp_path) as rows:
        for row in rows[::2]:
            row["backbone/ms_per_image"] *= 1.2
    assert "Timed apart" in "".join(describe(read_sweeps([tmp_path]))["warnings"])


def test_what_is_open_stands_with_the_verdicts_and_is_counted_apart(tmp_path):
    how = {"backbone": "resnet18"}  # which Table 1 has
    write_sweep(tmp_path, projs=("subset", "jl"), dims=(100,), seeds=[0], **how)
    page = rendered(build([tmp_path]))
    shown, folded = page.split('id="unmeasured"')
    assert shown.count(">open</span>") == 2 and ">open</span>" not in folded
    assert "<summary>5 not measured</summary>" in folded


REPORTS_OWN = (
    "Figure 2", "Figure 3", "Table 1</h2>", "Table 1:", "q. 15", "shaded", "dashed",
    "not measured<", "contradicts", "published", "The JL report", "the report)",
)  # fmt: skip


def shown(folder: Path, *how, **more) -> tuple[str, dict[str, bool]]:
    """The page of a sweep, and which of `REPORTS_OWN` are in it."""
    page = rendered(build([write_sweep(folder, *how, **more)]))
    body = page[page.index("<body>") :]
    return body, {words: words in body for words in REPORTS_OWN}


@pytest.mark.parametrize(
    "dims", [(25, 50), (20, 40, 60, 80), (90, 100, 110, 130, 300), (150, 200, 300)]
)
def test_a_sweep_that_reproduces_nothing_is_not_told_of_the_report(tmp_path, dims):
    body, said = shown(tmp_path, "own", ("subset", "jl"), dims, (0, 1))
    assert not any(said.values()), said
    for heading in ("Detection against dimension", "Detection by projection and D"):
        assert f">{heading}</h2>" in body
    assert "At the same D, a JL projection beats" in body  # which it has measured


def test_no_name_is_given_twice_on_a_page(html):
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids)) > 5


def test_what_a_text_says_of_the_curves_is_drawn_there(tmp_path):
    both, said = shown(tmp_path / "both", "own", ("subset", "jl"), (50, 100, 150, 200, 550), (0, 1))
    assert all(said.values()), said
    assert "Two claims of the JL report can be seen here: jl rises" in both
    assert "is flat beyond, and at 150 it reaches what subset does at 550 (dashed).\nTheir" in both
    steep, _ = shown(tmp_path / "steep", "own", ("subset", "jl"), (50, 200, 550), (0, 1))
    assert "A claim of the JL report can be seen here: jl rises steeply over the shaded D and is " \
        "flat beyond.\nIts verdict is above." in steep  # fmt: skip
    work, _ = shown(tmp_path / "work", "own", ("subset", "jl"), (150, 550), (0, 1))
    assert "here: at 150 jl reaches what subset does at 550 (dashed).\nIts verdict" in work
    for page, marks in ((both, (1, 1)), (steep, (1, 0)), (work, (0, 1))):
        labels = figures.STEEP, figures.WORK
        assert tuple(f">{label}<" in page for label in labels) == tuple(map(bool, marks))


def test_a_page_of_one_seed_and_one_projection_speaks_of_no_more(tmp_path):
    body, _ = shown(tmp_path, "own", ("jl", "identity"), (25, 50), (0,))
    for words in ("over seeds", "and seeds", "bold", "The difference", 'id="claims"'):
        assert words not in body, words
    assert "One seed." in body and ">one seed<" in body


def test_what_has_no_auroc_gets_no_table_of_it(tmp_path):
    folder = write_sweep(tmp_path, "own", ("subset", "jl"), (25, 50))
    with editing(folder) as rows:
        for row in rows:
            row |= {key: None for key in row if key.startswith("test/")}
    page = rendered(build([tmp_path]))
    sections = re.findall(r'<section id="(\w+)"', page)
    assert sections == ["numbers", "reproduce"]


def test_published_numbers_stand_beside_the_same_backbone_and_dimension(tmp_path):
    for i, category in enumerate(CATEGORIES):
        write_sweep(
            tmp_path / str(i), f"mvtec/{category}", ("subset", "jl"), (100, 550), range(2),
            resamples=50, backbone="wide_resnet50", embedding_dim=1792,
        )  # fmt: skip
    table = describe(read_sweeps([tmp_path]))["table"]
    rows = {(r["data"], r["dim"]): r for r in table}
    screw = rows["mvtec/screw", 550]
    assert screw["padim"] == {"test/pixel_auroc": 0.985}
    assert screw["report"] == {"test/pixel_auroc": list(REPORT["wide_resnet50"]["screw"])}
    assert list(screw["anomalib"].values()) == list(ANOMALIB["wide_resnet50"]["screw"])
    assert rows["mvtec/screw", 100]["padim"] == rows["mvtec/screw", 100]["anomalib"] == {}
    mean = rows["mean of 15 MVTec categories", 550]
    assert mean["report"]["test/pixel_auroc"] == list(report_mean("wide_resnet50"))
    assert {("mean of 5 MVTec textures", 550), ("mean of 10 MVTec objects", 550)} <= rows.keys()
    assert rows["mean of 15 MVTec categories", 100]["report"] == {}
    sweeps = read_sweeps([tmp_path])
    orders = [np.random.default_rng(i).permutation(50) for i in range(len(sweeps))]
    points, resampled = (
        np.mean(
            [
                getattr(s, of)("jl", 550, "test/pixel_auroc")[..., order]
                - getattr(s, of)("subset", 550, "test/pixel_auroc")[..., order]
                for s, order in zip(sweeps, those, strict=True)
            ],
            axis=0,
        )
        for of, those in (("points", [[0, 1]] * len(sweeps)), ("resamples", orders))
    )
    expected = paired(points, 0 * points, resampled, 0 * resampled)
    found = mean["cells"]["jl"]["difference"]["pixel_auroc"]
    assert (found["value"], found["low"], found["high"]) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )


def test_settings_apart_are_not_averaged(tmp_path):
    write_sweep(tmp_path / "a", "mvtec/screw", dims=(50,))
    write_sweep(tmp_path / "b", "mvtec/grid", dims=(50,), grid="56x56")
    write_sweep(tmp_path / "c", "elpv/mono", dims=(50,))
    assert not [r for r in describe(read_sweeps([tmp_path]))["table"] if r["mean"]]


def test_a_mean_over_sweeps_of_which_one_kept_no_resamples_has_no_interval(tmp_path):
    for name, resamples in (("screw", 50), ("tile", 0)):
        write_sweep(tmp_path / name, f"mvtec/{name}", dims=(50,), resamples=resamples)
    *_, mean = describe(read_sweeps([tmp_path]))["table"]
    jl = mean["cells"]["jl"]
    assert mean["data"].startswith("mean of 2") and jl["mean"]["image_auroc"] is not None
    difference = jl["difference"]["image_auroc"]
    assert difference["value"] is not None and difference["low"] is None


def test_rows_of_table_1_say_which_settings_they_are_of(tmp_path):
    for density in ("position", "both"):
        for name in ("screw", "tile"):
            folder = tmp_path / density / name
            write_sweep(folder, f"mvtec/{name}", dims=(100,), density=density, backbone="resnet18")
    content = describe(read_sweeps([tmp_path]))
    for table in (table_one(content, "pixel_auroc"), beside_published(content, "pixel_auroc")):
        shown = [row["data"].text for row in table.rows]
        assert len(shown) == 6 and len(set(shown)) == 6
        assert [name.split()[-1] for name in shown[-2:]] == ["density=both", "density=position"]


def test_rows_of_table_1_are_told_apart_by_what_was_typed_too(tmp_path):
    for job, split in enumerate((0, 1)):
        run = {"proj": "jl", "dim": 50, "seed": 0, "data": "parts", "backbone": "resnet18"}
        write_json(tmp_path / str(job) / "metrics.json", run | {"test/image_auroc": 0.5})
        (tmp_path / str(job) / ".hydra").mkdir()
        (tmp_path / str(job) / ".hydra" / "overrides.yaml").write_text(f"[data.split_seed={split}]")
    (tmp_path / "multirun.yaml").write_text("hydra: {overrides: {task: ['data.split_seed=0,1']}}")
    rows = table_one(describe(read_sweeps([tmp_path])), "image_auroc").rows
    assert [row["data"].text for row in rows] == [
        "parts, resnet18, data.split_seed=0", "parts, resnet18, data.split_seed=1",
    ]  # fmt: skip


def differences(content, metric="image_auroc") -> dict[str, list[str]]:
    rows = table_one(content, metric).rows
    return {name: [row[name].text for row in rows] for name in rows[0] if "−" in name}


@pytest.mark.parametrize(
    ("projs", "versus", "columns"),
    [
        (("jl", "subset", "sparse"), None, ["jl − subset", "sparse − subset"]),
        (("sparse", "jl", "npca"), None, ["npca − jl", "sparse − jl"]),
        (("sparse", "npca"), None, ["npca − sparse"]),
        (("sparse", "jl", "subset"), "sparse", ["jl − sparse", "subset − sparse"]),
        (("jl", "subset"), "proj=jl", ["subset − jl"]),
        (("jl",), None, []),
    ],
)
def test_every_other_projection_has_a_difference_and_its_interval(tmp_path, projs, versus, columns):
    write_sweep(tmp_path, projs=projs, dims=(50,))
    found = differences(describe(read_sweeps([tmp_path]), versus))
    assert sorted(found) == columns
    for cells in found.values():
        assert re.fullmatch(r"[+−]?\.\d{3} \[\S+, \S+\]( open)?", cells[0])


def densities(folder, *densities, **how) -> list:
    for density in densities:
        write_sweep(folder / density, projs=("jl",), dims=(50,), density=density, **how)
    return read_sweeps([folder])


def test_sweeps_that_differ_in_a_key_are_compared_image_by_image_and_draw_by_draw(tmp_path):
    folders = [
        write_sweep(tmp_path / name, projs=("jl",), dims=(50,), ceiling=ceiling, density=name)
        for name, ceiling in (("mixture", 0.9), ("position", 0.95))
    ]
    write_sweep(tmp_path / "tile", "mvtec/tile", projs=("jl",), dims=(50,), density="mixture")
    mixture, position, _ = sweeps = [read_sweeps([f])[0] for f in (*folders, tmp_path / "tile")]
    content = describe(sweeps)  # by default the first value of what differs
    assert content["versus"] == ("density", "mixture")
    image = "test/image_auroc"
    parts = [
        getattr(s, of)("jl", 50, image)
        for of in ("points", "resamples")
        for s in (position, mixture)
    ]
    expected = paired(*parts)
    cells = {r["title"]: r["cells"]["jl"]["difference"] for r in content["table"] if not r["mean"]}
    (found,) = [one["image_auroc"] for one in cells.values() if one]
    assert found["value"] == pytest.approx(0.05)
    assert [found[k] for k in ("low", "high")] == pytest.approx([expected.low, expected.high])
    shown = differences(content)
    assert list(shown) == ["jl − jl, density=mixture"]
    assert sum(text == "—" for text in shown["jl − jl, density=mixture"]) == 3
    other = differences(describe(sweeps, "density=position"))
    assert any(text.startswith("−.050 [") for text in other["jl − jl, density=position"])


def test_only_what_differs_in_that_key_alone_is_compared(tmp_path):
    densities(tmp_path / "a", "mixture", "both", eps=0.1, **{"density/components": 9})
    densities(tmp_path / "b", "position", eps=0.2)
    sweeps = read_sweeps([tmp_path])
    for typed in ("density.components=9", "density/components=9"):
        assert base_of(sweeps, typed) == ("density/components", "9")
    more = {"density.components": 9}  # of fits: what was typed, beside what their results have
    fits = [replace(s, constants=s.constants | more, typed=tuple(more)) for s in sweeps[:1]]
    assert base_of([*fits, *sweeps], "density.components=9") == ("density/components", "9")
    rows = describe(sweeps, "density=mixture")["table"]
    assert [bool(row["cells"]["jl"]["difference"]) for row in rows] == [True, False, False]
    for versus, said in (
        ("eps=0.2", "--versus eps=0.2: nothing differs in eps alone, with the same test images"),
        ("subset", "--versus subset: not among what these sweeps vary: density=both, "),
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            describe(sweeps, versus)


def test_resamples_of_another_number_do_not_pair(tmp_path):
    densities(tmp_path / "a", "mixture", resamples=50)
    densities(tmp_path / "b", "both", resamples=60)
    (found,) = differences(describe(read_sweeps([tmp_path]))).values()
    assert sorted(found) == [".000", "—"]


def test_intervals_of_two_seeds_say_why_they_are_wide(tmp_path):
    for seeds in ((0,), (0, 1)):
        write_sweep(tmp_path, projs=("subset", "jl"), dims=(50,), seeds=seeds)
        page = rendered(build([tmp_path]))
        assert ("two make it wide" in page) == (len(seeds) == 2)
    for seeds, said in ((2, "widened 9.2 times"), (3, "3 seeds 2.7"), (5, "5 1.6")):
        widened = t.isf(0.025, seeds - 1) / norm.isf(0.025) * (seeds / (seeds - 1)) ** 0.5
        assert f"{widened:.1f}" in said and said in page


def test_numbers_that_are_not_finite_become_null():
    assert finite({"a": [np.nan, np.inf, 1.5], "b": np.float64("nan"), "c": (np.int64(2),)}) == {
        "a": [None, None, 1.5], "b": None, "c": [2],
    }  # fmt: skip
    with pytest.raises(ValueError, match="Out of range"):
        to_script({"a": float("nan")})


# ------------------------------------------------------------------ pictures


def test_pictures_are_found_captioned_and_shrunk(content):
    first, second = content["pictures"]
    assert first["shows"].startswith("Figure 4: the same test images")
    assert first["of"] == "0"
    assert second["of"] == "elpv/mono, b0, jl, 100"
    assert all(p["src"].startswith("data:image/") for p in content["pictures"])


def test_wide_pictures_are_at_most_1400_pixels(tmp_path):
    file = picture(tmp_path / "figure4.png", (2800, 700))
    ((shown,), left) = embed([(file, "wide")])
    assert (shown["width"], shown["height"], left) == (1400, 350, [])


def test_pictures_stay_within_the_budget_and_what_is_left_out_is_said(tmp_path):
    files = [(picture(tmp_path / str(i) / "figure4.png"), "") for i in range(3)]
    size = len(embed(files)[0][0]["src"])
    shown, left = embed(files, 2 * size)
    assert (len(shown), len(left)) == (2, 1)
    assert "did not fit" in left[0]


def test_a_picture_is_found_once_and_only_in_its_place(tmp_path):
    inside = picture(tmp_path / "a" / "heatmaps" / "overview.png")
    picture(tmp_path / "a" / "overview.png")
    assert find([tmp_path, tmp_path / "a"], "heatmaps/overview.png") == [inside]


# ------------------------------------------------------------------ command line


def test_command_line(folders, drawn, tmp_path, monkeypatch, capsys):
    out = tmp_path / "made" / "r.html"
    monkeypatch.setattr(figures, "draw", lambda content: drawn)  # which takes seconds
    # As `python -m padim_lit.report` does.
    monkeypatch.setattr(sys, "argv", ["report", str(folders), "--out", str(out)])
    runpy.run_module("padim_lit.report", run_name="__main__")
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == f"report   {out}"
    assert "3 sweeps" in said.err
    assert out.stat().st_size < 15_000_000
    made = {file.name for file in (tmp_path / "made" / "r_figures").iterdir()}
    assert {"curves.png", "curves.svg", "pareto.png", "spread.svg", "distortion.png"} <= made
    html = out.read_text()
    # Nothing that a browser would fetch.
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#|data:)|url\((?!#)|@import""", html)


def test_no_figures_are_named_where_none_were_written(tmp_path, monkeypatch, capsys):
    write_sweep(tmp_path / "s", dims=(50,))
    for drawn, said in ({}, []), ({"a.svg": b"<svg/>"}, [f"{tmp_path / 'r_figures'} (1 file)"]):
        monkeypatch.setattr(command, "draw", lambda content, drawn=drawn: drawn)
        main([str(tmp_path / "s"), "--out", str(tmp_path / "r.html")])
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == f"report   {tmp_path / 'r.html'}"
        assert lines[:-1] == [f"figures  {one}" for one in said]


def failure(capsys, *words) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    if isinstance(end.value.code, str):
        return 1, end.value.code
    return end.value.code, capsys.readouterr().err.rstrip("\n")


def test_what_cannot_be_done_is_one_line(capsys, folders, tmp_path):
    (tmp_path / "empty").mkdir()
    broken = write_sweep(tmp_path / "broken", dims=(50,))
    (broken / "rows.json").write_text((broken / "rows.json").read_text()[:-30])
    damaged = write_sweep(tmp_path / "damaged", dims=(50,))
    (damaged / "figure4.png").write_bytes(b"no picture")
    (tmp_path / "file").write_text("")
    single = picture(tmp_path / "single" / "heatmaps" / "overview.png").parents[1]
    (single / "metrics.json").write_text("{}")
    out = tmp_path / "out.html"
    for words, code, said in (
        ([], 2, "the following arguments are required: SWEEP_DIR"),
        ([folders, "--colour"], 2, "unrecognized arguments: --colour"),
        ([tmp_path / "empty", "--out", out], 1, "no sweep with a finished job in"),
        ([single, "--out", out], 1, "single; give the folder of an experiment=ablation"),
        ([tmp_path / "nowhere", "--out", out], 1, "is no folder"),
        ([broken, "--out", out], 1, "rows.json cannot be read"),
        ([damaged, "--out", out], 1, "figure4.png cannot be read as a picture"),
        ([folders, "--out", out, "--versus", "eps=3"], 1, "--versus eps=3: not among what these"),
        ([folders, "--out", tmp_path], 1, "is a folder; give the name of a file"),
    ):
        status, message = failure(capsys, *words)
        assert (status, message.count("\n")) == (code, 0), message
        assert message.startswith("error: "), message
        assert said in message
    assert not out.exists()
    assert not (tmp_path / "out_figures").exists()


def test_an_output_that_cannot_be_written_is_one_line(capsys, tmp_path):
    write_sweep(tmp_path / "s", dims=(50,), seeds=(0, 1))
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "s"), "--out", str(tmp_path / "file" / "r.html")])
    assert "cannot be written" in end.value.code
    assert "\n" not in end.value.code


def test_a_damaged_run_beside_a_picture_is_named(tmp_path):
    write_sweep(tmp_path, dims=(50,))
    picture(tmp_path / "fit" / "figure4.png")
    (tmp_path / "fit" / "metrics.json").write_text("{")
    with pytest.raises(InputError, match=r"metrics\.json cannot be read"):
        build([tmp_path])


@pytest.mark.slow
@pytest.mark.parametrize("what", ["figure4", "distortion"])
def test_a_folder_without_sweeps_is_shown_too(opened, tmp_path, what):
    if what == "figure4":
        picture(tmp_path / "runs" / "figure4.png")
    else:
        write_distortion(tmp_path / "runs")
    out = tmp_path / "r.html"
    main([str(tmp_path / "runs"), "--out", str(out)])
    view = opened(out.as_uri())
    section = "pictures" if what == "figure4" else "distortion"
    assert view.js("[...document.querySelectorAll('section')].map(e => e.id)") == [
        section, "reproduce",
    ]  # fmt: skip
    assert view.complaints() == []


# ------------------------------------------------------------------ browser


def test_the_page_answers_first_then_judges_then_draws(opened, page, content):
    view = opened(page)
    assert view.js("[...document.querySelectorAll('section')].map(e => e.id)") == [
        *("answer", "claims", "curves", "theory", "table1", "pareto", "spread"),
        *("distortion", "pictures", "numbers", "reproduce"),
    ]  # fmt: skip
    assert texts(view, "#warnings li") == content["warnings"]
    top = max(content["sweeps"][0]["configurations"], key=lambda c: c["mean"]["image_auroc"])
    first = texts(view, "#answer table tbody tr")[0]
    assert first.startswith("mvtec/screw, tf_efficientnet_lite0")
    for text in (
        f"{top['proj']}, D = {top['dim']:,}", f"{top['mean']['image_auroc']:.3f}"[1:],
        f"{top['mean']['total_ms']:.3g}",
    ):  # fmt: skip
        assert text in first
    assert view.js("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert "experiment=ablation" in "".join(texts(view, "#reproduce pre"))
    assert view.complaints() == []
    assert view.requests() == [page]


def test_claims_that_were_not_measured_are_folded(opened, page, content):
    view = opened(page)
    kinds = [claim.kind for claim in content["claims"]]
    shown = view.js(
        "[...document.querySelectorAll('#claims .badge')].filter(e => e.checkVisibility())"
        ".map(e => e.textContent)"
    )
    assert len(shown) == sum(kind != "not measured" for kind in kinds) > 0
    assert "not measured" not in shown and "not measured" in kinds
    view.js("document.querySelector('#unmeasured').open = true")
    assert len(texts(view, "#claims .badge")) == len(kinds)


def test_figures_are_the_files(opened, page, drawn):
    view = opened(page)
    shown = view.js("[...document.querySelectorAll('.chart svg')].map(e => e.ariaLabel)")
    assert len(shown) == sum(name.endswith("svg") for name in drawn)
    assert view.js(
        "[...document.querySelectorAll('#curves .of-image_auroc text')].map(e => e.textContent)"
        ".filter(t => /lite0$/.test(t))"
    ) == ["mvtec/screw, tf_efficientnet_lite0", "elpv/mono, tf_efficientnet_lite0"]
    line = "getComputedStyle(document.querySelector('#curves [style*=\"stroke: #0072b2\"]')).stroke"
    assert view.js(line) == "rgb(0, 114, 178)"  # of jl
    assert view.js(
        "[...document.querySelectorAll('.chart use')].every(u => "
        "document.querySelectorAll(u.getAttribute('xlink:href')).length === 1)"
    )


def test_the_metric_shows_its_figures_and_tables(opened, page, content):
    view = opened(page)

    def shown(selector: str) -> int:
        return view.js(
            f"[...document.querySelectorAll('{selector}')].filter(e => e.offsetHeight).length"
        )

    # Two tables of pixels, AUROC and AUPRO, and one of either AUROC beside what others published.
    for metric, other, tables in (("image", "pixel", 2), ("pixel", "image", 3)):
        view.js(f"document.querySelector('#pick-{metric}_auroc').click()")
        assert shown(f".chart.of-{metric}_auroc") == 4 and shown(f".chart.of-{other}_auroc") == 0
        assert shown("#table1 > div table") == tables
    names = texts(view, "#table1 .of-pixel_auroc tbody th")
    assert "elpv/mono, tf_efficientnet_lite0 (planted)" in names
    (row,) = [r for r in content["table"] if (r["title"], r["dim"]) == (SCREW, 100)]
    jl = row["cells"]["jl"]
    text = f"{jl['mean']['pixel_auroc']:.3f} ± {jl['sd']['pixel_auroc']:.3f}".replace("0.", ".")
    assert text in "\n".join(texts(view, "#table1 table tbody tr"))


def test_published_numbers_and_contradictions_are_on_the_page(opened, page):
    view = opened(page)
    view.js("document.querySelector('#contradictions').open = true")
    assert texts(view, "#contradictions li") == [*CONTRADICTIONS]
    view.js("document.querySelector('#pick-pixel_auroc').click()")
    shown = texts(view, "#table1 > .of-pixel_auroc tbody tr")
    (beside,) = [row for row in shown if "→" in row]
    assert "wide_resnet50" in beside and ".985 → .988" in beside
    assert view.complaints() == []


@pytest.mark.slow
def test_a_deterministic_method_has_no_spread(opened, tmp_path):
    folder = write_sweep(tmp_path / "s", "own", dims=(50, 100))
    with editing(folder) as rows:
        for row in rows:
            if row["proj"] == "npca":
                row["test/image_auroc"] = 0.875
    view = opened(write(tmp_path, rendered(build([tmp_path]))))
    cells = view.js("[...document.querySelectorAll('td')].map(e => e.textContent.trim())")
    assert {".875", ".8750"} < set(cells)
    assert not any(cell.startswith((".875 ±", ".8750 ±")) for cell in cells)
    assert any("±" in text for text in texts(view, "#table1 td"))


def test_a_broken_page_is_noticed(opened, html, tmp_path):
    # The policy refuses whatever is not this page's own, and that is noticed.
    for bad in (
        "<script>1</script>", '<img src="https://127.0.0.1:9/x">', "<b onclick='1'>x</b>",
    ):  # fmt: skip
        view = opened(write(tmp_path, html.replace("</main>", f"{bad}</main>")))
        assert "Content Security Policy" in "\n".join(view.complaints()), bad


def test_without_scripts_all_is_there(opened, html, tmp_path):
    without = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    view = opened(write(tmp_path, without))
    assert texts(view, "#table1 table tbody tr")
    view.js("document.querySelector('#pick-pixel_auroc').click()")
    assert view.js("document.querySelector('.chart.of-pixel_auroc').offsetHeight") > 0


def test_the_keyboard_opens_claims_and_sorts(opened, page, content):
    view = opened(page)
    view.js("document.querySelector('.verdict summary').focus()")
    view.press("Enter")
    assert view.js("document.querySelector('.verdict').open")
    first = content["claims"][0]
    tables = ".verdict[open] .scroll"
    assert [name.split(":")[0] for name in texts(view, f"{tables} caption")] == [
        "Means over sweeps",
        "Evidence",
    ]
    assert len(texts(view, f"{tables} tbody tr")) == len(first.means) + len(first.evidence)
    assert "Mean: D = 25 +" in texts(view, ".verdict[open] .when")[-1]
    head = "document.querySelector('#table1 th:nth-child(2)')"
    view.js(f"{head}.querySelector('button').focus()")
    view.press("Enter", "Enter")
    assert view.js(f"{head}.getAttribute('aria-sort')") == "descending"
    order = view.js(
        "[...document.querySelector('#table1 table').tBodies[0].rows]"
        ".map(r => Number(r.cells[1].dataset.value))"
    )
    assert order == sorted(order, reverse=True) and order[0] == 1056
    assert view.complaints() == []


@pytest.mark.slow
def test_names_from_the_data_are_text_and_nothing_else(opened, tmp_path):
    write_sweep(
        tmp_path / "a", EVIL, ("subset", "jl", "<b>x"), (50, 100), (0, 1), resamples=20,
        weights=EVIL, command=[EVIL],
    )  # fmt: skip
    picture(tmp_path / "<img src=x onerror=alert(1)>" / "figure4.png")
    html = rendered(build([tmp_path]))
    assert html.count("</script>") == 1
    view = opened(write(tmp_path, html))
    assert view.js("document.title") != "owned"
    shown = view.js("[...document.querySelectorAll('#curves text')].map(e => e.textContent)")
    assert any(EVIL in text for text in shown) and "<b>x" in shown
    assert view.js("document.querySelectorAll('img').length") == 1
    assert view.js("document.querySelectorAll('main b').length") == 1  # the picture's caption
    assert view.complaints() == []


@pytest.mark.slow
def test_missing_values_leave_gaps_and_no_errors(opened, tmp_path):
    folder = write_sweep(tmp_path / "s", "own", dims=(50, 100, 150))
    with editing(folder) as rows:
        for row in rows:
            row |= dict.fromkeys(("test/pixel_auroc", "test/pixel_ap", "test/pixel_aupro"))
            row["score/ms_per_image"] = None
            del row["device"]  # as of parts that were measured on two machines
        rows[0]["test/image_auroc"] = None
    rows = [{"proj": "jl", "dim": 50, "seed": 0, "quantity": "norm", "mean": 1.0, "sd": 0.1}]
    quantiles = {f"q{q:02}": 1.0 for q in (1, 5, 25, 50, 75, 95, 99)}
    write_json(folder / "distortion.json", {"rows": [{**rows[0], **quantiles, "spearman": None}]})
    view = opened(write(tmp_path, rendered(build([tmp_path]))))
    assert view.complaints() == []
    assert view.js("document.querySelectorAll('#controls').length") == 0  # one metric
    text = view.js("document.querySelector('#pareto').textContent")
    assert "state (MB)" in text and "scoring (ms/image)" not in text
    # subset lacks a seed's value at its first D.
    assert "—" in texts(view, "#table1 tbody td")
    assert "nan" not in texts(view, "body")[0]


@pytest.mark.parametrize("width", [360, 800, 1900])
def test_nothing_sticks_out_at_any_width(opened, page, width):
    view = opened(page)
    view.size(width, 800)
    view.js("for (const d of document.querySelectorAll('details')) d.open = true")
    assert view.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_page_is_legible(opened, page):
    view = opened(page)
    for selector in (
        "body",
        ".note",
        ".badge.yes, .badge.part",
        ".badge.none, .badge.no",
        ".chart text",
        "#warnings",
    ):
        assert contrast(view, selector) > 4.5, selector


def luminance(view, selector: str, name: str) -> float:
    colour = view.js(
        f"e = document.querySelector({json.dumps(selector)});"
        f"while (getComputedStyle(e).{name} === 'rgba(0, 0, 0, 0)') e = e.parentElement;"
        f"getComputedStyle(e).{name}"
    )
    rgb = [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(view, selector: str) -> float:
    """WCAG's ratio of the text to what is behind it."""
    a, b = (luminance(view, selector, name) for name in ("color", "backgroundColor"))
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


@pytest.mark.slow
def test_paper_shows_everything_and_no_controls(opened, page):
    view = opened(page)
    view.call("Emulation.setEmulatedMedia", media="print")
    assert view.js("getComputedStyle(document.querySelector('#controls')).display") == "none"
    assert view.js(
        "[...document.querySelectorAll('#table1 .scroll, .chart')].every(e => e.offsetHeight > 0)"
    )
    closed = view.js("document.querySelectorAll('details:not([open])').length")
    pdf = view.pdf()
    assert closed == view.js("document.querySelectorAll('details:not([open])').length") > 0
    assert pdf.startswith(b"%PDF")
    view.js("window.dispatchEvent(new Event('beforeprint'))")
    assert view.js("document.querySelectorAll('details:not([open])').length") == 0


def test_tables_name_their_rows_and_columns(opened, page):
    view = opened(page)
    assert view.js(
        "[...document.querySelectorAll('table')].every(t => t.caption.textContent"
        " && [...t.tHead.rows[0].cells].every(c => c.scope === 'col')"
        " && [...t.tBodies[0].rows].every(r => r.cells[0].scope === 'row'))"
    )
    assert view.js("[...document.querySelectorAll('.chart svg')].every(s => s.ariaLabel)")
    inputs = "#controls select, #controls input"
    assert view.js(f"[...document.querySelectorAll('{inputs}')].every(e => e.labels.length)")


def test_distortions_are_named_and_empty_cells_are_null(tmp_path):
    write_sweep(tmp_path / "s", dims=(50,))
    run = tmp_path / "d"
    file = write_distortion(run)
    about = {"data": "mvtec/screw", "backbone": "b0"}
    rows = json.loads(file.read_text())["rows"]
    rows[0]["spearman"] = None  # lengths have no rank correlation
    write_json(file, {**about, "rows": rows})
    (found,) = build([tmp_path])["distortions"]
    assert found["label"] == "mvtec/screw, b0"
    row = found["rows"][0]
    assert (row["proj"], row["dim"], row["seed"], row["spearman"]) == ("subset", 25, 0, None)
    assert found["rows"][1]["spearman"] > 0
