"""Objects from `_target_`s, and which targets a config may name."""

import importlib
import sys
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import DictConfig, OmegaConf

from padim_lit.errors import InputError


def require_targets(node: Any, key: str = "") -> None:
    """Raise InputError where a ``_target_`` is of Python's standard library.

    Own data sets, projections and backbones are named by `_target_`, so any package may be. A
    config is no script all the same: os.system, subprocess.run or builtins.eval have no place in
    one. This is no sandbox: whoever writes the command line can run what is installed.
    """
    if isinstance(node, dict):
        target = node.get("_target_")
        if target is not None and not all(map(str.isidentifier, str(target).split("."))):
            raise InputError(
                f"{key or 'config'}: _target_={target} is no name; give PACKAGE.MODULE.CLASS"
            )
        if target is not None and _is_standard(str(target)):
            raise InputError(
                f"{key or 'config'}: _target_={target} is of Python's standard library; allowed "
                "are classes of padim_lit, lightning and your own packages"
            )
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
        found = get_object(target)
    except Exception:  # the instantiation says what is wrong with it
        return False
    return str(getattr(found, "__module__", None)).partition(".")[0] in sys.stdlib_module_names


def instantiate(node: DictConfig, **kwargs: Any) -> Any:
    require_targets(OmegaConf.to_container(node, resolve=True), str(node._get_full_key(None)))
    # Lists arrive as lists, not as OmegaConf's, because the objects keep and save them.
    try:
        return hydra_instantiate(node, _convert_="all", **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def import_own(config: DictConfig) -> None:
    """Import the modules of a projection and a backbone that are not padim_lit's own.

    What they register at import has to be there before a checkpoint of theirs is read.
    """
    require_targets(OmegaConf.to_container(config, resolve=False))
    for group in ("proj", "backbone"):
        target = str(config[group].get("_target_", ""))
        module = target.rpartition(".")[0]
        if not module or module.split(".")[0] == "padim_lit":
            continue
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(
                f"{group}._target_={target}: cannot be imported ({error}); name module.Class, and "
                "put its folder on PYTHONPATH"
            ) from error
