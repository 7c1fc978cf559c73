"""Batch norms folded into convolutions: the same features, the same state dict."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

from padim_lit import Backbone
from padim_lit.model.folding import _LEFT_OUT, fold, unfold

SIDE = 64


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

    def __init__(self, between: bool = False, again: bool = False):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.between, self.again = between, again

    def forward(self, x):
        found = self.conv(x)
        y = self.norm(found)
        if self.between:
            y = y + found
        if self.again:
            y = self.norm(self.conv(y))
        return [y]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("resnet18", {}),
        ("tf_efficientnet_lite0", {}),
        ("tf_efficientnet_lite0", {"feature_location": "expansion"}),
        ("mobilenetv3_small_050", {}),
        ("densenet121", {}),
        ("hrnet_w18_small", {}),
    ],
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


@pytest.mark.parametrize("how", ["between", "again"])
def test_what_is_read_elsewhere_or_used_twice_stays(how):
    net = trained(Chain(**{how: True}))
    images = torch.rand(1, 3, SIDE, SIDE)
    with torch.no_grad():
        (expected,) = net(images)
        fold(net, (SIDE, SIDE))
        assert left_out(net) == 0
        assert torch.equal(net(images)[0], expected)
        alone = trained(Chain())
        fold(alone, (SIDE, SIDE))
    assert left_out(alone) == 1


@pytest.mark.parametrize("hooked", ["conv", "norm"])
def test_what_a_hook_reads_stays(hooked):
    net, seen = trained(Chain()), []
    if hooked == "conv":
        net.conv.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    else:
        net.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
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
    net.conv = Doubled(3, 3, 3, padding=1)
    fold(net, (SIDE, SIDE))
    assert left_out(net) == 0


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


def test_weights_that_are_loaded_later_are_folded_too():
    backbone, other = (
        Backbone("test_resnet", layers=[1, 2], weights="random", seed=seed) for seed in (0, 1)
    )
    images = torch.rand(1, 3, SIDE, SIDE)
    copied = copy.deepcopy(backbone)
    copied.load_state_dict(trained(other).state_dict())
    unfold(other.net)
    for ours, theirs in zip(copied(images), other(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert left_out(copied.net) == left_out(backbone.net) > 0
