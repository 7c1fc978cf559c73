"""Files of a fitted detector for other runtimes (ONNX, OpenVINO), or slim ones for torch."""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from padim_lit.checkpoint.format import KEY, read
from padim_lit.checkpoint.state import facts_of, save_detector, slim_state
from padim_lit.data.transform import ResizeCrop
from padim_lit.deploy.graph import OUTPUTS, Graph
from padim_lit.deploy.int8 import Int8Backbone, example
from padim_lit.deploy.runtimes import joined, require, to_onnx
from padim_lit.errors import InputError
from padim_lit.model.detector import Detector
from padim_lit.version import __version__

#: By format=NAME the suffixes of its files; the first is the one to open.
FORMATS = {"onnx": (".onnx",), "openvino": (".xml", ".bin"), "torch": (".ckpt",)}
#: By precision=NAME the dtype of the whitening in a slim checkpoint.
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.int8}
#: The key under which a file's metadata lie, as JSON.
METADATA = "padim_lit"
# What fp16 rounds: nearly all bytes. Means and Π stay in float32: they are small, and rounding them
# would move every distance.
ROUNDED_TO_FP16 = re.compile(r"scores\.parts\.\d+\.whitening|backbone\.net\.")
# Protocol buffers, of which ONNX is made, end at 2 GiB.
ONNX_BYTES = 2**31 - 2**20


def metadata(
    detector: Detector, threshold: float | None, precision: str, preprocess: bool
) -> dict[str, Any]:
    """Return what a program that uses the file has to know, as primitives.

    ``resize`` is the shorter side in pixels (int) or an exact [h, w] to which an image is brought
    before the centre crop to ``image_shape``; None where the checkpoint does not say.

    >>> about = metadata(detector, threshold=3.0, precision="fp32", preprocess=False)
    >>> about["image_shape"], about["dim"], about["threshold"]
    ([64, 64], 8, 3.0)
    """
    provenance = detector.provenance
    resize = None
    if "image_size" in provenance:
        resize = ResizeCrop(provenance["image_size"], provenance["crop_size"]).resize
    return {
        "version": __version__,
        "data": provenance.get("data"),
        **facts_of(detector),
        "image_size": provenance.get("image_size"),
        "crop_size": provenance.get("crop_size"),
        "resize": list(resize) if isinstance(resize, tuple) else resize,
        "image_shape": list(detector.image_shape),
        "train_images": detector.count,
        "threshold": threshold,
        "precision": precision,
        "preprocess": preprocess,
    }


def export_onnx(detector: Detector, path: Path, about: dict[str, Any]) -> None:
    """Write one ONNX graph: ``image`` in, ``score``, ``map`` and, with a threshold, ``decision``.

    The batch size is free. fp16 stores the whitening factors and the backbone's weights in 16 bits,
    and computes in float32.

    Args:
        detector: fitted, on the CPU.
        path: of the file.
        about: what `metadata` gives. Its threshold makes the decision; its precision is "fp32",
            "fp16", or "int8" for a detector of `padim_lit.deploy.int8`; preprocess: see `Graph`.

    Raises:
        InputError: a package is missing, the backbone cannot be exported, a number is beyond fp16,
            or the file would be beyond 2 GiB.

    >>> about = metadata(detector, None, "fp32", False)
    >>> export_onnx(detector, Path("model.onnx"), about)  # doctest: +SKIP
    """
    path.write_bytes(_onnx_content(detector, about))


def _onnx_content(detector: Detector, about: dict[str, Any]) -> bytes:
    """Return what `export_onnx` writes.

    A backbone with INT8 convolutions is an ONNX graph already, to which the rest is joined.
    """
    onnx, _ = require("onnx", "onnx", "onnxscript")
    graph = Graph(detector, about["threshold"], about["preprocess"]).eval()
    require_room(graph, about["precision"])
    outputs = OUTPUTS if about["threshold"] is not None else OUTPUTS[:-1]
    name = detector.backbone.name
    if isinstance(backbone := detector.backbone, Int8Backbone):
        maps = [output.name for output in backbone.graph.graph.output]
        features = backbone(torch.zeros(2, 3, *detector.image_shape))
        given = dict(zip(maps, features, strict=True))
        model = joined(backbone.graph, to_onnx(graph.scores, given, outputs, name))
    else:
        given = {"image": example(detector, about["preprocess"])}
        model = to_onnx(graph, given, outputs, name)
    for node in model.graph.node:  # the exporter's notes hold paths of this machine
        del node.metadata_props[:]
    if about["precision"] == "fp16":
        _halve(model, onnx)
    onnx.helper.set_model_props(model, {METADATA: json.dumps(about)})
    model.producer_name, model.producer_version = "padim_lit", __version__
    onnx.checker.check_model(model)
    return model.SerializeToString()


def export_openvino(detector: Detector, path: Path, about: dict[str, Any]) -> None:
    """Write OpenVINO's .xml, and .bin beside it; arguments and errors as `export_onnx`.

    >>> about = metadata(detector, None, "fp32", False)
    >>> export_openvino(detector, Path("model.xml"), about)  # doctest: +SKIP
    """
    # read_model, not convert_model, which reports each call to a server.
    openvino, *_ = require("openvino", "openvino", "onnx", "onnxscript")
    # fp16 has rounded already; OpenVINO's own compression would also round the means.
    model = openvino.Core().read_model(_onnx_content(detector, about))
    model.set_rt_info(json.dumps(about), [METADATA])
    openvino.save_model(model, path, compress_to_fp16=False)


def export_torch(detector: Detector, path: Path, about: dict[str, Any]) -> None:
    """Write a slim checkpoint: no scatter and no image digests, whitening as packed triangles.

    fp16 and int8 round the whitening, int8 also the means, to float32. `about` is kept in the file;
    images are preprocessed as with any checkpoint.

    Raises:
        InputError: a number is beyond fp16.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "slim.ckpt"
    >>> export_torch(detector, path, metadata(detector, None, "fp16", False))
    >>> exported(path)
    True
    """
    state = slim_state(detector, DTYPES[about["precision"]])
    _require_finite(state["whitening"])
    state["exported"] = about
    save_detector(detector, path, state)


WRITERS = {"onnx": export_onnx, "openvino": export_openvino, "torch": export_torch}


def exported(path: Path) -> bool:
    """Whether one of `WRITERS` has written a file, which may then be written over.

    A full checkpoint was not: it holds what no export could bring back.

    >>> exported(Path("missing.onnx"))
    False
    """
    if not path.is_file():
        return False
    if path.suffix == ".ckpt":
        with suppress(InputError):
            return "exported" in read(path)[KEY]
        return False
    return METADATA.encode() in path.read_bytes()


def require_room(graph: Graph, precision: str) -> None:
    """Raise InputError where an ONNX file of this graph would be beyond its limit.

    >>> require_room(Graph(detector), "fp32")
    """
    need = 0
    for name, tensor in graph.state_dict().items():
        half = precision == "fp16" and _rounds(name, tensor.ndim)
        need += tensor.numel() * (2 if half else 4)
    if need > ONNX_BYTES:
        raise InputError(
            f"this model needs {need / 2**30:.1f} GiB in {precision}, and ONNX, from which "
            "OpenVINO's is made too, ends at 2 GiB; use precision=fp16, format=torch, or fit with "
            "a smaller dim or grid"
        )


def _require_finite(rounded: Tensor) -> None:
    """Raise InputError where rounding made a number infinite."""
    if not rounded.isfinite().all():
        raise InputError(
            "precision=fp16: a whitening factor is beyond 65504, the largest fp16; use "
            "precision=fp32, or fit with a larger eps"
        )


def _rounds(name: str, ndim: int) -> bool:
    return ROUNDED_TO_FP16.match(name) is not None and ndim > 1


def _halve(model: Any, onnx: Any) -> None:
    """Store what `ROUNDED_TO_FP16` names as fp16, each behind a cast to float32."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or not _rounds(tensor.name, len(tensor.dims)):
            continue
        name = tensor.name
        half = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()).half()
        _require_finite(half)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half.numpy(), f"{name}.fp16"))
        cast = [f"{name}.fp16"], [name]
        casts.append(onnx.helper.make_node("Cast", *cast, to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    # The exporter's types of these names no longer hold.
    kept = [v for v in model.graph.value_info if not ROUNDED_TO_FP16.match(v.name)]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
