"""The comparison with PatchCore: ours is what a run measures, theirs gets our weights."""

import numpy as np
import pytest
import timm
import torch
from _helpers.trees import build_tree
from lightning.pytorch import Trainer

from benchmarks import anomalib_patchcore, contest, patchcore

MODEL = "tf_efficientnet_lite0"


@pytest.fixture
def words(tmp_path):
    build_tree(tmp_path / "data", train=6)
    return [
        "data=folder", f"data.root={tmp_path}/data", "backbone=resnet18", "backbone.weights=random",
        "image_size=64", "proj=jl", "dim=8", "num_workers=0",
    ]  # fmt: skip


@pytest.mark.slow
def test_ours_scores_and_is_judged_as_a_run(words, tmp_path):
    settings = patchcore.settings_of(words)
    data = patchcore.make_data(settings, settings.size)
    patchcore.write_images(tmp_path, data, images=6)
    ours = patchcore.Ours(words, "cpu")
    contest.take_part(ours, tmp_path)
    row = patchcore.row_of(tmp_path, data, images=6)
    assert (row["proj"], row["dim"]) == ("jl", 8) and row["fit_ratio"] > 0
    assert row["fit_ratio"] == 2 * patchcore.row_of(tmp_path, data, images=12)["fit_ratio"]
    found = {name: torch.from_numpy(a) for name, a in np.load(tmp_path / "found.npz").items()}
    Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).test(ours.model, data)
    for name, value in patchcore.judged(data, **found).items():
        assert value == pytest.approx(ours.model.results[name], abs=1e-5), name


def test_fewer_images_are_fitted_on_where_asked(words, tmp_path):
    settings = patchcore.settings_of(words)
    data = patchcore.make_data(settings, settings.size)
    patchcore.write_images(tmp_path, data, images=3)
    pixels = np.load(tmp_path / "train.npy")
    dataset = data.train_dataloader().dataset
    expected = torch.stack([dataset[i]["image"] for i in (0, 2, 4)])
    assert torch.equal(next(contest.batches(pixels, 3)), expected)


def test_they_get_images_in_all_directions_where_ours_turns_them(words, tmp_path):
    settings = patchcore.settings_of(words)
    patchcore.write_images(tmp_path, patchcore.make_data(settings, settings.size), images=3)
    before = np.load(tmp_path / "train.npy")
    patchcore.turn_images(tmp_path, rotations=4)
    after = np.load(tmp_path / "train.npy").reshape(3, 4, 64, 64, 3)
    for quarters in range(4):
        assert np.array_equal(after[:, quarters], np.rot90(before, quarters, axes=(1, 2)))


@pytest.mark.slow
def test_their_extractor_takes_our_weights_and_gives_our_block_outputs(tmp_path):
    settings = patchcore.settings_of(["data=elpv", "backbone.weights=random"])
    patchcore.write_backbone(tmp_path, settings, layers=[2, 3], coreset=0.1, device="cpu")
    weights = torch.load(tmp_path / "backbone.pt", weights_only=True)
    mean, std = weights.pop("mean"), weights.pop("std")
    kwargs = {"features_only": True, "exportable": True, "out_indices": [2, 3]}
    theirs = timm.create_model(MODEL, pretrained=False, **kwargs).eval()  # as anomalib makes it
    theirs.load_state_dict(weights)
    images = torch.rand(1, 3, 64, 64)
    ours = patchcore.instantiate(
        {**settings.backbone, "layers": [2, 3], "feature_location": None}, seed=settings.seed
    )
    with torch.no_grad():
        for a, b in zip(theirs((images - mean) / std), ours(images), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_rows_are_replaced_one_by_one_and_other_data_is_refused(tmp_path):
    path = tmp_path / "out.json"
    slow = patchcore.Results({"data": "a"}, path)
    for value in (2, 3):
        patchcore.Results({"data": "a"}, path).add(
            {"who": "padim_lit", "images": 6, "bytes": value}
        )
    slow.add({"who": "PatchCore 1 %", "images": 6, "bytes": 1})  # keeps what came in between
    rows = patchcore.Results({"data": "a"}, path).rows
    assert [(row["who"], row["bytes"]) for row in rows] == [("padim_lit", 3), ("PatchCore 1 %", 1)]
    assert patchcore.Results({"data": "a", "since": 1}, path).rows == rows  # a fact not known then
    with pytest.raises(SystemExit, match="other data"):
        patchcore.Results({"data": "b"}, path)


def points():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(500, 40, generator=generator) * torch.linspace(3, 0.1, 40)


@pytest.mark.slow
def test_the_quick_choice_of_a_coreset_is_the_slow_one():
    x, chosen = points(), [7]
    for _ in range(59):
        chosen.append(int(torch.cdist(x.double(), x[chosen].double()).min(dim=1).values.argmax()))
    assert anomalib_patchcore.k_center(x, 60, first=7) == chosen


def test_it_is_the_one_that_anomalib_chooses():
    pytest.importorskip("anomalib", reason="anomalib has an environment of its own: not in CI")
    from anomalib.models.components import KCenterGreedy

    found = []
    for kind in (KCenterGreedy, anomalib_patchcore.quick(KCenterGreedy)):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - as `PatchCore.fit`
        found.append(kind(points(), 0.1).select_coreset_idxs())
    assert found[0] == found[1]
