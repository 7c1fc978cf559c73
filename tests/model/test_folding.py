"""Quick convolutions, and batch norms folded into them: the same features, the same state dict."""

import copy
import pickle
from itertools import product

import pytest
import timm
import torch
from _helpers.tables import long_table
from torch import nn

from padim_lit import Backbone
from padim_lit.errors import InputError
from padim_lit.model.folding import _LEFT_OUT, Conv2d, Conv2dSame, _pairs, fold, quicken, unfold

SIDE = 64
SAME = timm.layers.Conv2dSame


def trained(net: nn.Module) -> nn.Module:
    """With batch norms that do something, as after training."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return net.eval()


def left_out(net: nn.Module) -> int:
    return sum(type(module) in _LEFT_OUT.values() for module in net.modules())


class Chain(nn.Module):
    """A convolution, a batch norm, and what reads between them or uses them again."""

    def __init__(self, how: str = ""):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.how = how

    def forward(self, x):
        found = self.conv(x)
        y = self.norm(found)
        if self.how == "between":
            y = torch.cat([y, found])
        if self.how == "again":
            y = self.norm(self.conv(y))
        return [y, found] if self.how == "returned" else [y]


@long_table(
    ("model", "options"),
    [
        ("resnet18", {}),
        ("tf_efficientnet_lite0", {}),
        ("tf_efficientnet_lite0", {"feature_location": "expansion"}),
        ("mobilenetv3_small_050", {}),
        ("densenet121", {}),
        ("hrnet_w18_small", {}),
    ],
    every=2,
)
def test_features_are_those_of_float64_but_for_rounding(model, options):
    """As near to the network in float64 as that network in float32 is, or nearly."""
    net = trained(timm.create_model(model, features_only=True, **options))
    exact, images = copy.deepcopy(net).double(), torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = exact(images.double())
        plain = [features.clone() for features in net(images)]
        fold(net, (SIDE, SIDE))
        found = net(images)
    assert left_out(net) > 1
    for one, other, wanted in zip(found, plain, expected, strict=True):
        error, usual = ((x - wanted).abs().max() / wanted.abs().max() for x in (one, other))
        assert error < 4 * usual + 1e-6


def test_the_state_dict_stays_and_unfolding_gives_the_old_features_to_the_bit():
    net = trained(timm.create_model("test_resnet", features_only=True))
    plain, images = copy.deepcopy(net), torch.rand(1, 3, SIDE, SIDE)
    fold(net, (SIDE, SIDE))
    assert left_out(net) > 0
    for (name, ours), (same, theirs) in zip(
        net.state_dict().items(), plain.state_dict().items(), strict=True
    ):
        assert name == same and torch.equal(ours, theirs)
    with torch.no_grad():
        folded = [features.clone() for features in net(images)]
        copied = pickle.loads(pickle.dumps(copy.deepcopy(net)))(images)
        assert all(map(torch.equal, folded, copied))
        unfold(net)
        assert all(map(torch.equal, net(images), plain(images)))
    assert left_out(net) == 0 and not any("folded" in name for name, _ in net.named_buffers())


@pytest.mark.parametrize("how", ["between", "again", "returned"])
@pytest.mark.parametrize("new", [False, True])
def test_what_is_read_elsewhere_or_used_twice_stays(how, new):
    """New batch norms do next to nothing, so that features would tell nothing."""
    net, images = Chain(how), torch.rand(1, 3, SIDE, SIDE)
    net = net.eval() if new else trained(net)
    with torch.no_grad():
        expected = net(images)
        fold(net, (SIDE, SIDE))
        assert left_out(net) == 0
        assert all(map(torch.equal, net(images), expected))
        other = trained(Chain(how))
        net.load_state_dict(other.state_dict())
        assert all(map(torch.equal, net(images), other(images)))


def test_a_batch_norm_of_two_convolutions_stays():
    class Shared(Chain):
        def __init__(self):
            super().__init__()
            self.other = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return [self.norm(self.conv(x)), self.norm(self.other(x))]

    net = Shared().eval()
    fold(net, (SIDE, SIDE))
    assert left_out(net) == 0


def test_what_is_read_unseen_is_found_by_comparing():
    class Unseen(Chain):
        def forward(self, x):
            found = self.conv(x)
            return [self.norm(found) + torch.from_numpy(found.numpy())]

    net, images = trained(Unseen()), torch.rand(1, 3, SIDE, SIDE)
    quicken(net)
    with torch.no_grad():
        assert len(_pairs(net, images)[0]) == 1
        (expected,) = net(images)
        fold(net, (SIDE, SIDE))
        assert left_out(net) == 0
        assert torch.equal(net(images)[0], expected)


def test_where_nothing_else_reads_it_is_folded():
    net = trained(Chain())
    fold(net, (SIDE, SIDE))
    assert left_out(net) == 1


@pytest.mark.parametrize("hooked", ["conv", "norm"])
def test_what_a_hook_reads_stays(hooked):
    net, seen = trained(Chain()), []
    if hooked == "conv":
        net.conv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    else:
        net.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.rand(1, 3, SIDE, SIDE)
    with torch.no_grad():
        net(images)
        fold(net, (SIDE, SIDE))
        net(images)
    assert left_out(net) == 0
    assert torch.equal(seen[0], seen[-1])


def test_a_convolution_of_another_kind_stays():
    """Its weights are not what it multiplies with."""

    class Doubled(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, 2 * self.weight, self.bias)

    net = trained(Chain())
    image = torch.rand(1, 3, SIDE, SIDE)
    quicken(net)
    assert len(_pairs(net, image)[0]) == 1
    net.conv = Doubled(3, 3, 3, padding=1)
    quicken(net)
    assert len(_pairs(net, image)[0]) == 0


def test_a_large_convolution_of_a_small_map_stays():
    """Its second weights would take more memory than the pass that is saved."""
    net = trained(Chain())
    fold(net, (5, 5))  # 81 weights, 75 numbers
    assert left_out(net) == 0
    fold(net, (6, 6))
    assert left_out(net) == 1


def test_a_backbone_is_folded_and_its_weights_are_known_as_before():
    backbone = Backbone("test_resnet", layers=[1, 2], weights="random")
    assert left_out(backbone.net) > 0
    plain = copy.deepcopy(backbone)
    unfold(plain.net)
    again = Backbone(**plain.spec(), state=plain.net.state_dict())
    assert again.source_sha256 == backbone.source_sha256
    images = torch.rand(1, 3, SIDE, SIDE)
    assert all(map(torch.equal, again(images), backbone(images)))


@pytest.mark.parametrize("inner", [False, True])
def test_weights_that_are_loaded_later_are_folded_too(inner):
    backbone, other = (
        Backbone("test_resnet", layers=[1, 2], weights="random", seed=seed) for seed in (0, 1)
    )
    images = torch.rand(1, 3, SIDE, SIDE)
    copied = copy.deepcopy(backbone)
    if inner:
        copied.net.load_state_dict(trained(other).net.state_dict())
    else:
        copied.load_state_dict(trained(other).state_dict())
    unfold(other.net)
    for ours, theirs in zip(copied(images), other(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert left_out(copied.net) == left_out(backbone.net) > 0


def test_a_size_that_the_network_refuses_folds_nothing_and_is_one_line_later():
    backbone = Backbone("maxvit_rmlp_pico_rw_256", weights="random", img_size=[100, 100])
    assert left_out(backbone.net) == 0
    with pytest.raises(InputError, match="cannot take images of 100×100 pixels"):
        backbone.grids((100, 100))


@long_table("model", ["coatnet_nano_rw_224", "fbnetc_100"], every=2)
def test_a_backbone_made_of_its_state_has_its_features(model):
    """Of fbnetc_100 timm takes another epsilon where weights are given."""
    backbone = Backbone(model, layers=[0, 1], weights="random")
    trained(backbone.net)
    again = Backbone(**backbone.spec(), state=backbone.net.state_dict())
    backbone.load_state_dict(backbone.state_dict())
    images = torch.rand(1, 3, 224, 224)
    for ours, theirs in zip(again(images), backbone(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert left_out(again.net) > 0


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


def test_a_convolution_of_another_kind_is_not_quickened():
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
