"""What a config takes from the environment by ``${oc.env:NAME}`` is used, and never written."""

from typing import Any

from omegaconf import OmegaConf
from omegaconf.resolvers import oc

#: Values that were taken → how they were asked for.
_taken: dict[str, str] = {}
_SHORT = 4  # characters: what is shorter is part of other texts by chance


def register() -> None:
    """Make OmegaConf remember what it takes from the environment."""
    OmegaConf.register_new_resolver("oc.env", _env, replace=True)


def _env(name: str, *default: str | None) -> str | None:
    value = oc.env(name, *default)
    if value and (value,) != default:
        _taken[value] = f"${{oc.env:{name}}}"
    return value


def as_asked(node: Any) -> Any:
    """Plain containers with ``${oc.env:NAME}`` again for what came from there, such as a secret."""
    if isinstance(node, dict):
        return {key: as_asked(part) for key, part in node.items()}
    if isinstance(node, list | tuple):
        return [as_asked(part) for part in node]
    for value, asked in _taken.items():
        if node == value or (isinstance(node, str) and len(value) >= _SHORT):
            node = node.replace(value, asked)
    return node
