"""The quick convolutions give what PyTorch's and timm's give, and can be changed back."""

import copy
import pickle
from itertools import product

import pytest
import timm
import torch
from torch import nn

from padim_lit import Backbone
from padim_lit.model.folding import Conv2d, Conv2dSame, quicken, unfold

SAME = timm.layers.Conv2dSame


def both(conv, x):
    """What a convolution gives as it is, and quickened."""
    net = nn.Sequential(copy.deepcopy(conv))
    quicken(net)
    assert type(net[0]) in (Conv2d, Conv2dSame)
    with torch.no_grad():
        return conv(x), net(x)


@pytest.mark.parametrize("kernel", [1, 3, 5, (1, 3)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("groups", "outputs"), [(1, 6), (2, 6), (4, 4), (4, 8)])
def test_same_padding_of_any_size(kernel, stride, groups, outputs):
    for height, width in product((6, 7, 8, 9), (6, 7)):
        x = torch.rand(2, 4, height, width).contiguous(memory_format=torch.channels_last)
        for dilation in (1, 2):
            conv = SAME(4, outputs, kernel, stride=stride, groups=groups, dilation=dilation)
            plain, quick = both(conv, x)
            torch.testing.assert_close(quick, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"stride": 2},
        {"padding": 1},
        {"groups": 2},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [1, 5, 40])
def test_one_by_one(options, size):
    x = torch.rand(2, 4, size + 1, size + 1)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        plain, quick = both(nn.Conv2d(4, 6, 1, **options), given)
        torch.testing.assert_close(quick, plain, rtol=1e-5, atol=1e-6)


def test_copies_stay_quick_and_unfold_gives_the_old_classes_and_features_to_the_bit():
    backbone = Backbone("tf_efficientnet_lite0", weights="random")
    plain = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=[1, 2, 3])
    plain.load_state_dict(backbone.net.state_dict(), strict=False)
    plain.eval().to(memory_format=torch.channels_last)
    images = torch.rand(1, 3, 65, 64).contiguous(memory_format=torch.channels_last)
    net = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=[1, 2, 3])
    net.load_state_dict(plain.state_dict())
    net.eval().to(memory_format=torch.channels_last)
    quicken(net)
    with torch.no_grad():
        quick = [one.clone() for one in net(images)]
        copied = pickle.loads(pickle.dumps(copy.deepcopy(net)))
        assert all(map(torch.equal, copied(images), quick))
        unfold(net)
        assert all(map(torch.equal, net(images), plain(images)))
    assert [type(one) for one in net.modules()] == [type(one) for one in plain.modules()]


def test_a_convolution_of_another_kind_stays():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    net = nn.Sequential(Doubled(1, 1, 1))
    quicken(net)
    assert type(net[0]) is Doubled


def test_autocast_and_graphs_are_left_to_pytorch():
    backbone = Backbone("tf_efficientnet_lite0", layers=[1], weights="random")
    images = torch.rand(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert backbone(images)[0].dtype == torch.bfloat16
    program = torch.export.export(backbone, (images,))
    assert "mkldnn" not in str(program)
    # Rows and columns of zeros are added to maps, not to kernels.
    assert "aten.pad" in str(program)
