"""Other runtimes: torch modules made ONNX graphs; exported files opened, compared and timed."""

import logging
import statistics
import timeit
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from padim_lit.checkpoint.state import load_detector
from padim_lit.deploy.graph import OUTPUTS
from padim_lit.errors import InputError, refusing
from padim_lit.model.detector import Detector
from padim_lit.system.console import quiet

# Of the versions that the exporter writes without conversion, the one that most runtimes read.
OPSET = 18


#: Gives outputs by name for images, float32 (B,3,h,w) or uint8 (B,h,w,3).
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def require(format: str, *packages: str) -> list[Any]:
    """Import a format's packages; raise InputError where one is not installed.

    >>> [package.__name__ for package in require("torch", "json")]
    ['json']
    """
    what = f"format={format} needs {', '.join(packages)}, which are not all installed"
    with refusing(what, "pip install -e '.[export]', or use format=torch", ImportError):
        return [import_module(name) for name in packages]


def to_onnx(
    module: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], backbone: str
) -> Any:
    """Export a module as a ModelProto whose batch, the first axis everywhere, is free.

    Args:
        module: takes `inputs`.
        inputs: tensors (B,…) by their names in the graph, B at least 2.
        outputs: names of the outputs in the graph.
        backbone: its name, for errors.

    Raises:
        InputError: torch's exporter cannot.

    >>> to_onnx(nn.ReLU(), {"x": torch.zeros(2, 3)}, ["y"], "none")  # doctest: +SKIP
    """
    for name in ("onnx_ir", "onnxscript"):  # they log each of their steps
        logging.getLogger(name).setLevel(logging.WARNING)
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in inputs)
    # timm's attention as products and a softmax: ONNX has fused attention only for four axes.
    fused = [part for part in module.modules() if getattr(part, "fused_attn", False)]
    try:
        for part in fused:
            part.fused_attn = False
        with torch.no_grad(), quiet():  # it warns of its own parts
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,  # the older exporter is deprecated since torch 2.9
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=shapes if len(inputs) == 1 else (shapes,),
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds
        first: BaseException = error
        while first.__cause__ is not None:  # the outer ones only name the step
            first = first.__cause__
        reason = (str(first).strip() or type(first).__name__).splitlines()[0][:200]
        raise InputError(
            f"backbone {backbone} cannot be exported by torch {torch.__version__} "
            f"({reason}); use a newer torch (2.11 was seen working, 2.6 was not), or format=torch"
        ) from error
    finally:
        for part in fused:
            part.fused_attn = True
    return program.model_proto


def joined(first: Any, second: Any) -> Any:
    """Join two ModelProtos: the outputs of the first are the inputs of the second, by name.

    >>> joined(backbone, rest)  # doctest: +SKIP
    """
    (compose,) = require("onnx", "onnx.compose")
    apart = [
        compose.add_prefix(model, prefix, rename_inputs=False, rename_outputs=False)
        for model, prefix in ((first, "backbone/"), (second, "after/"))
    ]
    shared = [(output.name, output.name) for output in first.graph.output]
    return compose.merge_models(*apart, io_map=shared)


def open_session(model: str | bytes, threads: int) -> Any:
    """Open a file, or a file's content, in onnxruntime on the CPU.

    >>> open_session("model.onnx", threads=1)  # doctest: +SKIP
    """
    (onnxruntime,) = require("onnx", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def open_onnx(path: Path, threads: int) -> Run:
    """Open a file in onnxruntime on the CPU.

    >>> run = open_onnx(Path("model.onnx"), threads=1)  # doctest: +SKIP
    >>> run(np.zeros((1, 3, 224, 224), np.float32))["score"]  # doctest: +SKIP
    """
    session = open_session(str(path), threads)
    found = [output.name for output in session.get_outputs()]
    return lambda image: dict(zip(found, session.run(None, {"image": image}), strict=True))


def open_openvino(path: Path, threads: int) -> Run:
    """Open a file in OpenVINO on the CPU, in float32 even where it would choose bfloat16.

    >>> run = open_openvino(Path("model.xml"), threads=1)  # doctest: +SKIP
    """
    (openvino,) = require("openvino", "openvino")
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = openvino.Core().compile_model(str(path), "CPU", settings)
    found = [output.get_any_name() for output in model.outputs]

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        outputs = model({"image": image})
        return {name: outputs[name].copy() for name in found}  # it writes over its own buffers

    return run


def open_torch(path: Path, threads: int) -> Run:
    """Open a checkpoint; `threads` is ignored, because torch's number is that of the process.

    >>> run = open_torch(Path("model.ckpt"), threads=1)  # doctest: +SKIP
    """
    return run_detector(load_detector(path))


RUNTIMES = {"onnx": open_onnx, "openvino": open_openvino, "torch": open_torch}


def run_detector(detector: Detector) -> Run:
    """Return a function that runs a detector in torch itself, on images in [0, 1].

    >>> found = run_detector(detector)(np.zeros((1, 3, 64, 64), np.float32))
    >>> found["score"].shape, found["map"].shape
    ((1,), (1, 64, 64))
    """

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            outputs = detector(torch.from_numpy(image))
        return dict(zip(OUTPUTS, (o.numpy() for o in outputs), strict=False))

    return run


def milliseconds(calls: list[Callable[[], object]], rounds: int, seconds: float) -> list[float]:
    """Return each call's median time in ms; calls take turns, so a busy machine slows all alike.

    Args:
        calls: what to time; each first runs twice without being timed.
        rounds: the most calls of each.
        seconds: after which no further round starts, if there were three.

    >>> import time
    >>> fast, slow = milliseconds([lambda: None, lambda: time.sleep(0.01)], 3, 1)
    >>> fast < 10 <= slow
    True
    """
    for call in calls:
        timeit.timeit(call, number=2)
    times: list[list[float]] = [[] for _ in calls]
    end = timeit.default_timer() + seconds
    while len(times[0]) < 3 or (len(times[0]) < rounds and timeit.default_timer() < end):
        for call, taken in zip(calls, times, strict=True):
            taken.append(1000 * timeit.timeit(call, number=1))
    return [statistics.median(taken) for taken in times]


def largest_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest |theirs − ours| / |ours|, ours above 0; infinite if one is not finite.

    >>> largest_difference(np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    0.5
    """
    if not np.isfinite(theirs).all():
        return float("inf")
    return float((np.abs(theirs - ours) / np.maximum(np.abs(ours), 1e-12)).max())
