"""The covariance that Gaussians share: its value, and the memory that it takes."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from padim_lit.model.moments import init, update
from padim_lit.model.ridge import pooled, variances


def moments_of(images, gaussians, dim):
    x = torch.randn(images, gaussians, dim, generator=torch.Generator().manual_seed(0))
    return x, update(init(gaussians, dim), x)


@pytest.mark.parametrize(("gaussians", "dim"), [(1, 3), (50, 7), (300, 100)])
def test_it_is_the_covariance_around_each_own_mean(gaussians, dim):
    """The last case takes more than one part."""
    x, moments = moments_of(6, gaussians, dim)
    around = (x.double() - x.double().mean(dim=0)).flatten(0, 1)
    expected = around.T @ around / (6 * gaussians - gaussians)
    torch.testing.assert_close(pooled(moments), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(variances(moments), expected.diagonal(), rtol=1e-5, atol=1e-6)


def test_it_takes_little_memory_beside_the_scatter():
    _, moments = moments_of(2, 2000, 100)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        pooled(moments)
    largest = max(event.cpu_memory_usage for event in seen.events())
    assert 0 < largest < sum(band.nbytes for band in moments.scatter.bands) / 4
