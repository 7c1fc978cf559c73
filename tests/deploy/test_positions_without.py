"""Gaussians a position without one image, against plain float64 ones of the others."""

import pytest
import torch

from padim_lit import InputError
from padim_lit.deploy.positions_without import PositionsWithout
from padim_lit.model.moments import init, update
from padim_lit.model.ridge import Ridge


@pytest.mark.parametrize("unit", ["feature", "variance"])
@pytest.mark.parametrize(("images", "ways", "shrinkage"), [(9, 1, 3.0), (4, 3, 3.0), (12, 1, 0.0)])
def test_distances_and_volume_are_those_of_the_other_images(
    images, ways, shrinkage, unit, monkeypatch
):
    positions, dim, eps = 40, 7, 0.1
    monkeypatch.setattr("padim_lit.model.gaussian.CACHED_NUMBERS", 3 * dim**2)  # 14 steps
    x = torch.randn(images, ways, positions, dim, dtype=torch.float64) * 3 + 5
    ridge = Ridge(eps, unit, shrinkage)
    moments = update(init(positions, dim), x.flatten(0, 1))
    distances, log_det = PositionsWithout(moments, ridge)(x[0].float())
    rest = x[1:].flatten(0, 1)
    y = rest - rest.mean(dim=0)
    scatter = torch.einsum("npi,npj->pij", y, y)
    freedom = len(rest) - 1
    pooled = scatter.sum(dim=0) / (positions * freedom)
    if unit == "variance":
        eps *= float(pooled.diagonal().mean())
    sigma = (scatter + shrinkage * pooled) / (freedom + shrinkage) + eps * torch.eye(dim)
    away = (x[0, 0] - rest.mean(dim=0)).unsqueeze(-1)
    expected = (away.mT @ torch.linalg.solve(sigma, away)).flatten().sqrt()
    torch.testing.assert_close(distances[0].double(), expected, rtol=1e-5, atol=0)
    assert log_det == pytest.approx(float(sigma.logdet().mean()), rel=1e-5)


def test_a_covariance_that_is_singular_without_the_image_is_one_line():
    moments = update(init(4, 6), torch.rand(3, 4, 6))
    with pytest.raises(InputError, match="eps=0 with eps_unit=feature"):
        PositionsWithout(moments, Ridge(eps=0))(torch.rand(1, 4, 6))
