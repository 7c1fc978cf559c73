"""An architecture of one's own: what timm knows, padim_lit knows.

python run.py --config-dir examples/conf own=[examples] backbone=plain_cnn backbone.weights=FILE
"""

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from padim_lit import Backbone


class PlainCNN(nn.Module):
    """Four stages of stride 2, and a head that is not used here."""

    def __init__(self, num_classes: int = 10, in_chans: int = 3, **_):
        super().__init__()
        self.feature_info, width = [], in_chans
        for number, wide in enumerate((16, 32, 64, 128)):
            stage = nn.Sequential(
                nn.Conv2d(width, wide, 3, stride=2, padding=1), nn.BatchNorm2d(wide), nn.ReLU()
            )
            setattr(self, f"stage{number}", stage)
            info = {"num_chs": wide, "reduction": 2 ** (number + 1), "module": f"stage{number}"}
            self.feature_info.append(info)
            width = wide
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(4):
            x = getattr(self, f"stage{number}")(x)
        return self.head(x.mean(dim=(2, 3)))


# How its training normalised images, and which layer is not used; the rest as timm asks for.
default_cfgs = generate_default_cfgs(
    {
        "plain_cnn": {
            "input_size": (3, 224, 224),
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
            "classifier": "head",
        }
    }
)


@register_model
def plain_cnn(pretrained: bool = False, **options) -> nn.Module:
    """timm's name for it."""
    stages = {"out_indices": (0, 1, 2, 3)}
    return build_model_with_cfg(PlainCNN, "plain_cnn", pretrained, feature_cfg=stages, **options)


class PlainBackbone(Backbone):
    """What the config names, so that this file is imported first."""
