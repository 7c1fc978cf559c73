"""The contract of each projection."""

import math

import numpy as np
import pytest
import torch
from sklearn.random_projection import SparseRandomProjection

from padim_lit import Backbone, Detector, PerPosition
from padim_lit.errors import InputError
from padim_lit.model.learned import NPCA, PCA, Fisher
from padim_lit.model.projection import (
    JL,
    PROJECTIONS,
    Identity,
    Orthogonal,
    Projection,
    Sparse,
    Subset,
)
from padim_lit.model.warm_up import evenly_spaced, patch_statistics

C, D = 96, 24
RANDOM = [JL, Orthogonal, Sparse]


@pytest.mark.parametrize("kind", RANDOM)
def test_squared_norm_is_kept_in_expectation(kind):
    x = torch.randn(C, generator=torch.Generator().manual_seed(1)).double()
    ratios = torch.stack([(kind(C, D, s).matrix.double() @ x).square().sum() for s in range(800)])
    ratios /= x.square().sum()
    # Four standard errors around 1: fails for a wrong scale, not for an unlucky draw.
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / math.sqrt(800)
    assert ratios.std() / math.sqrt(800) < 0.02


def test_jl_entries_are_independent_gaussians_over_root_d():
    entries = JL(400, 250, seed=3).matrix.flatten() * math.sqrt(250)
    assert abs(entries.mean()) < 4 / math.sqrt(len(entries))
    assert abs(entries.std() - 1) < 4 / math.sqrt(2 * len(entries))
    assert abs((entries.abs() < 1).double().mean() - 0.6827) < 0.01  # a Gaussian's, not a sign's


def test_orthogonal_rows_are_orthonormal_times_root_c_over_d():
    matrix = Orthogonal(C, D, seed=2).matrix.double()
    torch.testing.assert_close(
        matrix @ matrix.T, torch.eye(D).double() * C / D, atol=1e-5, rtol=1e-5
    )


def test_orthogonal_is_haar_not_plain_qr():
    # QR's own sign convention would make the first column's diagonal one-sided over seeds.
    signs = torch.stack([Orthogonal(6, 2, s).matrix[0, 0].sign() for s in range(200)])
    assert abs(signs.mean()) < 0.3


def test_sparse_density_and_values_are_scikit_learns():
    ours = Sparse(400, 100, seed=0)
    theirs = SparseRandomProjection(100, density="auto", random_state=0).fit(torch.zeros(2, 400))
    assert ours.density == pytest.approx(theirs.density_)
    nonzero = ours.matrix[ours.matrix != 0]
    assert nonzero.abs().unique().tolist() == pytest.approx([abs(theirs.components_.data[0])])
    assert abs(len(nonzero) / ours.matrix.numel() - ours.density) < 0.005
    assert abs((nonzero > 0).double().mean() - 0.5) < 0.05


@pytest.mark.parametrize("density", [0, -0.1, 1.1, "third"])
def test_sparse_refuses_a_density_outside_0_1(density):
    with pytest.raises(InputError, match=r"density=.*\(0, 1\]"):
        Sparse(C, D, density=density)


def test_subset_keeps_d_different_channels_as_they_are():
    matrix = Subset(C, D, seed=5).matrix
    assert matrix.sum(dim=1).tolist() == [1.0] * D
    assert sorted(matrix.sum(dim=0).tolist()) == [0.0] * (C - D) + [1.0] * D
    assert Subset(C, C).matrix.sum() == C


def test_subset_draws_every_channel_equally_often():
    counts = torch.stack([Subset(20, 5, s).matrix.sum(dim=0) for s in range(600)]).sum(dim=0)
    assert (counts - 150).abs().max() < 5 * math.sqrt(600 * 0.25 * 0.75)


def test_identity_keeps_everything():
    assert torch.equal(Identity(7).matrix, torch.eye(7))


@pytest.mark.parametrize("kind", PROJECTIONS.values())
def test_one_seed_one_matrix_whatever_the_global_state(kind):
    def matrix(seed):
        projection = kind(C, D, seed)
        if projection.fit_images:
            projection.learn(torch.eye(C).double(), torch.eye(C).double())
        return projection.matrix

    first = matrix(4)
    torch.manual_seed(123)
    torch.rand(5)
    before = torch.get_rng_state()
    assert torch.equal(first, matrix(4))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, matrix(5)) != kind.seeded


@pytest.mark.parametrize("kind", PROJECTIONS.values())
def test_the_draw_is_on_the_cpu_and_the_matrix_travels_as_a_buffer(kind):
    # The meta device stands for any other: the values must not come from its generator.
    with torch.device("cpu"):
        expected = kind(C, D, 0).matrix
    assert expected.device.type == "cpu"
    assert expected.dtype == torch.float32
    assert list(kind(C, D, 0).state_dict()) == ["matrix"]
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(expected, kind(C, D, 0).matrix)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", PROJECTIONS.values())
def test_parts_add_up_to_the_matrix_product(kind):
    widths = (10, 1, 50, 35)
    projection = kind(C, D, 7)
    x = torch.randn(4, C, 3, 2, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(4, 3, 2, projection.dim)
    start = 0
    for width in widths:
        part, rows = projection.project_layer(x[:, start : start + width], start)
        total[..., rows] += part
        start += width
    expected = x.permute(0, 2, 3, 1).double() @ projection.matrix.double().T
    torch.testing.assert_close(total.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [Subset, Orthogonal])
def test_more_dimensions_than_channels_are_refused(kind):
    with pytest.raises(InputError, match="dim=97 exceeds the backbone's C=96"):
        kind(96, 97)
    assert kind(96, 96).matrix.shape == (96, 96)


def test_jl_and_sparse_may_exceed_c():
    assert JL(8, 20).matrix.shape == (20, 8)
    assert Sparse(8, 20).matrix.shape == (20, 8)


@pytest.mark.parametrize("dim", [0, -3, 10**30])
def test_a_dim_that_cannot_be_is_refused(dim):
    with pytest.raises(InputError, match=f"dim={dim}: must be at least 1"):
        JL(C, dim)


def test_a_new_projection_needs_one_class_with_one_method():
    class Mean(Projection):
        name = "mean"

        def draw(self, generator):
            return torch.full((self.dim, self.in_channels), 1 / self.in_channels)

    part, rows = Mean(4, 2).project_layer(torch.ones(1, 4, 3, 1), 0)
    assert part.tolist() == [[[[1.0, 1.0]]] * 3]
    assert rows == slice(0, 2)


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        (torch.zeros(4, 2), r"Tensor \(4, 2\)"),
        (torch.zeros(1, 4), r"Tensor \(1, 4\)"),
        (np.zeros((2, 4)), r"ndarray \(2, 4\)"),
        (None, "NoneType"),
    ],
)
def test_a_draw_that_gives_no_such_matrix_is_refused(drawn, said):
    kind = type("Own", (Projection,), {"name": "own", "draw": lambda self, generator: drawn})
    del PROJECTIONS["own"]
    with pytest.raises(InputError, match=rf"proj=own: its draw gave a {said}.*, here \(2, 4\)"):
        kind(4, 2)


@pytest.mark.parametrize("kind", [Fisher, NPCA])
def test_a_fit_before_anything_is_learnt_is_refused(kind):
    backbone = Backbone("test_resnet", weights="random")
    detector = Detector(backbone, kind(backbone.embedding_dim, 4), (64, 64), PerPosition(4))
    with pytest.raises(InputError, match=f"proj={kind.name} has learnt nothing .*warm_up.learn"):
        detector.empty_state()
    detector.projection.adopt(torch.ones(4, backbone.embedding_dim))
    assert detector.empty_state().count == 0


@pytest.mark.parametrize("kind", [Subset, JL, Orthogonal, Sparse])
@pytest.mark.parametrize("channels", [96, 37])  # 37: no multiple of the generator's vector width
def test_a_smaller_draw_of_the_same_seed_is_part_of_the_larger(kind, channels):
    large = kind(channels, 30, seed=6)
    for dim in (1, 7, 30):
        rows, factor = large.nested(dim)
        expected = kind(channels, dim, seed=6).matrix
        torch.testing.assert_close(large.matrix[rows] * factor, expected, atol=1e-6, rtol=1e-6)


@pytest.fixture(scope="module")
def patches():
    """Good images (N,P,C) whose positions differ along the first channels only."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(C, C, generator=generator) / 5
    means = torch.zeros(12, C)
    means[:, :4] = 3 * torch.randn(12, 4, generator=generator)
    return means + torch.randn(40, 12, C, generator=generator) @ mixing


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_patch_statistics_equal_numpys(patches, batch):
    far = patches + 1000  # around zero the naive sums would be right as well
    within, means = patch_statistics(far.split(batch))
    x = far.double().numpy()
    np.testing.assert_allclose(means.numpy(), x.mean(axis=0), rtol=1e-7)
    expected = np.mean([np.cov(x[:, p], rowvar=False) for p in range(12)], axis=0)
    np.testing.assert_allclose(within.numpy(), expected, atol=2e-4)


def test_fisher_maximises_between_over_within(patches):
    within, means = patch_statistics([patches])
    fisher = Fisher(C, 3, shrinkage=0.2)
    fisher.learn(within, means)
    rows = fisher.matrix.double()
    noise = within + 0.2 * within.trace() / C * torch.eye(C)
    between = torch.cov(means.T, correction=0)
    # Every whitening has the same eigenvalues: here a plain one, by Cholesky.
    whiten = torch.linalg.inv(torch.linalg.cholesky(noise))
    best = torch.linalg.eigvalsh(whiten @ between @ whiten.T).flip(0)[:3]
    scale = 0.01 / 0.3
    eye = torch.eye(3).double()
    torch.testing.assert_close(rows @ noise @ rows.T / scale, eye, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        (rows @ between @ rows.T).diagonal() / scale, best, rtol=1e-5, atol=0
    )


def test_pca_keeps_the_directions_of_most_variance_best_first(patches):
    pca = PCA(C, 5)
    pca.learn(*patch_statistics([patches]))
    rows = pca.matrix.double()
    torch.testing.assert_close(rows @ rows.T, torch.eye(5).double(), atol=1e-5, rtol=0)
    total = torch.cov(patches.flatten(0, 1).double().T, correction=0)
    best = torch.linalg.eigvalsh(total).flip(0)[:5]
    torch.testing.assert_close((rows @ total @ rows.T).diagonal(), best, rtol=0.05, atol=0)


def test_npca_keeps_the_sketchs_directions_of_least_variance(patches):
    within, means = patch_statistics([patches])
    npca = NPCA(C, 5, seed=2, sketch=20)
    npca.learn(within, means)
    sketch = JL(C, 20, seed=2).matrix.double()
    directions = torch.linalg.lstsq(sketch.T, npca.matrix.double().T).solution
    torch.testing.assert_close(directions.T @ directions, torch.eye(5).double(), atol=1e-5, rtol=0)
    covariance = sketch @ within @ sketch.T
    variances = (directions.T @ covariance @ directions).diagonal()
    torch.testing.assert_close(variances, torch.linalg.eigvalsh(covariance)[:5], rtol=1e-4, atol=0)


def test_npcas_sketch_is_no_wider_than_the_channels(patches):
    """Of more rows some do not vary at all, and what is chosen among these is rounding."""
    wide, full = NPCA(C, 5, seed=2, sketch=10 * C), NPCA(C, 5, seed=2, sketch=C)
    for npca in (wide, full):
        npca.learn(*patch_statistics([patches]))
    assert wide.matrix.norm() > 0.01
    torch.testing.assert_close(wide.matrix, full.matrix)


@pytest.mark.parametrize("kind", [Fisher, NPCA])
def test_what_learns_is_nested_saved_and_loaded(patches, kind):
    large, small, loaded = kind(C, 8), kind(C, 3), kind(C, 8)
    statistics = patch_statistics([patches])
    for projection in (large, small):
        projection.learn(*statistics)
    rows, factor = large.nested(3)
    torch.testing.assert_close(large.matrix[rows] * factor, small.matrix, rtol=1e-5, atol=1e-6)
    loaded.load_state_dict(large.state_dict())
    assert torch.equal(loaded.matrix, large.matrix)


def test_what_learns_refuses_too_few_images(patches):
    with pytest.raises(InputError, match=r"proj.fit_images=1: must be at least 2"):
        Fisher(C, 3, fit_images=1)
    assert Fisher(C, 3, fit_images=2).fit_images == 2
    with pytest.raises(InputError, match="at least 2 training images, not 1"):
        patch_statistics([patches[:1]])
    with pytest.raises(InputError, match="not finite"):
        patch_statistics([patches.clone().fill_(math.nan)])
    with pytest.raises(InputError, match=r"proj.shrinkage=0"):
        Fisher(C, 3, shrinkage=0)


def test_the_warm_up_is_spread_over_the_training_set():
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]
    assert evenly_spaced(3, 100) == [0, 1, 2]


def test_npca_refuses_a_sketch_narrower_than_d():
    with pytest.raises(InputError, match=r"dim=30 exceeds proj.sketch=20"):
        NPCA(C, 30, sketch=20)
