"""torch modules as ONNX graphs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from padim_lit.errors import InputError, refusing
from padim_lit.system.console import quiet

# The version that most runtimes read among those that the exporter writes without conversion.
OPSET = 18


def require(format: str, *packages: str) -> list[Any]:
    """The imported packages; InputError where one is not installed.

    >>> [package.__name__ for package in require("torch", "json")]
    ['json']
    """
    what = f"format={format} needs {', '.join(packages)}, which are not all installed"
    with refusing(what, "pip install -e '.[export]', or use format=torch", ImportError):
        return [import_module(name) for name in packages]


def to_onnx(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: list[str],
    output_names: list[str],
    backbone: str,
) -> Any:
    """A module as a ModelProto; its batch, the first axis of all inputs and outputs, is free.

    Args:
        module: takes `inputs`.
        inputs: (B,…), B at least 2.
        input_names, output_names: in the graph.
        backbone: its name, for the line that says that it cannot be exported.

    Raises:
        InputError: torch's exporter cannot.

    >>> to_onnx(nn.ReLU(), (torch.zeros(2, 3),), ["x"], ["y"], "none")  # doctest: +SKIP
    """
    for name in ("onnx_ir", "onnxscript"):  # they count each step of theirs
        logging.getLogger(name).setLevel(logging.WARNING)
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in inputs)
    try:
        with torch.no_grad(), quiet(), _attention_in_steps(module):  # warnings of its own insides
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,  # the older exporter is deprecated since torch 2.9
                input_names=input_names,
                output_names=output_names,
                dynamic_shapes=shapes if len(inputs) == 1 else (shapes,),
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds
        first: BaseException = error
        while first.__cause__ is not None:  # the outer ones only say in which step it was
            first = first.__cause__
        reason = (str(first).strip() or type(first).__name__).splitlines()[0][:200]
        raise InputError(
            f"backbone {backbone} cannot be exported by torch {torch.__version__} "
            f"({reason}); use a newer torch (2.11 was seen working, 2.6 was not), or format=torch"
        ) from error
    return program.model_proto


def joined(first: Any, second: Any) -> Any:
    """One ModelProto of two: the outputs of the first are the inputs of the second, by name.

    >>> joined(backbone, rest)  # doctest: +SKIP
    """
    (compose,) = require("onnx", "onnx.compose")
    apart = [
        compose.add_prefix(model, prefix, rename_inputs=False, rename_outputs=False)
        for model, prefix in ((first, "backbone/"), (second, "after/"))
    ]
    shared = [(output.name, output.name) for output in first.graph.output]
    return compose.merge_models(*apart, io_map=shared)


@contextmanager
def _attention_in_steps(graph: nn.Module) -> Iterator[None]:
    """timm's attention as products and a softmax: ONNX has the fused one for four axes alone."""
    fused = [module for module in graph.modules() if getattr(module, "fused_attn", False)]
    try:
        for module in fused:
            module.fused_attn = False
        yield
    finally:
        for module in fused:
            module.fused_attn = True
