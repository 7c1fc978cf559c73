"""Open an exported file with its runtime, so that what was written can be compared and timed."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from padim_lit.checkpoint.state import load_detector
from padim_lit.deploy.graph import OUTPUTS
from padim_lit.deploy.onnx_graph import require
from padim_lit.model.detector import Detector

#: float32 (B,3,h,w) or uint8 (B,h,w,3) → outputs by name.
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def open_session(model: str | bytes, threads: int) -> Any:
    """onnxruntime's session on the CPU, of a file's name or of what lies in one.

    >>> open_session("model.onnx", threads=1)  # doctest: +SKIP
    """
    (onnxruntime,) = require("onnx", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def open_onnx(path: Path, threads: int) -> Run:
    """onnxruntime on the CPU.

    >>> run = open_onnx(Path("model.onnx"), threads=1)  # doctest: +SKIP
    >>> run(np.zeros((1, 3, 224, 224), np.float32))["score"]  # doctest: +SKIP
    """
    session = open_session(str(path), threads)
    found = [output.name for output in session.get_outputs()]
    return lambda image: dict(zip(found, session.run(None, {"image": image}), strict=True))


def open_openvino(path: Path, threads: int) -> Run:
    """OpenVINO on the CPU, in float32 where it would choose bfloat16.

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
    """A checkpoint; torch's threads are the process's.

    >>> run = open_torch(Path("model.ckpt"), threads=1)  # doctest: +SKIP
    """
    return run_detector(load_detector(path))


RUNTIMES = {"onnx": open_onnx, "openvino": open_openvino, "torch": open_torch}


def run_detector(detector: Detector) -> Run:
    """A detector in torch itself, for images in [0, 1].

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
    """Median time of each call, in ms: taken in turn, so that a busy machine is so for all.

    Args:
        calls: what to time; each runs twice before.
        rounds: at most.
        seconds: no further round starts after these, but three are made.

    >>> fast, slow = milliseconds([lambda: None, lambda: time.sleep(0.01)], 3, 1)
    >>> fast < 10 <= slow
    True
    """
    for call in calls:
        call()
        call()
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while len(times[0]) < 3 or (len(times[0]) < rounds and time.perf_counter() < end):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(1000 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


def largest_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest |theirs − ours| / |ours| (ours above 0); infinite where one is not finite.

    >>> largest_difference(np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    0.5
    """
    if not np.isfinite(theirs).all():
        return float("inf")
    return float((np.abs(theirs - ours) / np.maximum(np.abs(ours), 1e-12)).max())
