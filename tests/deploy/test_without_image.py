"""A mixture's Gaussians without one image: bounds that hold."""

import pytest
import torch

from padim_lit import InputError
from padim_lit.deploy.without_image import ComponentsWithout
from padim_lit.model.mixture import Mixture
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
