"""Parts that a checkpoint rebuilds: classes found by their name, with arguments and tensors."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from padim_lit.errors import InputError

if TYPE_CHECKING:
    from padim_lit.model.detector import Detector

#: Arguments that are no options, in the order in which a part takes them.
SIZES = "in_channels", "dim", "seed"
#: Types of options. No tensors: they could not be compared with what a config says.
PLAIN = (int, float, str, list, tuple, dict, type(None))


class Part(nn.Module):
    """A projection or density, which a checkpoint rebuilds from its name and its arguments.

    A class keeps each argument beyond `SIZES` as an attribute of the same name, as in scikit-learn.

    >>> from padim_lit import Mixture
    >>> Mixture(dim=8, components=64).options
    {'components': 64, 'fit_images': 64, 'shrinkage': 8.0}
    """

    #: "proj" or "density"; and every subclass by its name, once its module has been imported.
    key: ClassVar[str]
    known: ClassVar[dict[str, Any]]
    name: ClassVar[str]
    #: False where every seed gives the same part.
    seeded: ClassVar[bool] = True
    #: Good images that `learn` wants to see before the fit; 0 where nothing is learnt from data.
    fit_images: int = 0

    def __init_subclass__(cls, **kwargs: Any):
        """Put the class among `known` if it has a `name` of its own; defined again, it is replaced.

        Raises:
            InputError: another class has the name, so checkpoints of that one would load this one.
        """
        super().__init_subclass__(**kwargs)
        if (name := vars(cls).get("name")) is None:
            return
        other = cls.known.get(name)
        # The same class may come from a script and its import, or from a notebook and a file.
        modules = {cls.__module__, getattr(other, "__module__", "")}
        scripts = {"__main__", "__mp_main__"}
        ours = any(module.startswith("padim_lit.") for module in modules)
        moved = len(modules) == 1 or (not ours and bool(modules & scripts))
        if other is not None and not (moved and other.__qualname__ == cls.__qualname__):
            raise InputError(
                f"{cls.__module__}.{cls.__qualname__}: name={name!r} is that of {other.__module__}."
                f"{other.__qualname__}, and {cls.key}={name} in a checkpoint would not say which; "
                "choose another name"
            )
        cls.known[name] = cls

    def __init__(self) -> None:
        super().__init__()
        if "name" not in vars(type(self)):
            raise InputError(
                f"{type(self).__name__} has no name of its own, by which a checkpoint finds it: "
                'add name = "..." to the class'
            )

    @cached_property
    def options(self) -> dict[str, Any]:
        """The arguments beyond `SIZES`, as they were when first asked for, by a detector."""
        names = [name for name in _arguments(type(self)) if name not in SIZES]
        if missing := [name for name in names if not isinstance(self.argument(name), PLAIN)]:
            raise InputError(
                f"{type(self).__name__} takes {', '.join(missing)} and a checkpoint would forget "
                f"it: keep it in __init__, as self.{missing[0]}, a number, text or list, see "
                "docs/own.md"
            )
        return {name: self.argument(name) for name in names}

    def argument(self, name: str) -> Any:
        """Return what was given for an argument; the part itself where that was not kept."""
        return getattr(self, name, self)


def _arguments(kind: type) -> Iterator[str]:
    """Yield the names of a class's arguments; *args and **kwargs stand for those of its base."""
    rest = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    for base in kind.__mro__:
        if "__init__" in vars(base):
            _, *parameters = inspect.signature(base.__init__).parameters.values()
            yield from (one.name for one in parameters if one.kind not in rest)
            if not any(one.kind in rest for one in parameters):
                return


def require_rebuildable(*parts: Part) -> None:
    """Raise InputError unless a checkpoint can rebuild each part from its options and buffers.

    >>> from padim_lit import Fisher
    >>> fisher = Fisher(in_channels=20, dim=8)
    >>> fisher.register_buffer("scale", torch.ones(1), persistent=False)
    >>> require_rebuildable(fisher)
    Traceback (most recent call last):
    padim_lit.errors.InputError: Fisher's buffer scale would not be in a checkpoint: register ...
    """
    for part in parts:
        # A part that learns nothing is rebuilt with the same buffers.
        lost = {key for key, _ in part.named_buffers()} - set(part.state_dict())
        if part.options.get("fit_images", part.fit_images) and lost:
            raise InputError(
                f"{type(part).__name__}'s buffer {', '.join(sorted(lost))} would not be in a "
                "checkpoint: register it without persistent=False"
            )


@contextmanager
def into_buffers(part: Any) -> Iterator[None]:
    """Raise InputError where a part learns in the block what no checkpoint of it would hold.

    Attributes whose names begin with _ are not looked at.

    >>> with into_buffers(part := type("Mine", (), {})()):
    ...     part.scale = 2.0
    Traceback (most recent call last):
    padim_lit.errors.InputError: Mine has learnt scale, which would not be in a checkpoint: ...
    """
    known = "fit_images", "training"  # set by `adopt` and by torch
    before = {**vars(part), **vars(part).get("_buffers", {})}
    yield
    changed = [key for key, value in vars(part).items() if value is not before.get(key)]
    lost = [key for key in changed if key not in known and not key.startswith("_")]
    # Nor can a buffer be loaded that is registered only here, and not in __init__.
    if lost := lost + [key for key in vars(part).get("_buffers", ()) if key not in before]:
        raise InputError(
            f"{type(part).__name__} has learnt {', '.join(lost)}, which would not be in a "
            "checkpoint: make it a buffer in __init__, see docs/own.md"
        )


def refuse_others(detector: "Detector", state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Raise InputError where a fitted detector would load other tensors than it was fitted with.

    Args:
        detector: whose ``load_state_dict`` is called.
        state: the state dict; torch refuses missing and unknown keys itself.
        prefix: of the detector's keys in `state`.

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
    """Raise InputError where `change` of tensors, such as ``half()``, changes their dtype.

    >>> require_float32(Tensor.half)
    Traceback (most recent call last):
    padim_lit.errors.InputError: a model cannot become torch.float16: it is float32, and ...
    """
    if (given := change(torch.empty(0, dtype=torch.float32)).dtype) != torch.float32:
        raise InputError(
            f"a model cannot become {given}: it is float32, and its moments would be rounded or "
            "mixed; leave it so, or fit with Trainer(precision='bf16-mixed')"
        )
