"""What times are divided by: the backbone's forward pass alone, as timm runs it."""

import copy

from padim_lit.model.backbone import Backbone
from padim_lit.model.folding import unfold


def as_timm_runs_it(backbone: Backbone) -> Backbone:
    """A copy whose batch norms run by themselves: to fold them is a part of what is compared."""
    alone = copy.deepcopy(backbone)
    unfold(alone.net)
    return alone
