"""Which keys a class takes, their types, defaults and meaning: from its signature and docstring."""

import inspect
import re
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import field, make_dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from padim_lit.cli.instantiate import require_target
from padim_lit.errors import refusing

#: By base class: arguments that no config gives, because a run has them from elsewhere.
FROM_THE_RUN = {
    "AnomalyData": (
        *("image_size", "crop_size", "batch_size", "num_workers", "look"),
        *("picture_cache", "picture_cache_gb", "full_check"),
    ),
    "Backbone": ("seed", "state", "tiles"),
    "Projection": ("in_channels", "dim", "seed"),
    "Density": ("dim", "seed"),
}
_PLAIN = (bool, int, float, str)
_STORABLE = (*_PLAIN, bytes, list, dict, tuple, Path, Enum)


def default_of(call: Any, argument: str) -> Any:
    """The default of a function's or class's argument, so that it need not be written again."""
    return inspect.signature(call).parameters[argument].default


def load(target: str, key: str = "") -> Any:
    """The class or function that a ``_target_`` names.

    Raises:
        InputError: it cannot be imported, or a config may not name it.
    """
    require_target(target, key)
    what = f"{f'{key}.' if key else ''}_target_={target}: cannot be imported"
    with refusing(what, "name module.Class, and put its folder on PYTHONPATH", Exception):
        try:
            return resolve_name(target)
        except AttributeError:
            # Said too of a module that fails while it is imported, which alone knows why.
            import_module(target.rpartition(".")[0])
            raise


@cache
def schema(target: str) -> type:
    """A dataclass with ``_target_`` and the arguments of what `target` names, for OmegaConf.

    A class with a ``name`` of its own, as projections have, shows it too.

    Raises:
        InputError: see `load`.
    """
    found = load(target)
    keys: list[Any] = [("_target_", str, field(default=target))]
    parameters = inspect.signature(found).parameters
    if isinstance(name := getattr(found, "name", None), str) and "name" not in parameters:
        keys.append(("name", str, field(default=name)))
    hints: dict[str, Any] = {}
    with suppress(NameError):  # of a type that is imported for type checkers alone
        hints = get_type_hints(found.__init__ if inspect.isclass(found) else found)
    # A function that does not say what it returns, may be of any kind.
    kind = found if inspect.isclass(found) else hints.get("return")
    bases = [base.__name__ for base in getattr(kind, "__mro__", ())] or FROM_THE_RUN
    given = {name for base in bases for name in FROM_THE_RUN.get(base, ())}
    for name, one in parameters.items():
        value = MISSING if one.default is one.empty else one.default
        storable = value is None or isinstance(value, _STORABLE)  # or a config cannot hold it
        if name in given or not storable or one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL):
            continue
        # Without a type, a word of the command line would be a text: false would be true.
        plain = type(value) if type(value) in (bool, float) else Any
        kind, how = _type(hints.get(name, plain)), {"default": value}
        if isinstance(value, list | dict | tuple):
            how = {"default_factory": lambda value=value: value}
        keys.append((name, kind, field(**how)))
    return make_dataclass(target.rpartition(".")[2], keys)


def meanings(found: Any) -> dict[str, str]:
    """One line an argument, from the ``Args:`` of a docstring or those of its base classes."""
    lines: dict[str, str] = {}
    for one in getattr(found, "__mro__", (found,)):
        docs = one.__doc__, getattr(vars(one).get("__init__"), "__doc__", None)
        for name, text in [pair for doc in docs for pair in _arguments(doc or "").items()]:
            if not lines.get(name) or lines[name].startswith("see "):
                lines[name] = text
    return lines


def _arguments(doc: str) -> dict[str, str]:
    section = re.search(r"^Args:\n((?: +.*\n|\n)+)", inspect.cleandoc(doc) + "\n", re.MULTILINE)
    entries = re.split(r"^ {4}(?=\S)", section[1], flags=re.MULTILINE) if section else []
    found = {}
    for entry in entries:
        names, _, text = " ".join(entry.split()).partition(": ")
        for name in names.split(", "):
            found[name] = re.split(r"\.(?: |$)", text)[0].replace("`", "")
    return found


def _type(hint: Any) -> Any:
    """The type that OmegaConf checks: plain ones, lists and mappings of them, or Any."""
    origin, args = get_origin(hint), get_args(hint)
    if hint in _PLAIN or hint is Any:
        return hint
    if origin in (Union, types.UnionType):
        rest = [_type(one) for one in args if one not in (types.NoneType, Path)]
        if set(rest) == {int, float}:
            rest = [float]
        if len(rest) != 1 or rest[0] is Any:
            return Any
        return rest[0] | None if types.NoneType in args else rest[0]
    if origin in (list, Sequence) and args[0] in _PLAIN:
        return list[args[0]]
    if origin in (dict, Mapping) and args[0] is str and args[1] in _PLAIN:
        return dict[str, args[1]]
    return Any
