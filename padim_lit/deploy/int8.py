"""A fitted detector whose convolutions are INT8.

Rounding to eight bits moves features by more than good patches vary in some directions, so the
Gaussians are fitted anew, on the features of the rounded network.
"""

from collections.abc import Iterable
from copy import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from padim_lit import digests
from padim_lit.deploy.calibration import BY_HAND, set_threshold
from padim_lit.deploy.combine import gather
from padim_lit.deploy.graph import first_step
from padim_lit.deploy.over_images import Loop, over_images
from padim_lit.deploy.runtimes import open_session, require, to_onnx
from padim_lit.errors import InputError
from padim_lit.model.backbone import Backbone
from padim_lit.model.detector import Detector
from padim_lit.model.warm_up import evenly_spaced
from padim_lit.system.console import quiet

# Good images from which the ranges of the activations are taken.
RANGE_IMAGES = 64
# Convolutions with maps finer than this stride stay in float32: they have few weights, and their
# errors reach all others.
FINEST_STRIDE = 4


class Int8Backbone(Backbone):
    """A backbone that is an ONNX graph with INT8 convolutions, run by onnxruntime.

    Args:
        backbone: the one that it stands for.
        graph: a ModelProto with input ``image`` and an output for each layer.
        pixels: whether ``image`` is uint8 (B,h,w,3) instead of float32 (B,3,h,w) in [0, 1].
        threads: that onnxruntime uses.

    >>> Int8Backbone(detector.backbone, graph, pixels=False, threads=1)  # doctest: +SKIP
    """

    def __init__(self, backbone: Backbone, graph: Any, pixels: bool, threads: int):
        self.__dict__.update(vars(backbone))  # it shares the layers and all attributes
        self.graph, self.pixels = graph, pixels
        self.session = open_session(graph.SerializeToString(), threads)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.session.run(None, {"image": as_given(images, self.pixels)})
        return [torch.from_numpy(m) for m in maps]


def example(detector: Detector, preprocess: bool) -> Tensor:
    """Return an example of the input of `detector`'s graph.

    It has two images, because the exporter takes a batch of one for a constant.

    >>> example(detector, preprocess=True).shape
    torch.Size([2, 64, 64, 3])
    """
    return torch.from_numpy(as_given(torch.zeros(2, 3, *detector.image_shape), preprocess))


def as_given(images: Tensor, pixels: bool) -> np.ndarray:
    """Return images (B,3,h,w) in [0, 1] as they are, or with `pixels` as uint8 (B,h,w,3).

    >>> as_given(torch.ones(1, 3, 2, 2), pixels=True)[0, 0, 0].tolist()
    [255, 255, 255]
    """
    if pixels:
        images = (images * 255).round().byte().permute(0, 2, 3, 1)
    return np.ascontiguousarray(images.numpy())


def int8(detector: Detector, dataset: Dataset, preprocess: bool, what: str) -> Detector:
    """Return `detector` with INT8 convolutions, and Gaussians and threshold fitted again.

    Projection and centroids are kept.

    Args:
        detector: fitted, on the CPU; it stays what it is.
        dataset: good images: samples with ``image``, ``digest`` and ``path``.
        preprocess: see `padim_lit.deploy.graph.Graph`.
        what: names the images in messages.

    Raises:
        InputError: too few images, the same one twice, or no convolution to round.

    >>> int8(detector, good_images, False, "images")  # doctest: +SKIP
    """
    backbone, threads = detector.backbone, torch.get_num_threads()
    count = len(dataset)  # type: ignore[arg-type]
    some = [dataset[i]["image"][None] for i in evenly_spaced(count, RANGE_IMAGES)]
    given = [{"image": as_given(image, preprocess)} for image in some]
    maps = [f"map{i}" for i in range(len(backbone.layers))]
    whole, image = nn.Sequential(first_step(preprocess), backbone), example(detector, preprocess)
    graph = to_onnx(whole, {"image": image}, maps, backbone.name)
    rounded = Int8Backbone(backbone, _round(graph, given, detector), preprocess, threads)

    found = copy(detector)
    found._modules = {**detector._modules, "backbone": rounded}
    found._buffers = dict(detector._buffers)
    loop = Loop(torch.device("cpu"), 8)
    state = over_images(found, dataset, lambda batches: gather(found, batches), loop, "int8")
    if twice := digests.repeats(state.digests):
        raise InputError(f"{what}: {twice} images are the same picture as another; give each once")
    found.set_state(state)
    calibration = detector.calibration
    if calibration is None or calibration.method == BY_HAND:
        found.calibration = calibration
    else:
        set_threshold(found, dataset, count, calibration.false_alarm_rate, loop, in_order=False)
    return found


def _round(graph: Any, images: Iterable[dict[str, np.ndarray]], detector: Detector) -> Any:
    """Return a ModelProto whose convolutions have INT8 weights, with one scale a channel.

    Args:
        graph: a ModelProto.
        images: its inputs, one by one, from which the ranges of its maps are taken.
        detector: whose backbone the graph is.
    """
    onnx, quantization = require("onnx", "onnx", "onnxruntime.quantization")
    graph = onnx.shape_inference.infer_shapes(graph)
    heights = {
        value.name: value.type.tensor_type.shape.dim[2].dim_value
        for value in (*graph.graph.value_info, *graph.graph.output)
        if len(value.type.tensor_type.shape.dim) == 4
    }
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    backbone = detector.backbone
    height, _ = backbone.net_shape(detector.image_shape)
    fine = [
        node.name
        for node in convolutions
        if FINEST_STRIDE * heights.get(node.output[0], height) > height
    ]
    if len(fine) == len(convolutions):
        raise InputError(
            f"precision=int8: backbone {backbone.name} has no convolutions at stride "
            f"{FINEST_STRIDE} or more to round; use precision=fp16"
        )
    reader = iter(images)

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(reader, None)

    # Quiet: onnxruntime advises to prepare the graph, which the exporter has done.
    with TemporaryDirectory() as folder, quiet("root"):
        path = Path(folder) / "int8.onnx"
        quantization.quantize_static(
            graph,
            path,
            Reader(),
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=fine,
            per_channel=True,
            # Seven bits: products of eight overflow on processors without VNNI.
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
            # Maps are rounded where a convolution reads them, not where the detector does.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Conv"]},
        )
        return onnx.load(path)
