"""The figures as files: size, content, colours, determinism, and what is left out."""

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from _helpers.sweeps import editing, write_distortion, write_sweep
from PIL import Image

from padim_lit.analysis.sweep_results import read_sweeps
from padim_lit.report import figures
from padim_lit.report.command import build
from padim_lit.report.content import describe


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("sweeps")
    write_sweep(folder / "0", "mvtec/screw", ("subset", "jl", "identity"))
    write_sweep(folder / "1", "elpv/mono", ("subset", "jl"), dims=(50,))
    write_distortion(folder / "0")
    return build([folder])


def lines(axes) -> dict[str, np.ndarray]:
    """Drawn points by label."""
    drawn = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    return {line.get_label(): np.array(line.get_xydata()) for line in drawn}


@pytest.mark.slow
def test_every_figure_is_png_and_svg_of_the_width_of_a_page(content):
    drawn = figures.draw(content)
    names = ("curves", "prediction", "pareto", "spread")
    expected = [f"{n}{s}" for s in ("", "_pixel") for n in names] + ["distortion"]
    assert sorted(drawn) == sorted(f"{n}.{k}" for n in expected for k in ("png", "svg"))
    for name, picture in drawn.items():
        if name.endswith("png"):
            assert Image.open(io.BytesIO(picture)).width == 1600
        else:
            assert ElementTree.fromstring(picture).tag.endswith("svg")
    again = figures.draw(content)
    assert again == drawn


def test_curves_draw_means_bands_identity_and_the_fit(content):
    figure = figures.curves(content["sweeps"], "image_auroc")
    (axes,) = [a for a in figure.axes if a.get_title(loc="left")]  # elpv has one D: no curve
    assert axes.get_title(loc="left") == "mvtec/screw, tf_efficientnet_lite0"
    found = lines(axes)
    assert list(found) == ["jl", "subset", figures.REFERENCE, figures.FITTED, figures.WORK]
    means = {
        (c["proj"], c["dim"]): c["mean"]["image_auroc"]
        for c in content["sweeps"][0]["configurations"]
    }
    for proj in ("jl", "subset"):
        assert [(proj, int(x)) for x, _ in found[proj]] == [k for k in means if k[0] == proj]
        assert found[proj][:, 1].tolist() == [v for k, v in means.items() if k[0] == proj]
    assert found[figures.REFERENCE][0, 1] == means["identity", 1056]
    # The report's two claims: the selection that jl at 150 replaces, and where it is steep.
    assert found[figures.WORK].tolist() == [[x, means["subset", 550]] for x in (150, 550)]
    (steep,) = axes.patches
    assert (steep.get_label(), steep.get_x(), steep.get_width()) == (figures.STEEP, 50, 150)
    assert len(axes.collections) == 2
    assert axes.get_ylabel() == "image AUROC"
    assert axes.get_xlabel() == "dimensions D"


def test_cost_is_on_a_logarithmic_axis_and_in_round_steps(content):
    figure = figures.pareto(content["sweeps"], "pixel_auroc")
    state, score, total = figure.axes
    assert {a.get_xscale() for a in figure.axes} == {"log"}
    assert lines(state)["jl"][0, 0] == pytest.approx(784 * 25 * 108 / 1e6)
    assert (lines(total)["jl"][:, 0] - lines(score)["jl"][:, 0]).tolist() == pytest.approx([41] * 8)
    assert 2 <= len(state.get_xticks()) <= 6


def test_spread_has_a_dot_for_every_seed(content):
    figure = figures.spread(content["sweeps"], "image_auroc")
    first, second = figure.axes[:2]
    assert len(lines(first)["subset"]) == 8 * 5
    assert len(lines(second)["jl"]) == 5
    assert "identity" not in lines(first)


def test_distortion_is_averaged_over_seeds(content):
    figure = figures.distortion(content["distortions"])
    norm, distance, ranks = figure.axes
    rows = content["distortions"][0]["rows"]
    mine = [
        r["spearman"]
        for r in rows
        if (r["proj"], r["dim"], r["quantity"]) == ("jl", 100, "distance")
    ]
    drawn = dict(map(tuple, lines(ranks)["jl"]))
    assert drawn[100] == pytest.approx(np.mean(mine))
    assert norm.get_ylabel() == "‖Πx‖² / ‖x‖²"
    assert lines(distance)["subset"].shape == (8, 2)


def test_what_was_not_measured_is_not_drawn(tmp_path):
    write_sweep(tmp_path, dims=(50,), seeds=(0,))
    content = describe(read_sweeps([tmp_path])) | {"distortions": []}
    assert figures.draw(content) == {}


def test_costs_of_what_has_no_metric_are_not_drawn(tmp_path):
    write_sweep(tmp_path, dims=(50, 100, 200))
    with editing(tmp_path) as rows:
        for row in rows:
            if row["dim"] == 200:
                row["test/pixel_auroc"] = None
            else:
                for cost in ("state_bytes", "score/ms_per_image", "backbone/ms_per_image"):
                    del row[cost]
    sweeps = describe(read_sweeps([tmp_path]))["sweeps"]
    assert figures.pareto(sweeps, "pixel_auroc") is None
    assert figures.pareto(sweeps, "image_auroc") is not None


@pytest.mark.parametrize(("low", "high"), [(40, 110), (0.7, 260), (2, 4000), (41, 43), (1, 1e9)])
def test_steps_are_round_inside_and_few(low, high):
    found = figures._round_steps(low, high)
    assert all(low <= step <= high for step in found)
    assert 2 <= len(found) <= 10


def test_axes_of_shares_end_at_one_and_every_axis_has_ticks(tmp_path):
    write_sweep(tmp_path, projs=("subset", "jl"), ceiling=0.965, dims=(25, 50, 100))
    write_distortion(tmp_path)
    content = build([tmp_path])
    for draw in (figures.curves, figures.pareto, figures.spread):
        for metric in figures.DRAWN:
            for axes in draw(content["sweeps"], metric).axes:
                assert axes.get_ylim()[1] <= 1
                for ticks, (low, high) in (
                    (axes.get_xticks(), axes.get_xlim()), (axes.get_yticks(), axes.get_ylim()),
                ):  # fmt: skip
                    assert sum(low <= tick <= high for tick in ticks) >= 2
    *_, ranks = figures.distortion(content["distortions"]).axes
    assert ranks.get_ylim()[1] <= 1


def test_a_projection_has_one_colour_whatever_else_is_drawn(tmp_path):
    def colours(projs):
        write_sweep(tmp_path / "_".join(projs), "own", projs, dims=(25, 50))
        sweeps = build([tmp_path / "_".join(projs)])["sweeps"]
        (axes,) = figures.curves(sweeps, "image_auroc").axes
        return {line.get_label(): line.get_color() for line in axes.get_lines()}

    one, other = colours(("subset", "jl", "mine")), colours(("mine", "subset"))
    assert other == {proj: one[proj] for proj in ("subset", "mine")}
    assert len(set(one.values())) == 3
