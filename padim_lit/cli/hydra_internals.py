"""Every private name of Hydra that is used: hold a new release of Hydra against these.

Each says why no public name does.
"""

from collections.abc import Callable

from hydra._internal import hydra, logging_config

# `hydra.core.config_loader.ConfigLoader` is abstract, and Hydra takes none from outside.
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.instantiate import _instantiate2
from hydra._internal.target_policy import _authorize_target_name as authorize

# `hydra.main` calls these two, on sys.argv alone: Lightning starts further ranks with that as it
# was typed, and Hydra is to get other words. `hydra.compose` makes no folder, no log, no sweep.
from hydra._internal.utils import _run_hydra as run_hydra
from hydra._internal.utils import get_args_parser

__all__ = ["ConfigLoaderImpl", "authorize", "get_args_parser", "run_hydra"]

#: Where Hydra's own launchers and sweepers lie, as its configs name them.
CORE_PLUGINS = "hydra._internal.core_plugins"
#: Modules that look up what a config names.
LOOKING_UP = (_instantiate2, logging_config)


def use_loader(loader: type[ConfigLoaderImpl]) -> None:
    """Let this process's Hydra compose configs with `loader`."""
    hydra.ConfigLoaderImpl = loader


def check_names(check: Callable[[str, str, str], None]) -> None:
    """Let this process's Hydra call `check`, in place of `authorize`, before it looks up a name.

    HYDRA_INSTANTIATE_ALLOWLIST_OVERRIDE, which is public, can only allow more names.
    """
    for module in LOOKING_UP:
        module._authorize_target_name = check
