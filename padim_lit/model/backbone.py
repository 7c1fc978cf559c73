"""Frozen feature extractor: images (B,3,h,w) → a list of feature maps (B,C_l,H_l,W_l)."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from padim_lit.errors import InputError, as_pair, refusing
from padim_lit.model.folding import fold
from padim_lit.model.tiles import as_tiles, by_tiles, layout
from padim_lit.model.weights import architecture, fingerprint, load_weights, registered, timm
from padim_lit.system.console import quiet

#: How far from [0, 1] an image's values may lie, as a resize with rounding leaves them.
ROUNDING = 0.001
# Where timm reads features with hooks, all threads' features would mix in one dictionary.
_ONE_AT_A_TIME = threading.Lock()
# What timm sets only with pretrained weights; from a checkpoint a model is made without them.
_AS_TRAINED: dict[str, dict[str, Any]] = {"fbnetc_100": {"bn_eps": 1e-3}}


@contextmanager
def _made_in_float32() -> Iterator[None]:
    """Make weights in float32, whatever default dtype or autocast the caller has set."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_default_dtype(before)


class Backbone(nn.Module):
    """Any timm model that offers ``features_only``, frozen, with its normalisation of images.

    Args:
        model: timm model name (``wide_resnet50_2.tv_in1k``), or ``hf-hub:OWNER/NAME``.
        layers: indices into timm's ``feature_info`` (for a ResNet 1, 2, 3 are layer1 to layer3);
            None takes the stages of stride 4 to 16, and for one-stride models (vision
            transformers) what timm itself picks, the last blocks.
        weights: ``pretrained``, ``random`` or the path of a state dict; a classifier in it is not
            used, and may be missing.
        feature_location: of EfficientNets ``bottleneck``, a block's narrow output ("block outputs"
            in the docs), or ``expansion``, the wide tensor inside it; None leaves timm's default.
        name: short name for tables; the model's name by default.
        mean, std: a number for each colour, by which images in [0, 1] are normalised; None: those
            that the weights were trained with, as far as timm knows.
        img_size: (h, w) to which timm adapts a model that is made for one size of image; None: any
            size where the model can take it, else the one it was trained for.
        tiles: a number for both sides, or [rows, columns]: so many overlapping tiles of an image
            are run through one by one, and their maps joined, see `padim_lit.model.tiles`.
        seed: draws the weights when they are ``random``.
        state: a checkpoint's state dict of the extractor; `weights` is then only the text that
            describes it.

    Attributes:
        channels: C_l of each layer. ``embedding_dim`` is their sum, C.
        strides: of each layer, in pixels.
        source: one line on where the weights came from.

    Raises:
        InputError: unknown model or layer, weights that cannot be had or do not fit.

    >>> backbone = Backbone('test_resnet', layers=[1, 2], weights='random')
    >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 64))]
    [(1, 32, 16, 16), (1, 48, 8, 8)]
    """

    net: Any  # timm's extractor, whose feature_info nn.Module does not know of
    pixel_mean: Tensor
    pixel_std: Tensor

    @_made_in_float32()
    @torch.random.fork_rng(devices=())  # timm draws weights before it loads them
    def __init__(
        self,
        model: str,
        layers: Sequence[int] | None = None,
        weights: str = "pretrained",
        feature_location: str | None = None,
        name: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        img_size: Sequence[int] | None = None,
        tiles: int | Sequence[int] = 1,
        seed: int = 0,
        state: dict[str, Tensor] | None = None,
    ):
        super().__init__()
        if not isinstance(model, str):
            raise InputError(
                f"{type(model).__name__} is no name of a timm model; of a network of your own give "
                "the name that timm has for it, and its state dict's file, as in "
                "Backbone('resnet18', [1, 2, 3], weights='resnet18.pt') (docs/own.md)"
            )
        own, base = ((cls.forward, cls._features) for cls in (type(self), Backbone))
        if own != base:
            raise InputError(
                f"{type(self).__name__} has a forward of its own, which no checkpoint would know: "
                "let the net do it, as an architecture of your own that timm knows (docs/own.md)"
            )
        self.name = name or model
        if state is None:
            full_state, self.source = load_weights(model, weights, seed)
            # What a checkpoint names is timm's own: reading one contacts no hub.
            self.model, config = architecture(model)
        else:
            full_state, self.source = None, weights
            self.model, config = model, registered(model)
        self.feature_location = feature_location
        self.mean = _colours("mean", mean or config["mean"])
        self.std = _colours("std", std or config["std"])
        self.tiles = as_tiles(tiles)
        size = img_size or config.get("img_size")
        self.img_size = None if size is None else as_pair("backbone.img_size", size, 4096)
        self.options = _size_options(self.model, self.feature_location, self.img_size)
        self.layers = _select_layers(self.model, layers, self.options)
        if state is not None:
            _require_state(self.model, self.layers, self.options, state)
        self.net = _feature_net(self.model, self.layers, self.options, full_state)
        if state is not None:
            self.net.load_state_dict(state)
        self.hooked = any(
            isinstance(part, timm.models.FeatureHooks)
            for module in self.net.modules()
            for part in vars(module).values()
        )
        #: Whether the net gives (B,H_l,W_l,C_l), as some transformers do.
        self.channels_last: bool = getattr(self.net, "output_fmt", "NCHW") == "NHWC"
        self.source_sha256 = fingerprint(self.net.state_dict())
        self.channels: list[int] = self.net.feature_info.channels()
        self.strides: list[int] = self.net.feature_info.reduction()
        self.register_buffer("pixel_mean", torch.tensor(self.mean).view(1, 3, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(self.std).view(1, 3, 1, 1), False)
        # Twice as fast on a CPU and faster on tensor cores; values are unchanged.
        self.net.to(memory_format=torch.channels_last)
        self.eval()
        height, width = self.img_size or config["input_size"][-2:]
        fold(self.net, (height, width))

    @property
    def embedding_dim(self) -> int:
        """C, the channels of all layers together."""
        return sum(self.channels)

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in eval mode, in which batch norms do not adapt to the images."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of RGB images in [0, 1].

        Args:
            images: (B,3,h,w).

        Returns:
            One (B,C_l,H_l,W_l) per layer, in the order of `layers`.
        """
        x = (images.float() - self.pixel_mean).div_(self.pixel_std)
        if self.tiles == [1, 1]:
            return self._features(x)
        return by_tiles(self._features, x, self.tiles, self.strides)

    def _features(self, x: Tensor) -> list[Tensor]:
        with _ONE_AT_A_TIME if self.hooked else nullcontext():
            maps = self.net(x.contiguous(memory_format=torch.channels_last))
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else maps

    def require_images(self, images: Tensor, image_shape: tuple[int, int]) -> None:
        """Raise InputError unless `images` are (B,3,h,w) of that shape, with values in [0, 1]."""
        shape, (h, w) = tuple(images.shape), image_shape
        right = shape[1:] == (3, h, w) and shape[0] and images.is_floating_point()
        # One wait for a GPU.
        low, high = torch.stack(images.aminmax()).tolist() if right else (-math.inf, math.inf)
        if low < -ROUNDING or high > 1 + ROUNDING:
            values = f" from {low:g} to {high:g}" if right else ""
            raise InputError(
                f"images are {images.dtype} {shape}{values}; this model takes a batch of RGB "
                f"images (B,3,{h},{w}), floats in [0, 1], and normalises them itself: give it such "
                "(bytes: images.float() / 255), or fit another with PaDiM(..., image_shape=(h, w))"
            )

    def net_shape(self, image_shape: tuple[int, int]) -> tuple[int, int]:
        """Return (h, w) of what the net sees at once: an image of `image_shape`, or a tile."""
        height, width = as_pair("image_shape", image_shape, 2**16)
        if self.tiles == [1, 1]:
            return height, width
        (row, *_), (column, *_) = layout(image_shape, self.tiles, self.strides)
        return row.stop, column.stop

    def grids(self, image_shape: tuple[int, int]) -> list[tuple[int, int]]:
        """Return (H_l, W_l) of each layer for images of (h, w) pixels, by running one blank image.

        Raises:
            InputError: the model refuses this size (some transformers have a fixed one), or would
                not see all of it.
        """
        device = self.pixel_mean.device
        height, width = self.net_shape(image_shape)
        what = f"backbone {self.name} cannot take images of {height}×{width} pixels"
        for part in self.net.modules():
            # timm checks this only without img_size; with it, it cuts off what fills no patch.
            if isinstance(part, timm.layers.PatchEmbed) and not part.dynamic_img_pad:
                rows, columns = part.patch_size
                if height % rows or width % columns:
                    raise InputError(
                        f"{what}: its patches are {rows}×{columns}, so it would not see all of "
                        "them; set image_size to multiples of these, with crop_size=null, and "
                        "backbone.img_size too if that is set or the model's size is fixed"
                    )
        todo = (
            "set image_size and crop_size to what it was made for, or try "
            f"backbone.img_size=[{height},{width}]"
        )
        with refusing(what, todo, AssertionError, LookupError, RuntimeError, ValueError):
            maps = self(torch.zeros(1, 3, *image_shape, device=device))
        if [m.shape[1] for m in maps] != self.channels:
            raise InputError(
                f"backbone {self.name} gives other channels than the {self.channels} that timm "
                "declares; take another model"
            )
        return [tuple(m.shape[-2:]) for m in maps]

    def spec(self) -> dict:
        """Return the arguments, as primitives, that rebuild this extractor around a saved state."""
        return {
            "model": self.model,
            "layers": list(self.layers),
            "weights": self.source,
            "feature_location": self.feature_location,
            "name": self.name,
            "mean": self.mean,
            "std": self.std,
            "img_size": self.img_size,
            "tiles": self.tiles,
        }


def _colours(key: str, values: Sequence[float]) -> list[float]:
    """Return three numbers, for red, green and blue; raise InputError unless they are in [0, 1]."""
    found = [float(value) for value in values]
    lowest = 0 if key == "mean" else 1e-6
    if len(found) != 3 or not all(lowest <= value <= 1 for value in found):
        raise InputError(
            f"backbone.{key}={found}: must be three numbers, for red, green and blue in [0, 1]"
        )
    return found


def _create(model: str, options: dict[str, Any], pretrained: bool = False, **more: Any) -> Any:
    given = ", ".join(f"{key}={value}" for key, value in options.items()) or "no options"
    what = f"backbone {model}: timm offers no features_only extractor for it with {given}"
    todo = "take another model"
    if "feature_location" in options:
        todo = f"set another (EfficientNets have bottleneck and expansion), or {todo}"
    if "img_size" in options:
        todo = "leave img_size out and give images of the size that it was made for"
    kinds = AttributeError, LookupError, TypeError, ValueError, AssertionError, RuntimeError
    with refusing(what, todo, *kinds):
        return timm.create_model(model, pretrained, features_only=True, **options, **more)


def _size_options(
    model: str, feature_location: str | None, img_size: list[int] | None
) -> dict[str, Any]:
    """Return timm's options: for `img_size`, else for any size, else for the model's own."""
    options = dict(_AS_TRAINED.get(model.partition(".")[0], {}))
    if feature_location is not None:
        options["feature_location"] = feature_location
    if img_size is not None:
        return {**options, "img_size": tuple(img_size)}
    # Swins first: before timm 1.0.31 they take dynamic_img_size too, and do not do what it says.
    for any_size in ({"strict_img_size": False}, {"dynamic_img_size": True}):
        if _sketch(_create, model, options | any_size) is not None:
            return options | any_size
    return options


def _sketch(make: Callable[..., Any], *given: Any) -> Any:
    """Return what `make` makes, without memory for weights; None where that cannot be done."""
    try:
        with torch.device("meta"):
            return make(*given)
    except InputError:
        return None


def _select_layers(model: str, layers: Sequence[int] | None, options: dict[str, Any]) -> list[int]:
    net = _sketch(_create, model, options)
    if net is None:  # it cannot be made without memory
        net = _create(model, options)
    info = net.feature_info.get_dicts()
    blocks = len(getattr(getattr(net, "model", None), "blocks", None) or ())
    if blocks and len({d["reduction"] for d in info}) == 1:  # then info has the last blocks only
        available: Sequence[int] = range(blocks)
        default = net.feature_info.out_indices
        described = f"0 to {blocks - 1} (transformer blocks)"
    else:
        available = [d.get("index", i) for i, d in enumerate(info)]
        stages = list(zip(available, info, strict=True))
        default = [i for i, d in stages if 4 <= d["reduction"] <= 16]
        described = ", ".join(
            f"{i} ({d['module']}, {d['num_chs']} channels, stride {d['reduction']})"
            for i, d in stages
        )
    if layers is None:
        return [int(i) for i in default]
    unknown = [i for i in layers if i not in available]
    if unknown or not layers or len(set(layers)) != len(layers):
        what = f"no layer {unknown[0]}" if unknown else f"layers={list(layers)} is empty or repeats"
        raise InputError(f"backbone {model}: {what}; its layers are {described}")
    return sorted(int(i) for i in layers)


def _require_state(
    model: str, layers: list[int], options: dict[str, Any], state: dict[str, Tensor]
) -> None:
    """Raise RuntimeError where a state is another model's, before memory is taken for weights."""
    net = _sketch(_feature_net, model, layers, options, None)
    if net is not None:
        with quiet():  # torch warns that nothing is copied
            net.load_state_dict(state)


def _feature_net(
    model: str, layers: list[int], options: dict[str, Any], state: dict[str, Tensor] | None
) -> Any:
    chosen = tuple(layers)
    if state is None:
        net = _create(model, options, out_indices=chosen)
    else:
        # Given to timm in place of a download, so that it maps keys for features_only, and resizes
        # position embeddings to img_size. The state was checked against the whole model before;
        # timm would warn of the classifier, which is left out on purpose.
        with quiet("timm.models._builder"):
            own = {"state_dict": state}
            net = _create(model, options, True, out_indices=chosen, pretrained_cfg_overlay=own)
    if isinstance(getattr(net, "blocks", None), nn.Sequential):
        # EfficientNets and MobileNets run their last stages even when nobody asked for them.
        modules = [info["module"].split(".") for info in net.feature_info.get_dicts()]
        last = max((int(part[1]) for part in modules if part[0] == "blocks"), default=-1)
        del net.blocks[last + 1 :]
    return net
