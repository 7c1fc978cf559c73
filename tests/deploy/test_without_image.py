"""Gaussians without one image: against plain float64 ones of the others, and bounds that hold."""

import pytest
import torch

from padim_lit import InputError
from padim_lit.deploy.without_image import ComponentsWithout, PositionsWithout
from padim_lit.model.mixture import Mixture
from padim_lit.model.moments import init, update
from padim_lit.model.ridge import Ridge, pooled


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("images", [2, 6])
def test_no_bound_is_above_a_distance(components, images):
    generator = torch.Generator().manual_seed(images)
    mixture = Mixture(dim=3, components=components)
    x = torch.randn(images, 40, 3, generator=generator) + 50
    x[0] += 2  # its patches move the means when they leave
    mixture.learn(x)
    moments, _ = mixture.update_moments(mixture.empty(40, "cpu"), x, x[None], lambda every: every)
    ridge = Ridge(common=pooled(moments))
    search = mixture.search(moments.mean, mixture.factorize(moments, ridge), often=True)
    rest = ComponentsWithout(mixture, moments, ridge, search, image=x[0]).rest()

    # Near and far patches in all directions, so also in that in which a mean moves.
    far = torch.randn(500, 3, generator=generator) * torch.logspace(-1, 2, 500).unsqueeze(1)
    pair = torch.cartesian_prod(torch.arange(components), torch.arange(500)).T
    squares = rest.squares(far, *pair).view(components, 500)
    every = torch.arange(components).unsqueeze(1)
    bounds = rest.bounds(rest.bounds.along(far))
    left = rest.loosened(bounds, every)
    assert (left <= squares * (1 + 1e-4)).all()
    assert (left[:, -50:] > squares[:, -50:] / 50).all()  # or they would rule out nothing
    # As they were they do not hold, where the image is a half of what there was.
    assert images > 2 or not (bounds <= squares * (1 + 1e-4)).all()


def test_an_image_that_was_not_fitted_is_one_line():
    mixture, x = Mixture(dim=3, components=2), torch.randn(3, 10, 3)
    mixture.learn(x)
    moments, _ = mixture.update_moments(mixture.empty(10, "cpu"), x, x[None], lambda every: every)
    ridge = Ridge(common=pooled(moments))
    search = mixture.search(moments.mean, mixture.factorize(moments, ridge), often=True)
    with pytest.raises(InputError, match="is not the one that was fitted"):
        ComponentsWithout(mixture, moments, ridge, search, image=x[0, :1].repeat(31, 1))


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
