"""What times are divided by: the backbone's forward pass alone, as timm runs it."""

import copy

import timm
import torch

from padim_lit.model.backbone import Backbone
from padim_lit.model.folding import unfold


def as_timm_runs_it(backbone: Backbone) -> Backbone:
    """A copy with timm's batch norms and convolutions: what ours save is a part of the comparison.

    It stops where ours does, after the last layer whose features are read.
    """
    alone = copy.deepcopy(backbone)
    unfold(alone.net)
    return alone


def as_timm_makes_it(backbone: Backbone) -> Backbone:
    """The same with all stages that timm's own extractor runs, some of whose features nobody reads.

    Those stages have random weights.
    """
    whole = copy.deepcopy(backbone)
    whole.net = timm.create_model(
        backbone.model, features_only=True, out_indices=backbone.layers, **backbone.options
    )
    missing, unexpected = whole.net.load_state_dict(backbone.net.state_dict(), strict=False)
    if unexpected or not all(name.startswith("blocks.") for name in missing):
        raise RuntimeError(f"{backbone.name} is another network: {unexpected + missing}")
    whole.net.to(backbone.pixel_mean.device, memory_format=torch.channels_last).eval()
    return whole
