"""One line for whatever goes wrong with a config."""

from dataclasses import fields, is_dataclass

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from padim_lit.errors import InputError
from padim_lit.sweep.launchers import EXTRAS


def require_known_keys(config: DictConfig, prefix: str = "") -> None:
    """Refuse what ``+KEY=VALUE`` added where a schema says which keys exist.

    Raises:
        InputError: the unknown key and those that are known beside it.
    """
    schema = OmegaConf.get_type(config)
    if not is_dataclass(schema):  # trainer and logger take what Lightning takes
        return
    for key in config:
        if key not in _keys(schema):
            raise InputError(_unknown(f"{prefix}{key}", schema))
        if not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            require_known_keys(config[key], f"{prefix}{key}.")


def error_line(error: HydraException | OmegaConfBaseException) -> str:
    """One line for a config that Hydra or OmegaConf refuses: what was given, what to do."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    if isinstance(error, MissingConfigException) and (extra := _extra(error.missing_cfg_file)):
        return f"this hydra/launcher needs a package more; pip install -e '.[{extra}]'"
    if isinstance(error, MissingConfigException) and error.options:
        return f"no {error.missing_cfg_file}; allowed: {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r}: {first}; write KEY=VALUE, and quote what the shell would split"
    _, missing, key = first.partition("Missing mandatory value: ")
    if missing:
        return f"{key} is not set; give {key}=VALUE"
    cause = error.__cause__
    if not isinstance(error, ConfigCompositionException) or cause is None:
        return first
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        if is_dataclass(cause.object_type):
            return _unknown(cause.full_key, cause.object_type)
        return " ".join(lines)
    # The exception names the override, its cause what is wrong with it.
    return f"{first}: {str(cause).splitlines()[0]}; `python run.py --help` lists the keys"


def _extra(file: str | None) -> str | None:
    group, _, name = (file or "").rpartition("/")
    return EXTRAS.get(name) if group == "hydra/launcher" else None


def _keys(schema: type) -> list[str]:
    return [f.name for f in fields(schema)]


def _unknown(key: str, schema: type) -> str:
    return f"unknown key {key}; known here: {', '.join(k for k in _keys(schema) if k[0] != '_')}"


def one_line(error: BaseException) -> str:
    """What went wrong, on one line, without the framework's wrapping around our own errors."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, HydraException | OmegaConfBaseException):
        return error_line(error)
    text = str(error).strip() or type(error).__name__
    if "Original Traceback" in text:  # raised in a loader's process: its last line is the message
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())
