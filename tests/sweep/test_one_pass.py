"""One pass over the images gives what separate runs give."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from _helpers import windows
from _helpers.own_densities import own_densities
from _helpers.paper import paper
from _helpers.tables import long_table
from _helpers.trees import build_tree
from lightning.pytorch import Trainer

from padim_lit import Backbone, Both, InputError, PaDiM, PerPosition
from padim_lit.data import Folder
from padim_lit.model.projection import PROJECTIONS
from padim_lit.model.ridge import Ridge, variances
from padim_lit.model.triangular import scoring_bytes
from padim_lit.sweep.ablation import Ablation, ProjectionRun, Sweep
from padim_lit.sweep.one_pass import plan

DIMS = [3, 8, 20]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    build_tree(root, train=9, test={"good": 5, "crack": 4})
    return Folder(root, image_size=64, crop_size=64, batch_size=4)


@pytest.fixture(scope="module")
def backbone():
    # Trained weights: random ones leave a spectrum so steep that its tail is rounding alone.
    return Backbone("tf_efficientnet_lite0", [1, 2, 3], feature_location="expansion")


@pytest.fixture(params=[None, 8], ids=["finest grid", "grid 8"])
def ablation(request, data, backbone, tmp_path):
    made = make(data, backbone, tmp_path, request.param)
    yield made
    made.close()


def make(data, backbone, folder, grid, density=PerPosition, **how):
    with torch.inference_mode():
        return Ablation(
            backbone,
            data,
            folder,
            grid,
            4.0,
            density,
            Ridge(0.01),
            resamples=50,
            **how,
        )


def separate_run(data, backbone, name, dim, seed, grid, density=PerPosition, **how):
    projection = PROJECTIONS[name](backbone.embedding_dim, dim, seed)
    density = density(dim, seed)
    how = paper(dim, grid=grid, **how) | {"density": density}
    model = PaDiM(backbone, projection, data.image_shape, **how)
    model.calibration = 0  # a threshold takes most of the time, and no score knows of it
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    with torch.no_grad():
        scores = torch.cat([model(batch["image"])[0] for batch in data.test_dataloader()])
    within = {"variance": float(variances(model.detector.require_state().moments).mean())}
    return model.results | model.detector.density.learnt | within, scores


@long_table("name", ["jl", "subset", "orthogonal", "sparse", "npca", "fisher"], every=6)
def test_scores_and_metrics_equal_separate_runs(ablation, data, backbone, name):
    grid = ablation.grid[0]
    rows_a_band = {16: 4, 8: 8}[grid]  # four bands on the finest grid, one on the coarser
    ranges = [range(r, r + rows_a_band) for r in range(0, grid, rows_a_band)]
    with torch.inference_mode():
        run = ProjectionRun(name, (1,), tuple(DIMS))
        found = ablation.measure(run, run.draw(backbone.embedding_dim), ranges)
    assert [row["dim"] for row in found.rows] == DIMS
    for row in found.rows:
        results, expected = separate_run(data, backbone, name, row["dim"], 1, grid)
        ours = torch.from_numpy(found.scores[f"{name}-{row['dim']}-1"])
        # The least variances are the ones that rounding moves most, and npca keeps just those.
        tolerance = 1e-3 if name == "npca" else 1e-4
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=0)
        variance = float(found.variances[str(row["dim"])])
        assert variance == pytest.approx(results["variance"], rel=tolerance)
        for metric in ("image_auroc", "image_ap", "image_f1max", "pixel_auroc"):
            # Pixels whose distances differ by less than rounding change places.
            within = 2e-5 if metric == "pixel_auroc" else 1e-5
            assert row[f"test/{metric}"] == pytest.approx(results[metric], abs=within), metric


def test_neighbours_beyond_a_band_count(data, backbone, tmp_path):
    made = make(data, backbone, tmp_path, None, neighbourhood=3)
    with torch.inference_mode():
        run = ProjectionRun("jl", (1,), (8,))
        bands = [range(r, r + 4) for r in range(0, 16, 4)]
        found = made.measure(run, run.draw(backbone.embedding_dim), bands)
    made.close()
    _, expected = separate_run(data, backbone, "jl", 8, 1, 16, neighbourhood=3)
    torch.testing.assert_close(
        torch.from_numpy(found.scores["jl-8-1"]), expected, rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("shrinkage", [0.0, 4.0])
def test_what_all_positions_share_does_not_depend_on_the_bands(ablation, backbone, shrinkage):
    ablation.ridge = Ridge(0.1, "variance")
    ablation.density = partial(PerPosition, shrinkage=shrinkage)
    height = ablation.grid[0]
    bands = [range(r, r + 4) for r in range(0, height, 4)]
    run = ProjectionRun("jl", (1,), (4, 8))
    with torch.inference_mode():
        whole, parts = (
            ablation.one_pass.score(run.draw(backbone.embedding_dim), run.dims, ranges)[0]
            for ranges in ([range(height)], bands)
        )
    for d in run.dims:
        torch.testing.assert_close(parts[d], whole[d], rtol=1e-4, atol=0)


@long_table(("rotations", "weight"), [(3, None), (1, None), (1, 0.7)], every=2)
def test_a_mixture_beside_a_gaussian_a_position_equals_separate_runs(
    data, backbone, tmp_path, rotations, weight, monkeypatch
):
    monkeypatch.setattr("padim_lit.model.both.SPREAD_ALIKE", 0.0)  # or any would be heard alike
    density = partial(Both, components=5, fit_images=6, position_weight=weight)
    made = make(data, backbone, tmp_path, 8, density, rotations=rotations)
    with torch.inference_mode():
        run = ProjectionRun("jl", (1,), (4, 8))
        bands = [range(4), range(4, 8)]
        found = made.measure(run, run.draw(backbone.embedding_dim), bands)
    made.close()
    for row in found.rows:
        assert row["state_bytes"] == scoring_bytes(64 + 5, row["dim"])
        results, expected = separate_run(
            data, backbone, "jl", row["dim"], 1, 8, density, rotations=rotations
        )
        assert row["position_weight"] == pytest.approx(results["position_weight"], rel=1e-4)
        variance = float(found.variances[str(row["dim"])])
        assert variance == pytest.approx(results["variance"], rel=0.05)
        assert row["position_weight"] > 0.5 if weight else 0 < row["position_weight"] <= 0.5
        ours = torch.from_numpy(found.scores[f"jl-{row['dim']}-1"])
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", own_densities())
def test_an_own_density_is_measured_by_its_own_methods(data, backbone, tmp_path, name):
    density = own_densities()[name]
    made = make(data, backbone, tmp_path, 8, density)
    with torch.inference_mode():
        run, bands = ProjectionRun("jl", (1,), (4, 8)), [range(4), range(4, 8)]
        found = made.measure(run, run.draw(backbone.embedding_dim), bands)
    made.close()
    for d in run.dims:
        results, expected = separate_run(data, backbone, "jl", d, 1, 8, density)
        ours = torch.from_numpy(found.scores[f"jl-{d}-1"])
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=0)
        assert float(found.variances[str(d)]) == pytest.approx(results["variance"], rel=1e-4)


def test_resampled_aurocs_scatter_around_the_measured_one(ablation, backbone):
    ranges = [range(ablation.grid[0])]
    with torch.inference_mode():
        for proj in ("jl", "subset"):
            run = ProjectionRun(proj, (0,), (4,))
            found = ablation.measure(run, run.draw(backbone.embedding_dim), ranges)
            (row,), (resampled,) = found.rows, found.resamples.values()
            assert resampled.shape == (2, 50)
            for metric, values in zip(("image_auroc", "pixel_auroc"), resampled, strict=True):
                assert values.min() <= row[f"test/{metric}"] <= values.max()
                assert values.std() > 0


def test_photos_of_one_part_are_resampled_together(data, backbone, tmp_path):
    items = data.test_items
    try:
        data.test_items = [replace(item, group=item.kind) for item in items]
        made = make(data, backbone, tmp_path, 8)
    finally:
        data.test_items = items
    made.close()
    # Two parts, a good and a defective one: nothing can vary.
    assert (made.drawn_images == 1).all() and (made.drawn_maps == 1).all()


def test_what_no_seed_changes_is_one_run():
    assert Sweep(["identity", "fisher", "jl"], [8, 4], [0, 1]).runs(16) == [
        ProjectionRun("identity", (0, 1), (16,)),
        ProjectionRun("fisher", (0, 1), (4, 8)),
        ProjectionRun("jl", (0,), (4, 8)),
        ProjectionRun("jl", (1,), (4, 8)),
    ]


def test_dimensions_that_a_projection_cannot_have_are_a_run_apart():
    assert Sweep(["fisher", "jl"], [4, 17, 8, 20], [0]).runs(16) == [
        ProjectionRun("fisher", (0,), (4, 8)),
        ProjectionRun("fisher", (0,), (17, 20)),
        ProjectionRun("jl", (0,), (4, 8, 17, 20)),
    ]
    assert Sweep(["fisher"], [20], [0]).runs(16) == [ProjectionRun("fisher", (0,), (20,))]


def test_a_seed_that_draws_centroids_is_a_run_for_every_projection():
    assert Sweep(["identity", "fisher"], [8, 4], [0, 1]).runs(16, seeded=True) == [
        ProjectionRun("identity", (0,), (16,)),
        ProjectionRun("identity", (1,), (16,)),
        ProjectionRun("fisher", (0,), (4, 8)),
        ProjectionRun("fisher", (1,), (4, 8)),
    ]


@pytest.mark.parametrize(
    ("projs", "dims", "seeds", "message"),
    [
        (["jl", "umap"], [5], [0], "projs=umap: unknown; allowed: subset, jl"),
        (["jl"], [], [0], r"dims=\[\]: give each value once"),
        (["jl"], [5], [1, 1], r"seeds=\[1, 1\]: give each value once"),
        (["jl"], [5, 0], [1], r"dims=\[5, 0\]: each must be from 1 to"),
        (["jl"], [5, 2**40], [1], "each must be from 1 to"),
    ],
)
def test_bad_sweeps_are_one_line(projs, dims, seeds, message):
    with pytest.raises(InputError, match=message):
        Sweep(projs, dims, seeds)


def test_an_own_projection_that_is_not_imported_is_told_how_to_be():
    with pytest.raises(InputError, match=r"projs=mine: unknown; .*npca.*: give proj=mine too$"):
        Sweep(["jl", "mine"], [4], [0])


def test_less_memory_means_more_bands_that_cover_the_grid_once(ablation):
    whole = plan(ablation.one_pass.test, 20, limit=1e12)
    assert len(whole.bands) == 1
    tight = plan(ablation.one_pass.test, 20, limit=whole.bytes / 2)
    assert len(tight.bands) >= 2
    assert tight.bytes <= whole.bytes / 2
    covered = [row for band in tight.bands for row in band]
    assert covered == list(range(ablation.grid[0]))
    with pytest.raises(InputError, match=r"max_memory_gb=.*needs .*; allow more"):
        plan(ablation.one_pass.test, 20, limit=1000)


def test_the_feature_maps_are_removed(data, backbone, tmp_path, monkeypatch):
    windows.keep_open_files(monkeypatch)
    made = make(data, backbone, tmp_path, None)
    assert list((tmp_path / "features").rglob("*.npy"))
    made.close()
    assert not (tmp_path / "features").exists()


def test_stored_maps_are_the_backbones(ablation, data, backbone):
    batch = next(iter(data.test_dataloader()))
    for stored, layer in zip(ablation.one_pass.test.maps, backbone(batch["image"]), strict=True):
        if layer.shape[-1] == stored.shape[2]:
            np.testing.assert_allclose(
                stored[:4], layer.permute(0, 2, 3, 1).numpy()[:4], rtol=1e-5, atol=1e-6
            )
