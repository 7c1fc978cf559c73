"""Classes by name: what a checkpoint calls a projection or density, and makes it again with."""

import inspect
from typing import Any

from padim_lit.errors import InputError


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


def taken(made: Any, **options: Any) -> dict[str, Any]:
    """Those of the options that the class takes, as a checkpoint will give them.

    >>> taken(type("Mine", (), {"__init__": lambda self: None})(), shrinkage=1.0)
    {}
    """
    parameters = inspect.signature(type(made).__init__).parameters
    whole = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return {key: value for key, value in options.items() if whole or key in parameters}
