"""Where users' own backbones find theirs: see `padim_lit.model.backbone`."""

from padim_lit.model.backbone import Backbone as Backbone
