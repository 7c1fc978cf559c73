"""ResNet50-v2: the published features from the published file, and all that a backbone is for."""

import itertools
import json

import pytest
import torch
from _helpers.cli import TINY_SWEEP
from _helpers.fits import fit_on_images
from _helpers.paper import paper
from _helpers.trees import build_tree
from safetensors.torch import save_file
from torch.nn import functional as F

from padim_lit import JL, Backbone, Detector, InputError, Predictor
from padim_lit.checkpoint.state import load_detector, save_detector, spec_of
from padim_lit.deploy.export import export_onnx, metadata
from padim_lit.deploy.runtimes import largest_difference, open_onnx, run_detector
from padim_lit.model.resnetv2 import ResNetV2

GREY = torch.full((1, 3, 224, 224), 0.5)
#: What GluonCV calls each tensor of a batch norm.
NORM = ("gamma", "beta", "running_mean", "running_var")


def gluon_names():
    """Names as in the published file, in the order of the layers."""

    def norm(where):
        return [f"{where}_{tensor}" for tensor in NORM]

    names = [*norm("batchnorm0"), "conv0_weight", *norm("batchnorm1")]
    for stage, blocks in ((1, 3), (2, 4), (3, 6)):
        convolution = itertools.count()
        for block in range(blocks):
            for place in range(3):
                names += norm(f"stage{stage}_batchnorm{3 * block + place}")
                names.append(f"stage{stage}_conv{next(convolution)}_weight")
            if block == 0:
                names.append(f"stage{stage}_conv{next(convolution)}_weight")
    return [*names, *norm("stage4_batchnorm0")]


def test_each_name_of_the_file_has_its_tensor():
    ours = [k for k in ResNetV2().state_dict() if not k.endswith("num_batches_tracked")]
    renamed = list(ResNetV2.from_file(dict.fromkeys(gluon_names(), torch.zeros(1))))
    assert sorted(renamed) == sorted(ours)
    # Layers are applied in the order of their names, and so lie in the state dict.
    assert [k for k in renamed if "norm" not in k] == [k for k in ours if "norm" not in k]
    assert list(ResNetV2.from_file({"fc.weight": 0})) == ["fc.weight"]


def test_forward_is_what_the_paper_says():
    """He et al. 2016, by hand: x + F(x), with batch norm and ReLU before each convolution."""
    torch.manual_seed(0)
    net = ResNetV2().double().eval()
    for module in net.modules():  # batch norms that are not the identity
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var, module.running_mean, module.bias):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
    state = net.state_dict()

    def norm(x, at):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{at}.{key}"] for key in keys))

    def conv(x, at, stride=1):
        weight = state[f"{at}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = torch.rand(2, 3, 64, 64, dtype=torch.double)
    expected = norm(conv(norm(x, "stem.0"), "stem.1", 2), "stem.2.0").relu()
    expected = F.max_pool2d(expected, 3, 2, 1)
    for stage, blocks in ((1, 3), (2, 4), (3, 6)):
        for u in range(blocks):
            at = f"stage{stage}.{u}"
            stride = 2 if u == 0 and stage > 1 else 1
            r = norm(expected, f"norm{stage}.0" if u == 0 else f"{at}.norm0.0").relu()
            shortcut = conv(r, f"{at}.conv3", stride) if u == 0 else expected
            r = norm(conv(r, f"{at}.conv0"), f"{at}.norm1.0").relu()
            r = norm(conv(r, f"{at}.conv1", stride), f"{at}.norm2.0").relu()
            expected = conv(r, f"{at}.conv2") + shortcut
    with torch.no_grad():
        torch.testing.assert_close(net(x), norm(expected, "norm4.0").relu())


def test_the_published_file_gives_the_published_features(resnet50v2_weights):
    backbone = Backbone("resnet50v2", [1, 2, 3], str(resnet50v2_weights))
    assert backbone.embedding_dim == 1792
    assert backbone.source == "file resnet50v2_stages123.safetensors"
    check = json.loads((resnet50v2_weights.parent / "check.json").read_text())
    for features, expected in zip(backbone(GREY), check.values(), strict=True):
        assert list(features.shape) == expected["shape"]
        assert features.mean().item() == pytest.approx(expected["mean"], rel=1e-5)
        assert features.std().item() == pytest.approx(expected["std"], rel=1e-5)


@pytest.mark.parametrize("missing", ["stage3_conv18_weight", "stage4_batchnorm0_running_var"])
def test_a_file_that_lacks_a_tensor_is_refused_by_name(tmp_path, missing):
    tensors = ResNetV2().state_dict()
    ours_by_name = {n: next(iter(ResNetV2.from_file({n: torch.zeros(1)}))) for n in gluon_names()}
    state = {name: tensors[ours].clone() for name, ours in ours_by_name.items()}
    save_file(state, tmp_path / "whole.safetensors")
    assert Backbone("resnet50v2", weights=str(tmp_path / "whole.safetensors")).embedding_dim == 1792
    del state[missing]
    save_file(state, tmp_path / "less.safetensors")
    (ours,) = ResNetV2.from_file({missing: torch.zeros(1)})
    with pytest.raises(
        InputError, match=rf"less.safetensors: .*1 of 211 tensors .*{ours}"
    ) as caught:
        Backbone("resnet50v2", weights=str(tmp_path / "less.safetensors"))
    assert "\n" not in str(caught.value)


def test_without_a_file_one_line_says_what_to_give():
    with pytest.raises(InputError, match=r"resnet50v2 has no weights to fetch: .*weights=FILE"):
        Backbone("resnet50v2")


@pytest.fixture(scope="module")
def fitted():
    backbone = Backbone("resnet50v2", [1, 2, 3], "random")
    detector = Detector(backbone, JL(1792, 12), image_shape=(64, 48), **paper(12))
    images = torch.rand(20, 3, 64, 48, generator=torch.Generator().manual_seed(1))
    fit_on_images(detector, images)
    return detector.eval()


def test_a_checkpoint_rebuilds_it(fitted, tmp_path):
    save_detector(fitted, tmp_path / "model.ckpt")
    again = load_detector(tmp_path / "model.ckpt")
    assert spec_of(again) == spec_of(fitted)
    images = torch.rand(3, 3, 64, 48)
    for ours, expected in zip(again(images), fitted(images), strict=True):
        assert torch.equal(ours, expected)
    explanation = Predictor(again, image_size=[64, 48], device="cpu").explain(images[0])
    assert [name[:7] for name in explanation.layers] == ["layer 1", "layer 2", "layer 3"]
    assert sum(explanation.layers.values()) == pytest.approx(1)


@pytest.mark.slow
def test_it_is_exported_to_onnx(fitted, tmp_path):
    images = torch.rand(2, 3, 64, 48)
    export_onnx(fitted, tmp_path / "model.onnx", metadata(fitted, None, "fp32", False))
    found = open_onnx(tmp_path / "model.onnx", 1)(images.numpy())
    for name, expected in run_detector(fitted)(images.numpy()).items():
        assert largest_difference(found[name], expected) < 1e-4


@pytest.mark.slow
def test_one_pass_over_the_images_serves_it(tmp_path, zygote):
    build_tree(tmp_path / "data", train=6, test={"good": 2, "crack": 2})
    words = [word for word in TINY_SWEEP if not word.startswith("backbone=")]
    result = zygote.run(
        [*words, "experiment=ablation", "backbone=resnet50v2", "projs=[jl]", "dims=[4,8]",
         "seeds=[0]", "resamples=0"], tmp_path
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "1792" in (tmp_path / "run" / "rows.json").read_text()
