"""Hydra's own section of a config, of which Hydra makes callbacks, plugins and loggers by itself.

It fills in ``${…}`` there long after the config was composed, and makes what it then finds. So
names are written out, and what is filled in is a text, whenever that is.
"""

import inspect
import re
from collections.abc import Iterator
from contextlib import suppress
from pkgutil import resolve_name
from typing import Any

from omegaconf import DictConfig, OmegaConf

from padim_lit.cli.targets import is_own, named
from padim_lit.errors import InputError

#: Its parts of which objects are made.
_MADE = ("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging")
# Classes for them, by their home. A QueueHandler would call whatever its `queue` names.
_HYDRAS = re.compile(
    r"(hydra\.experimental|hydra\._internal\.core_plugins|hydra_plugins)\.[\w.]+"
    r"|padim_lit\.cli\.experiment\.SweepReport"
    r"|(logging\.(handlers\.)?|colorlog\.(\w+\.)?)(?!Queue)\w*(Handler|Formatter|Filter)"
)
# What gives a text; a key does where a text stands there. Nothing within it is filled in first.
_FILLED = re.compile(
    r"\$\{(now:[\w%:. -]*|oc\.env:\w+(,[\w./ '\"-]*)?|python_version(:\w+)?|ray_pkg_version:\w+"
    r"|hydra:(?P<short>\w[\w./-]*)|(?P<key>\w[\w./-]*))\}"
)


def require_hydras(config: DictConfig) -> None:
    """Raise InputError for a config whose ``hydra`` makes, or might make, what it may not.

    Raises:
        InputError: the key, and what to write there.
    """
    everything = OmegaConf.to_container(config, resolve=False)
    if not isinstance(section := everything["hydra"], dict):
        raise InputError(f"hydra={section}: write its keys out")
    for key, name, part in named(section, ["_target_", "class", "()"], "hydra"):
        if not _is_hydras(part) and not is_own(part):
            raise InputError(
                f"{key}.{name}={part}: Hydra's section names its own callbacks, launchers and "
                "loggers alone; if it is a package of yours, add own=[PACKAGE]"
            )
    for part in _MADE:
        for key, text in _filled_in(section.get(part), f"hydra.{part}"):
            if not _is_text(text, everything):
                raise InputError(
                    f"{key}={text}: only ${{KEY}}, ${{hydra:KEY}} of a text, ${{now:…}} and "
                    "${oc.env:NAME} are filled in there, by their whole names; write out what it "
                    "stands for (${oc.env:NAME} becomes a number by itself)"
                )


def _is_hydras(name: str) -> bool:
    """Whether it is a class of Hydra's or logging's itself, and no name that was imported there."""
    if _HYDRAS.fullmatch(name):
        with suppress(Exception):  # a module may fail in any way while it is imported
            found = resolve_name(name)
            home = f"{found.__module__}.{found.__qualname__}"
            return inspect.isclass(found) and _HYDRAS.fullmatch(home) is not None
    return False


def _filled_in(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """The texts in which something is filled in, and their keys."""
    if isinstance(node, dict | list):
        for name, part in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _filled_in(part, f"{key}.{name}")
    elif isinstance(node, str) and "${" in node:
        yield key, node


def _is_text(text: str, everything: dict[str, Any], above: tuple[str, ...] = ()) -> bool:
    """Whether all that is filled in are texts, in which nothing is left to be filled in."""
    for found in _FILLED.finditer(text):
        if key := found["key"] or (found["short"] and f"hydra.{found['short']}"):
            node: Any = everything
            for name in key.split("."):
                if not isinstance(node, dict):
                    return False
                node = node.get(name)
            if isinstance(node, dict | list) or key in above:
                return False
            if isinstance(node, str) and not _is_text(node, everything, (*above, key)):
                return False
    # A shell's $NAME is nobody's here.
    return not re.search(r"\$(?![A-Za-z_])", _FILLED.sub("\0", text))
