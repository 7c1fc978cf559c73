"""Objects from `_target_`s, and which targets a config may name."""

import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate as hydra_instantiate

from padim_lit.errors import InputError

#: Packages of which a config may name classes, and the module whose functions make loggers.
_ALLOWED, _LOGGERS = {"padim_lit", "lightning"}, "padim_lit.cli.tracking"
# What Hydra makes of its own section.
_HYDRAS = re.compile(
    r"(hydra\.experimental|hydra\._internal\.core_plugins|hydra_plugins)\.[\w.]+"
    r"|padim_lit\.cli\.experiment\.SweepReport"
    r"|(logging\.(handlers\.)?|colorlog\.)\w*(Handler|Formatter|Filter)"
)
_own: set[str] = set()


def allow(packages: Iterable[str]) -> None:
    """Let configs name what is in these packages too; typed by the user, never read in a file.

    They may lie in the working directory, which is searched last: no file there becomes a module
    that we import ourselves.
    """
    _own.update(packages)
    if _own and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def require_target(target: str, key: str = "") -> None:
    """Raise InputError for a ``_target_`` that a config may not name.

    Classes of padim_lit and lightning, and what is in packages that `allow` was told of, may be:
    with any function, torch.load say, a config from elsewhere could do anything. Nothing of another
    package is imported to find out.
    """
    given = f"{key or 'config'}: _target_={target}"
    if not all(map(str.isidentifier, target.split("."))):
        raise InputError(f"{given} is no name; give PACKAGE.MODULE.CLASS")
    package = target.partition(".")[0]
    if package in sys.stdlib_module_names or package not in _ALLOWED | _own:
        raise InputError(
            f"{given}: a config names classes of padim_lit and lightning alone; if it is a package "
            f"of yours, add own=[{package}] to the command line"
        )
    try:
        found = resolve_name(target)
    except Exception:  # the instantiation says what is wrong with it
        return
    home = str(getattr(found, "__module__", None))
    known = home.partition(".")[0] in (_own if package in _own else _ALLOWED)
    if not known or not (inspect.isclass(found) or home == _LOGGERS or package in _own):
        raise InputError(f"{given} is no class of {package} itself; name one")


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


def require_hydras(node: Any, key: str = "hydra") -> None:
    """As `require_targets`, for Hydra's own section, of which it makes plugins and loggers."""
    for name, part in node.items() if isinstance(node, dict) else enumerate(node):
        if name in ("_target_", "class", "()") and isinstance(part, str):
            if not _HYDRAS.fullmatch(part) and part.partition(".")[0] not in _own:
                raise InputError(
                    f"{key}.{name}={part}: Hydra's section names its own callbacks, launchers and "
                    "loggers alone; if it is a package of yours, add own=[PACKAGE]"
                )
        elif isinstance(part, dict | list):
            require_hydras(part, f"{key}.{name}")


def instantiate(node: Mapping[str, Any], **kwargs: Any) -> Any:
    """What the node's ``_target_`` makes of its other keys and `kwargs`."""
    # Lists arrive as lists, not as OmegaConf's, because the objects keep and save them.
    try:
        return hydra_instantiate(dict(node), _convert_="all", **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise
