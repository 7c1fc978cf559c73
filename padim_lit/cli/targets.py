"""What a ``_target_`` names: which ones a config may, the keys that they take, objects of them.

Types, defaults and meaning of the keys are from the signature and docstring of what is named.
"""

import inspect
import re
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field, make_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.errors import InstantiationException
from omegaconf import MISSING

from padim_lit.errors import InputError, refusing

#: Packages of which a config may name classes, and the module whose functions make loggers.
_ALLOWED, _LOGGERS = {"padim_lit", "lightning"}, "padim_lit.cli.tracking"
#: Settings of a run that say how a data set's files are read.
READING_KEYS = ("batch_size", "num_workers", "picture_cache", "full_check")
#: By base class: arguments that no config gives, because a run has them from elsewhere.
FROM_THE_RUN = {
    "AnomalyData": ("image_size", "crop_size", "look", "fits", *READING_KEYS),
    "Backbone": ("seed", "state", "tiles"),
    "Projection": ("in_channels", "dim", "seed"),
    "Density": ("dim", "seed"),
}
_PLAIN = (bool, int, float, str)
_STORABLE = (*_PLAIN, bytes, list, dict, tuple, Path, Enum)
_own: set[str] = set()


def allow(packages: Iterable[str]) -> None:
    """Let configs name the content of these packages too; the user types them, no file gives them.

    They may lie in the working directory, which is searched last: no file there becomes a module
    that we import ourselves.
    """
    _own.update(packages)
    if _own and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def is_own(target: str) -> bool:
    """Whether `target` lies in a package that `allow` was given."""
    return target.partition(".")[0] in _own


def load(target: str, key: str = "") -> Any:
    """Import the class or function that a ``_target_`` names, if a config may name it.

    Classes of padim_lit and lightning, and what is in packages that `allow` was told of, may be:
    with any function, torch.load say, a config from elsewhere could do anything. Nothing of another
    package is imported to find out.

    Raises:
        InputError: a config may not name it, or it cannot be imported.
    """
    given = f"{key or 'config'}: _target_={target}"
    package = target.partition(".")[0]
    if package in sys.stdlib_module_names or package not in _ALLOWED | _own:
        raise InputError(
            f"{given}: a config names classes of padim_lit and lightning alone; if it is a package "
            f"of yours, add own=[{package}] to the command line"
        )
    module, _, name = target.rpartition(".")
    what = f"{f'{key}.' if key else ''}_target_={target}: cannot be imported"
    with refusing(what, "name module.Class, and put its folder on PYTHONPATH", Exception):
        found = resolve_name(f"{module}:{name}")
    home = str(getattr(found, "__module__", None))
    known = home.partition(".")[0] in (_own if package in _own else _ALLOWED)
    if not known or not (inspect.isclass(found) or home == _LOGGERS or package in _own):
        raise InputError(f"{given} is no class of {package} itself; name one")
    return found


def require_targets(node: Any, key: str = "") -> None:
    """Raise InputError for a config, given as plain containers, that names what it may not."""
    for name, part in node.items() if isinstance(node, dict) else enumerate(node):
        if name == "_target_" and part is not None:
            load(str(part), key)
        elif isinstance(part, dict | list):
            require_targets(part, f"{key}.{name}".lstrip("."))


def instantiate(node: Any, **kwargs: Any) -> Any:
    """Call the node's ``_target_`` with its other keys and `kwargs`; nodes within it come first.

    Hydra's `instantiate` would resolve ``${…}`` in values once more, and call what comes out.

    Args:
        node: plain containers, filled in.

    Raises:
        InputError: see `load`.
        InstantiationException: caused by what the call raised.
    """
    if isinstance(node, list):
        return [instantiate(part) for part in node]
    if not isinstance(node, dict):
        return node
    keys = {key: instantiate(part) for key, part in node.items()} | kwargs
    if (target := keys.pop("_target_", None)) is None:
        return keys
    found = load(str(target))
    try:
        return found(**keys)
    except InputError:
        raise
    except Exception as error:
        what = f"Error in call to target '{target}':\n{error!r}"
        raise InstantiationException(what) from error


def default_of(call: Any, argument: str) -> Any:
    """Return the default of a function's or class's argument, so that nobody writes it again."""
    return inspect.signature(call).parameters[argument].default


@cache
def schema(target: str) -> type:
    """Return a dataclass of ``_target_`` and the arguments of what `target` names, for OmegaConf.

    A class with a ``name`` of its own, as projections have, shows it too.

    Raises:
        InputError: see `load`.
    """
    found = load(target)
    keys: list[Any] = [("_target_", str, field(default=target))]
    parameters = inspect.signature(found).parameters
    name = getattr(found, "name", None)
    if isinstance(name, str) and "name" not in parameters:
        keys.append(("name", str, field(default=name)))
    hints: dict[str, Any] = {}
    with suppress(NameError):  # of a type that is imported for type checkers alone
        hints = get_type_hints(found.__init__ if inspect.isclass(found) else found)
    # A function without a return type may make any kind.
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
    """Return one line for each argument, from ``Args:`` of a docstring or of its base classes'."""
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
    """Return the type that OmegaConf checks: a plain one, a list or mapping of them, or Any."""
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
