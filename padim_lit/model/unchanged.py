"""What a model's tensors may not become: of another type, or what its Gaussians do not know."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from padim_lit.errors import InputError

if TYPE_CHECKING:
    from padim_lit.model.detector import Detector


def refuse_others(detector: "Detector", state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Raise InputError where a fitted detector would load what it was not fitted on.

    Args:
        detector: whose ``load_state_dict`` is called.
        state: the state dict; keys that are missing or strange are torch's to refuse.
        prefix: of the detector's keys in it.

    >>> refuse_others(detector, detector.state_dict(), "")
    >>> other = {"projection.matrix": 2 * detector.projection.matrix}
    >>> refuse_others(detector, other, "")
    Traceback (most recent call last):
    padim_lit.errors.InputError: a state dict of another model (its projection.matrix differs): ...
    """
    if detector.whitening is None:
        return
    for name, own in detector.state_dict().items():
        given = state.get(prefix + name)
        if given is not None and given.shape == own.shape and not given.to(own).equal(own):
            raise InputError(
                f"a state dict of another model (its {name} differs): it has no Gaussians, and "
                "this model's would score nonsense; give its model.ckpt to PaDiM's "
                "load_from_checkpoint or to padim_lit.load"
            )


def require_float32(change: Callable[[Tensor], Tensor]) -> None:
    """Raise InputError where a change of a model's tensors, such as ``half()``, is of their type.

    >>> require_float32(Tensor.half)
    Traceback (most recent call last):
    padim_lit.errors.InputError: a model cannot become torch.float16: it is float32, and ...
    """
    if (given := change(torch.empty(0, dtype=torch.float32)).dtype) != torch.float32:
        raise InputError(
            f"a model cannot become {given}: it is float32, and its moments would be rounded or "
            "mixed; leave it so, or fit with Trainer(precision='bf16-mixed')"
        )
