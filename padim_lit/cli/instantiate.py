"""Objects from `_target_`s, and which targets a config may name."""

import sys
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate as hydra_instantiate

from padim_lit.errors import InputError


def require_target(target: str, key: str = "") -> None:
    """Raise InputError for a ``_target_`` that is no name, or one of Python's standard library.

    Own data sets, projections and backbones are named by `_target_`, so any package may be. A
    config is no script all the same: os.system, subprocess.run or builtins.eval have no place in
    one. This is no sandbox: whoever writes the command line can run what is installed.
    """
    given = f"{key or 'config'}: _target_={target}"
    if not all(map(str.isidentifier, target.split("."))):
        raise InputError(f"{given} is no name; give PACKAGE.MODULE.CLASS")
    if _is_standard(target):
        raise InputError(
            f"{given} is of Python's standard library; allowed are classes of padim_lit, "
            "lightning and your own packages"
        )


def require_targets(node: Any, key: str = "") -> None:
    """`require_target` for each of a config, given as plain containers."""
    if isinstance(node, dict):
        if node.get("_target_") is not None:
            require_target(str(node["_target_"]), key)
        for name, part in node.items():
            require_targets(part, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list):
        for part in node:
            require_targets(part, key)


def _is_standard(target: str) -> bool:
    """Whether the name, or what it leads to by way of another package, is of Python itself."""
    if target.partition(".")[0] in sys.stdlib_module_names:
        return True
    try:
        found = resolve_name(target)
    except Exception:  # the instantiation says what is wrong with it
        return False
    return str(getattr(found, "__module__", None)).partition(".")[0] in sys.stdlib_module_names


def instantiate(node: Mapping[str, Any], **kwargs: Any) -> Any:
    """What the node's ``_target_`` makes of its other keys and `kwargs`."""
    # Lists arrive as lists, not as OmegaConf's, because the objects keep and save them.
    try:
        return hydra_instantiate(dict(node), _convert_="all", **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise
