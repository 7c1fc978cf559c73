"""What a checkpoint makes a model of again: classes by name, their options, their tensors."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from padim_lit.errors import InputError, refusing

if TYPE_CHECKING:
    from padim_lit.model.detector import Detector

#: What a projection or density is given beside its options, in the order of its arguments.
SIZES = "in_channels", "dim", "seed"


def register(cls: type, known: dict[str, Any], key: str) -> None:
    """Put a class under its `name` if it has one of its own; again, it takes its own place.

    Raises:
        InputError: another class has the name: checkpoints of that one would become this one's.

    >>> register(type("Mine", (), {"name": "mine"}), known := {}, "proj")
    >>> known["mine"].__name__
    'Mine'
    """
    if (name := vars(cls).get("name")) is None:
        return
    other = known.get(name)
    # A script may be imported as well, and a notebook's class moved into a file.
    modules = {cls.__module__, getattr(other, "__module__", "")}
    scripts = {"__main__", "__mp_main__"}
    ours = any(module.startswith("padim_lit.") for module in modules)
    moved = len(modules) == 1 or (not ours and bool(modules & scripts))
    if other is not None and not (moved and other.__qualname__ == cls.__qualname__):
        raise InputError(
            f"{cls.__module__}.{cls.__qualname__}: name={name!r} is that of {other.__module__}."
            f"{other.__qualname__}, and {key}={name} in a checkpoint would not say which; choose "
            "another name"
        )
    known[name] = cls


def require_name(made: Any) -> None:
    """Raise InputError where a class is without a `name` of its own, and reads as its base's.

    >>> require_name(type("Mine", (), {"name": "mine"})())
    """
    if "name" not in vars(type(made)):
        raise InputError(
            f"{type(made).__name__} has no name of its own, by which a checkpoint finds it: add "
            'name = "..." to the class'
        )


def add_options(made: Any, **options: Any) -> None:
    """Put those that its class takes, as a checkpoint will give them, beside a part's `options`.

    >>> made = type("Mine", (), {"__init__": lambda self, width=2: None})()
    >>> add_options(made, shrinkage=1.0, width=3)
    >>> made.options
    {'width': 3}
    """
    parameters = inspect.signature(type(made).__init__).parameters
    whole = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    taken = {key: value for key, value in options.items() if whole or key in parameters}
    made.options = {**getattr(made, "options", {}), **taken}


def require_rebuildable(*parts: Any) -> None:
    """Raise InputError unless a checkpoint can make each part again, from its options and buffers.

    Args:
        parts: projections and densities.

    >>> class Scaled:
    ...     def __init__(self, dim, seed, factor=1.0):
    ...         self.dim, self.seed, self.factor, self.options = dim, seed, factor, {}
    >>> require_rebuildable(Scaled(8, seed=0, factor=3.0))
    Traceback (most recent call last):
    padim_lit.errors.InputError: Scaled takes factor, which its options do not hold, and a ...
    """
    for made in parts:
        name, signature = type(made).__name__, inspect.signature(type(made).__init__)
        sizes = [getattr(made, key) for key in SIZES if hasattr(made, key)]
        what = f"a checkpoint cannot make {name} again from its options {made.options}"
        with refusing(what, "let __init__ and self.options agree, see docs/own.md", TypeError):
            given = signature.bind_partial(made, *sizes, **made.options).arguments
        rest = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
        wanted = [key for key, one in signature.parameters.items() if one.kind not in rest]
        if missing := [key for key in wanted if key not in given]:
            raise InputError(
                f"{name} takes {', '.join(missing)}, which its options do not hold, and a "
                "checkpoint would forget it: add it to self.options before super().__init__"
            )
        kept = made.state_dict()
        lost = [key for key, _ in made.named_buffers() if key not in kept]
        if lost and made.fit_images:  # of the others the arguments make the same ones again
            raise InputError(
                f"{name}'s buffer {', '.join(lost)} would not be in a checkpoint: register it "
                "without persistent=False"
            )


@contextmanager
def into_buffers(part: Any) -> Iterator[None]:
    """Raise InputError where a part learns in the block what no checkpoint of it would hold.

    Names that begin with _ are its own business.

    >>> with into_buffers(part := type("Mine", (), {})()):
    ...     part.scale = 2.0
    Traceback (most recent call last):
    padim_lit.errors.InputError: Mine has learnt scale, which would not be in a checkpoint: ...
    """
    known = "fit_images", "training"  # which `adopt` and torch set
    before = {**vars(part), **vars(part).get("_buffers", {})}
    yield
    changed = [key for key, value in vars(part).items() if value is not before.get(key)]
    lost = [key for key in changed if key not in known and not key.startswith("_")]
    # A class that is made anew has no buffer that was registered here.
    if lost := lost + [key for key in vars(part).get("_buffers", ()) if key not in before]:
        raise InputError(
            f"{type(part).__name__} has learnt {', '.join(lost)}, which would not be in a "
            "checkpoint: make it a buffer in __init__, see docs/own.md"
        )


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
