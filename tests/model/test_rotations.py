"""Good images that count in several directions."""

import math

import pytest
import torch
from torch.nn import functional as F

from padim_lit import JL, Backbone, Both, Detector, InputError
from padim_lit.model.rotations import require_rotations, turned
from padim_lit.model.warm_up import learn


def smooth(height: int, width: int) -> torch.Tensor:
    noise = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(noise, 9, 1, 4)


@pytest.mark.parametrize("shape", [(64, 64), (48, 80)])
@pytest.mark.parametrize("rotations", [3, 4, 8, 12])
def test_a_pixel_goes_where_the_turn_takes_it(shape, rotations):
    height, width = shape
    image = smooth(height, width)
    # From the centre of even sides; far enough from the border that nothing mirrored is near.
    row, column = torch.meshgrid(*(torch.arange(-9, 10) + 0.5 for _ in shape), indexing="ij")
    for part, found in enumerate(turned(image, rotations)):
        angle = 2 * math.pi * part / rotations
        # Counter-clockwise as it is seen: rows grow downwards.
        across = column * math.cos(angle) - row * math.sin(angle)
        down = column * math.sin(angle) + row * math.cos(angle)
        at = torch.stack([2 * across / width, 2 * down / height], dim=-1).expand(2, -1, -1, -1)
        expected = F.grid_sample(image, at, "bilinear", align_corners=False)
        here = found[..., height // 2 - 9 : height // 2 + 10, width // 2 - 9 : width // 2 + 10]
        assert (here - expected).abs().max() < 0.02, part


def test_quarter_turns_of_a_square_are_exact():
    image = smooth(32, 32)
    found = list(turned(image, 4))
    for quarters, one in enumerate(found):
        torch.testing.assert_close(one, image.rot90(quarters, (-2, -1)), rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(found, list(turned(image, 8))[::2], strict=True))


def test_pixels_stay_between_0_and_1_and_corners_are_the_image_mirrored():
    image = torch.full((1, 3, 40, 40), 0.25)
    image[..., 18:22, 18:22] = 1.0
    for one in turned(image, 8):
        assert one.amin() >= 0 and one.amax() <= 1
        torch.testing.assert_close(one[..., :4, :4], image[..., :4, :4])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_of_few_digits_are_turned_to_the_same_places(dtype):
    rounded = smooth(64, 96).to(dtype)
    for found, expected in zip(turned(rounded, 3), turned(rounded.float(), 3), strict=True):
        assert torch.equal(found.float(), expected)


@pytest.mark.parametrize("rotations", [0, -1, 37])
def test_other_numbers_are_refused(rotations):
    with pytest.raises(InputError, match=r"from 1 .* to 36"):
        require_rotations(rotations)
    require_rotations(36)


def test_a_fit_counts_an_image_once_and_its_patches_in_every_direction():
    backbone = Backbone("test_resnet", weights="random")

    def made(rotations: int) -> Detector:
        projection, density = JL(backbone.embedding_dim, 6), Both(6, components=4)
        return Detector(backbone, projection, (64, 64), density, rotations=rotations)

    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    batches = [{"image": part} for part in images.split(2)]
    model, plain = made(3), made(1)
    learn(model, lambda _: batches)
    # The same by hand: each direction of an image is an image of its own.
    own = torch.stack(list(turned(images, 3)), dim=1).flatten(0, 1)
    learn(plain, lambda _: [{"image": own}])
    mixtures = model.density.mixture, plain.density.mixture
    torch.testing.assert_close(*(mixture.centroids for mixture in mixtures))
    plain.density.load_state_dict(model.density.state_dict())
    state, expected = model.empty_state(), plain.empty_state()
    for batch in batches:
        state = model.update_state(state, batch)
    for one in own:
        expected = plain.update_state(expected, {"image": one[None]})
    assert (state.count, expected.count) == (5, 15)
    assert torch.equal(state.moments.counts, expected.moments.counts)
    torch.testing.assert_close(state.moments.mean, expected.moments.mean)
    torch.testing.assert_close(state.layer_means, expected.layer_means, rtol=1e-4, atol=1e-5)
    model.set_state(state)
    plain.set_state(expected)
    torch.testing.assert_close(model(images)[0], plain(images)[0], rtol=1e-4, atol=0)


def test_what_is_turned_does_not_depend_on_the_backbones_precision():
    image = smooth(64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = list(turned(image, 8))
    assert all(map(torch.equal, found, turned(image, 8)))
