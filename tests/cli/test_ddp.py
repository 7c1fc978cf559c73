"""Two ranks on the CPU find what one device finds, and test each image once."""

import csv
import json
from pathlib import Path

import pytest
import torch
from _helpers.cli import TINY
from _helpers.trees import build_tree

DEVICES = ("one", "two")


# Π and centroids are learnt, which ranks must agree on; Gaussians are of positions and components.
LEARNING = ["proj=fisher", "density=both", "density.components=3", "rotations=2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, zygote) -> dict[str, Path]:
    """Run folders of one and of two devices, on odd numbers of images and uneven batches."""
    here = tmp_path_factory.mktemp("ddp")
    build_tree(here / "data", train=5, test={"good": 4, "crack": 3})
    # D < N: a covariance of full rank does not amplify the last digits of its sums.
    args = [*TINY, *LEARNING, "dim=2", "batch_size=2"]
    one = zygote.run([*args, "hydra.run.dir=one"], here)
    assert one.code == 0, one.err
    # Lightning starts the second rank by repeating the command line.
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "hydra.run.dir=two"]
    two = zygote.run([*args, *ddp], here)
    assert two.code == 0, two.err
    assert two.out.count("Test metrics") == 1, "one rank reports"
    return {name: here / name for name in DEVICES}


@pytest.mark.slow
def test_moments_are_those_of_one_device(folders):
    one, two = (
        torch.load(folders[name] / "model.ckpt", weights_only=True)["padim_lit"] for name in DEVICES
    )
    assert one["count"] == two["count"] == 5
    assert torch.equal(one["digests"], two["digests"])
    parts = ([found["mean"], found["layer_means"], *found["scatter"]] for found in (one, two))
    for ours, theirs in zip(*parts, strict=True):
        difference = (ours.double() - theirs.double()).abs().max()
        assert difference <= 1e-6 * ours.abs().max()


@pytest.mark.slow
def test_metrics_are_those_of_one_device(folders):
    one, two = (json.loads((folders[name] / "metrics.json").read_text()) for name in DEVICES)
    assert two["fit/images"] == 5 and two["test/images"] == 7
    for part in (
        "image_auroc",
        "image_ap",
        "image_f1max",
        "pixel_auroc",
        "pixel_ap",
        "pixel_aupro",
    ):
        assert two[f"test/{part}"] == pytest.approx(one[f"test/{part}"], abs=1e-6), part


@pytest.mark.slow
def test_each_image_is_tested_once_and_in_order(folders):
    tables = []
    for name in DEVICES:
        with (folders[name] / "predictions.csv").open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    one, two = tables
    assert len(two) == 7
    assert [(r["path"], r["kind"], r["label"]) for r in two] == [
        (r["path"], r["kind"], r["label"]) for r in one
    ]
    expected = pytest.approx([float(r["score"]) for r in one], rel=1e-5)
    assert [float(r["score"]) for r in two] == expected
