"""The separable map against PyTorch's interpolation and SciPy's blur."""

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from padim_lit.errors import InputError
from padim_lit.model.anomaly_map import AnomalyMap, image_score, require_image_score


@pytest.mark.parametrize("grid", [(56, 56), (14, 14), (7, 5), (1, 1)])
@pytest.mark.parametrize("shape", [(224, 224), (64, 50), (10, 9)])
@pytest.mark.parametrize("sigma", [4.0, 1.5, 0])
def test_equals_interpolate_then_gaussian_filter(grid, shape, sigma):
    distances = torch.rand(3, grid[0] * grid[1], generator=torch.Generator().manual_seed(0)) * 50
    ours = AnomalyMap(grid, shape, sigma)(distances)
    up = F.interpolate(
        distances.view(3, 1, *grid).double(), size=shape, mode="bilinear", align_corners=False
    )[:, 0]
    for image, expected in zip(ours, up, strict=True):
        if sigma:
            expected = torch.from_numpy(gaussian_filter(expected.numpy(), sigma=sigma))
        torch.testing.assert_close(image.double(), expected, rtol=1e-5, atol=1e-4)


def test_a_flat_map_stays_flat_and_a_map_never_leaves_its_range():
    anomaly_map = AnomalyMap((8, 8), (64, 64))
    assert anomaly_map(torch.full((1, 64), 3.0)).sub(3).abs().max() < 1e-5
    values = torch.rand(2, 64, generator=torch.Generator().manual_seed(1))
    out = anomaly_map(values)
    assert out.min() >= values.min() - 1e-5
    assert out.max() <= values.max() + 1e-5


def test_image_score_is_the_maximum_or_the_mean_of_the_top_or_how_far_it_stands_out():
    distances = torch.arange(200.0).view(2, 100)
    maps = torch.tensor([[[1.0, 5.0], [2.0, 3.0]], [[7.0, 0.0], [1.0, 1.0]]])
    assert image_score(distances, maps, "max").tolist() == [5.0, 7.0]
    assert image_score(distances, maps, "topk").tolist() == [98.5, 198.5]
    assert image_score(distances[:, :3], maps, "topk").tolist() == [2.0, 102.0]  # at least one
    assert image_score(distances, maps, "contrast").tolist() == [98.5 - 24.5, 198.5 - 74.5]
    assert image_score(distances[:, :3], maps, "contrast").tolist() == [1.5, 51.5]
    assert image_score(distances[:, :1], maps, "contrast").tolist() == [0.0, 50.0]
    with pytest.raises(InputError, match="image_score=mean: unknown; allowed: max, topk, contrast"):
        require_image_score("mean")
