"""ResNet50-v2 up to its third stage, for the weights that GluonCV trained on ImageNet.

timm's ``resnetv2_50`` differs in details, and these weights do not fit it. Here ``resnet50v2`` is
registered with timm, and is then a model like any other.
"""

import re
from collections.abc import Mapping

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

#: Blocks and channels of each stage.
STAGES = ((3, 256), (4, 512), (6, 1024))


class Block(nn.Module):
    """Pre-activation bottleneck: x + conv₂ρ₂conv₁ρ₁conv₀(r) with r = ρ₀(x), ρ = ReLU ∘ batch norm.

    A stage's first block changes the shape: it adds a 1×1 convolution of r instead of x. It needs r
    alone, so its ρ₀ stands before the stage, where features are read.

    Args:
        channels: of the input.
        width: channels of the output; inside there are a quarter of these.
        stride: of the 3×3 convolution of a stage's first block; None for the others.

    >>> import torch
    >>> Block(64, 256, stride=2)(torch.rand(1, 64, 8, 8)).shape
    torch.Size([1, 256, 4, 4])
    """

    def __init__(self, channels: int, width: int, stride: int | None = None):
        super().__init__()
        narrow, first = width // 4, stride is not None
        self.norm0 = nn.Identity() if first else _norm(channels)
        self.conv0 = nn.Conv2d(channels, narrow, 1, bias=False)
        self.norm1 = _norm(narrow)
        self.conv1 = nn.Conv2d(narrow, narrow, 3, stride or 1, padding=1, bias=False)
        self.norm2 = _norm(narrow)
        self.conv2 = nn.Conv2d(narrow, width, 1, bias=False)
        self.conv3 = nn.Conv2d(channels, width, 1, stride, bias=False) if first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return (B,width,H/stride,W/stride) of (B,C,H,W)."""
        r = self.conv0(self.norm0(x))
        r = self.conv1(self.norm1(r))
        return self.conv2(self.norm2(r)) + self.conv3(x)


class ResNetV2(nn.Module):
    """Batch norm of the pixels, 7×7 convolution, max pool, three stages; no stage 4, no classifier.

    Features are read after the next stage's ρ₀ (``norm2`` to ``norm4``): the sums that leave a
    stage are not normalised.

    >>> import torch
    >>> ResNetV2().eval()(torch.rand(1, 3, 64, 64)).shape
    torch.Size([1, 1024, 4, 4])
    """

    def __init__(self, in_chans: int = 3, **_: object):
        super().__init__()
        convolution = nn.Conv2d(in_chans, 64, 7, stride=2, padding=3, bias=False)
        self.stem = nn.Sequential(nn.BatchNorm2d(in_chans), convolution, _norm(64))
        self.feature_info = [{"num_chs": 64, "reduction": 2, "module": "stem"}]
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.norm1 = _norm(64)
        channels, reduction = 64, 4
        for stage, (blocks, width) in enumerate(STAGES, start=1):
            stride = 1 if stage == 1 else 2
            rest = [Block(width, width) for _ in range(blocks - 1)]
            self.add_module(f"stage{stage}", nn.Sequential(Block(channels, width, stride), *rest))
            self.add_module(f"norm{stage + 1}", _norm(width))
            channels, reduction = width, reduction * stride
            info = {"num_chs": width, "reduction": reduction, "module": f"norm{stage + 1}"}
            self.feature_info.append(info)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B,1024,h/16,w/16) of normalised images (B,3,h,w)."""
        for part in self.children():
            x = part(x)
        return x

    @staticmethod
    def from_file(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a file with GluonCV's names under the names that they have here."""
        return {_here(name): tensor for name, tensor in state.items()}


def _norm(channels: int) -> nn.Sequential:
    """Return ρ: batch norm, then ReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


_STEM = {"batchnorm0": "stem.0", "conv0": "stem.1", "batchnorm1": "stem.2.0"}
_GLUON = re.compile(r"(?:stage(\d)_)?((batchnorm|conv)(\d+))_(gamma|beta|weight|running_\w+)")
_TENSOR = {"gamma": "weight", "beta": "bias"}


def _here(name: str) -> str:
    """Return our name for GluonCV's; any other stays as it is."""
    if not (found := _GLUON.fullmatch(name)):
        return name
    stage, layer, kind, digits, tensor = found.groups()
    number = int(digits)
    if stage is None:
        place = _STEM.get(layer, layer)
    elif layer == "batchnorm0":
        place = f"norm{stage}.0"
    elif kind == "batchnorm":
        place = f"stage{stage}.{number // 3}.norm{number % 3}.0"
    else:  # four convolutions in the first block, three in the others
        block = (number - 1) // 3 if number > 3 else 0
        place = f"stage{stage}.{block}.conv{number - 3 * block - (block > 0)}"
    return f"{place}.{_TENSOR.get(tensor, tensor)}"


# How GluonCV normalised images in training.
_AS_TRAINED = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
default_cfgs = generate_default_cfgs({"resnet50v2": {"input_size": (3, 224, 224), **_AS_TRAINED}})


@register_model
def resnet50v2(pretrained: bool = False, **options: object) -> nn.Module:
    """Make the model; timm calls this by its name.

    >>> len(resnet50v2().feature_info)
    4
    """
    stages = {"out_indices": (0, 1, 2, 3)}
    return build_model_with_cfg(ResNetV2, "resnet50v2", pretrained, feature_cfg=stages, **options)
