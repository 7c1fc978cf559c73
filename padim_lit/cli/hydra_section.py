"""Hydra's own section of a config, of which Hydra makes callbacks, plugins and loggers by itself.

Hydra looks up every class in one function, after it has filled in all names: `guard` replaces that
function. Hydra's own check lists names that are forbidden; ours lists names that are allowed.
"""

import inspect
import re
from contextlib import suppress
from pkgutil import resolve_name

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from padim_lit.cli import hydra_internals
from padim_lit.cli.targets import is_own
from padim_lit.errors import InputError

# Classes that the section may name. A QueueHandler would call whatever its `queue` names.
_HYDRAS = re.compile(
    rf"(hydra\.experimental|{re.escape(hydra_internals.CORE_PLUGINS)}|hydra_plugins)\.[\w.]+"
    r"|padim_lit\.cli\.experiment\.SweepReport"
    r"|(logging\.(handlers\.)?|colorlog\.(\w+\.)?)(?!Queue)\w*(Handler|Formatter|Filter)"
)
#: What handlers write to.
_STREAMS = ("sys.stdout", "sys.stderr")


def guard() -> None:
    """Let this process's Hydra look up what `require_hydras` allows, and nothing else."""
    hydra_internals.check_names(require_hydras)


def require_hydras(name: str, resolved_from: str, full_key: str) -> None:
    """Raise InputError for a name that Hydra's section may not look up.

    Raises:
        InputError: the key, and what to write there.
    """
    if not (_is_hydras(name) or is_own(name) or name in _STREAMS):
        raise InputError(
            f"{full_key or 'hydra'}: {name}: Hydra's section names its own callbacks, launchers "
            "and loggers alone; if it is a package of yours, add own=[PACKAGE]"
        )
    hydra_internals.authorize(name, resolved_from, full_key)


def require_installed(config: DictConfig) -> None:
    """Raise InputError for a launcher or sweeper that is no plugin of Hydra: it could not start."""
    for key, kind in (("launcher", Launcher), ("sweeper", Sweeper)):
        name = OmegaConf.select(config, f"hydra.{key}._target_")
        known = Plugins.instance().discover(kind)
        if name not in [f"{one.__module__}.{one.__name__}" for one in known]:
            raise InputError(
                f"hydra.{key}._target_={name}: no {key} that is installed in hydra_plugins; "
                f"leave it out, or choose one by hydra/{key}=NAME"
            )


def _is_hydras(name: str) -> bool:
    """Whether a name is a class that Hydra or logging defines itself, not one imported there."""
    if _HYDRAS.fullmatch(name):
        with suppress(Exception):  # a module may fail in any way while it is imported
            found = resolve_name(name)
            home = f"{found.__module__}.{found.__qualname__}"
            return inspect.isclass(found) and _HYDRAS.fullmatch(home) is not None
    return False
