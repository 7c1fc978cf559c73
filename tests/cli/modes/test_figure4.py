"""The same images under two projections: which images, which thresholds, which colours."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from _helpers.cli import TINY
from _helpers.tables import long_table
from _helpers.trees import build_tree
from matplotlib.colors import to_rgb
from PIL import Image

from padim_lit.cli.modes.pictures import choose
from padim_lit.data.items import Item
from padim_lit.visualization.figure4 import Example, judged
from padim_lit.visualization.palette import FALSE, FOUND, TRUTH

FIGURE4 = [*(a for a in TINY if not a.startswith("logger=")), "experiment=figure4", "rows=3"]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figure4")
    build_tree(folder / "data", train=6, test={"good": 3, "crack": 3, "hole": 2})
    build_tree(folder / "bare", train=6, masks=False)
    return folder


def items(*kinds, pixel=True):
    return [Item(Path(f"{i}.png"), kind, count_pixel=pixel) for i, kind in enumerate(kinds)]


def test_kinds_in_turn_the_median_first_and_a_good_image_last():
    kinds = ["good", "crack", "crack", "crack", "hole", "hole", "good", "good"]
    scores = torch.tensor([1.0, 9, 5, 7, 4, 3, 3, 2])
    # Medians: crack 7 (no. 3, then its lower neighbour), of two holes the lower, good 2 (no. 7).
    assert choose(items(*kinds), scores, 4) == [3, 2, 5, 7]
    assert choose(items(*kinds), scores, 3) == [3, 5, 7]
    assert choose(items(*kinds), scores, 1) == [3]
    assert len(choose(items(*kinds), scores, 20)) == 6  # five defective ones and one good


def test_images_without_pixel_truth_are_not_chosen():
    both = items("crack", "crack", pixel=False) + items("crack")
    assert choose(both, torch.tensor([1.0, 2, 3]), 2) == [2]


def test_pixels_are_coloured_by_what_they_are():
    truth = np.array([[True, True, False, False]])
    example = Example("a", "crack", False, np.full((1, 4, 3), 100, np.uint8), truth, [])
    out = judged(example, np.array([[5.0, 1.0, 5.0, 1.0]]), threshold=5.0)
    for pixel, colour in zip(out[0], (FOUND, TRUTH, FALSE), strict=False):
        assert np.abs(pixel - (0.75 * 255 * np.array(to_rgb(colour)) + 17.5)).max() < 1
    assert (out[0, 3] == 70).all()


@pytest.mark.slow
def test_the_command_draws_and_records(here, zygote):
    out = zygote.run([*FIGURE4, "projs=[subset,jl,fisher]", "hydra.run.dir=three"], here)
    assert out.code == 0, out.err
    with Image.open(here / "three" / "figure4.png") as picture:
        assert picture.width > 1000
    found = json.loads((here / "three" / "figure4.json").read_text())
    assert [m["proj"] for m in found["methods"]] == ["subset", "jl", "fisher"]
    assert {image["kind"] for image in found["images"]} == {"crack", "hole", "good"}
    assert any("weights are random" in note for note in found["notes"])
    assert not (here / "three" / "features").exists()
    large = [*FIGURE4, "projs=[subset,jl]", "eps_unit=feature", "eps=10", "hydra.run.dir=large"]
    assert zygote.run(large, here).code == 0
    notes = json.loads((here / "large" / "figure4.json").read_text())["notes"]
    assert sum("larger than it, so it decides" in note for note in notes) == 2
    # The same threshold and metrics as a run of its own.
    single = zygote.run([*TINY, "hydra.run.dir=single"], here)
    assert single.code == 0, single.err
    metrics = json.loads((here / "single" / "metrics.json").read_text())
    jl = found["methods"][1]
    assert jl["pixel_auroc"] == pytest.approx(metrics["test/pixel_auroc"], abs=1e-5)
    found, best = jl["pixel_f1max_threshold"], metrics["test/pixel_f1max_threshold"]
    assert found == pytest.approx(best, rel=1e-3)
    assert 0 < jl["pixel_f1max"] <= 1


@long_table(
    ("extra", "message"),
    [
        ("projs=[jl]", "give two to four"),
        ("projs=[jl,umap]", "projs=umap: unknown"),
        ("rows=0", "rows=0: must be at least 1"),
        ("data.root=bare", "no test image with a known mask"),
        ("dim=500", "dim=500 exceeds"),
        ("eps=1e9", "experiment=figure4: "),
    ],
    every=3,
)
def test_bad_input_is_one_line_and_leaves_nothing(here, zygote, extra, message):
    out = zygote.run([*FIGURE4, extra, "hydra.run.dir=bad"], here)
    assert out.code == 1
    (line,) = out.err.strip().splitlines()[-1:]
    assert line.startswith("error: ") and message in line
    assert not list((here / "bad").glob("figure4.*"))
