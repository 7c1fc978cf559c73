"""The config: its schema, for Hydra, and the settings that are made of it, once, for a mode.

``defaults: [/class/PACKAGE.CLASS@_here_]`` in a YAML file makes the arguments of that class, with
their types and defaults, the keys that the file's group has. Values of another type and keys that
are not there are refused by Hydra before anything runs.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

from padim_lit.cli.help import help_text
from padim_lit.cli.hydra_internals import ConfigLoaderImpl, use_loader
from padim_lit.cli.hydra_section import guard, require_installed
from padim_lit.cli.modes import mode_of
from padim_lit.cli.overrides import own_packages
from padim_lit.cli.settings import Embedding, Settings
from padim_lit.cli.targets import allow, load, meanings, require_targets, schema
from padim_lit.errors import InputError, refusing

_PACKAGE = Path(__file__).parents[1]
#: The YAML files: part of an installed package, beside it in a checkout.
CONF = next(c for c in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if c.is_dir())
#: Keys of a config that hold what a class is made with.
OF_CLASSES = ("backbone", "proj", "density", "data")
_PREFIX = "class/"
#: Values that were taken from the environment → how they were asked for.
_taken: dict[str, str] = {}
_MIN_LENGTH = 4  # characters: what is shorter is part of other texts by chance


class ClassSource(ConfigSource):
    """Serves ``class/PACKAGE.CLASS``: a config of the class's arguments."""

    @staticmethod
    def scheme() -> str:
        return "class"

    def load_config(self, config_path: str) -> ConfigResult:
        target = config_path.removeprefix(_PREFIX).removesuffix(".yaml")
        found = load(target)
        ours = isinstance(found, type) and issubclass(found, Settings)
        node = OmegaConf.structured(found if ours else schema(target))
        return ConfigResult(self.provider, config_path, node, {"package": None})

    def is_config(self, config_path: str) -> bool:
        return config_path.startswith(_PREFIX)

    def is_group(self, config_path: str) -> bool:
        return False

    def available(self) -> bool:
        return True

    def list(self, config_path: str, results_filter: Any) -> list[str]:
        return []


class CheckedLoader(ConfigLoaderImpl):
    """Hydra's loader, in a process whose ``hydra`` section cannot make foreign classes."""

    def load_configuration(
        self, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any
    ) -> DictConfig:
        guard()  # here, because a launcher's process has not seen the command line
        allow(own_packages(overrides))
        what, todo = "a config file cannot be read as YAML", "save it as UTF-8, and less nested"
        with refusing(what, todo, UnicodeDecodeError, RecursionError):
            config = super().load_configuration(config_name, overrides, *args, **kwargs)
        require_installed(config)
        swept = OmegaConf.select(config, "hydra.sweeper.params") or {}
        if own_packages([f"{key}={value}" for key, value in swept.items()]):
            # Hydra makes command-line words of these, and a job would think that a user typed them.
            raise InputError("hydra.sweeper.params: own counts on the command line alone; type it")
        return config


class ClassSearchPath(SearchPathPlugin):
    """Makes Hydra ask `ClassSource`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.prepend("padim_lit", "class://", SearchPathQuery(provider="schema"))


def _env(name: str, *default: str | None) -> str | None:
    """Resolve ``${oc.env:NAME}`` as OmegaConf does.

    The value is remembered, so that no file shows it.
    """
    value = oc.env(name, *default)
    if value and (value,) != default:
        _taken[value] = f"${{oc.env:{name}}}"
    return value


def register() -> None:
    """Register ``class/``, the text of ``--help``, and the checks before Hydra makes an object."""
    for plugin in (ClassSource, ClassSearchPath):
        Plugins.instance().register(plugin)
    use_loader(CheckedLoader)
    OmegaConf.register_new_resolver("oc.env", _env, replace=True)
    OmegaConf.register_new_resolver("padim_lit.help", help_text, replace=True)


def settings_of(config: DictConfig, typed: Iterable[str] = ()) -> Settings:
    """The settings of the config's mode: plain values, checked.

    A config that was written by an earlier run comes without types, and a YAML of one's own may
    name its class by ``_target_`` alone: all are held against the signatures here.

    Args:
        config: as Hydra composed it.
        typed: the KEY=VALUEs of the command line.

    Raises:
        InputError: a value that is not allowed.
        OmegaConfBaseException: a key that is not known, not set, or of another type.
    """
    plain = OmegaConf.to_container(config)
    require_targets(plain)
    for key in (*OF_CLASSES, "trainer", "logger"):
        given = plain.get(key)
        if not isinstance(given, dict) and given not in (None, "???"):
            raise InputError(
                f"{key}={given}: a saved config knows no files of conf/{key}; set its keys one by "
                f"one, as in {key}.NAME=VALUE, or leave --config-path out"
            )
    kind = mode_of(plain.get("mode")).settings_class()
    projs = plain.get("projs") or []  # what a mode compares in one pass
    for key, _, value in (word.lstrip("+~").partition("=") for word in typed):
        group, dot, _ = key.partition(".")
        if group not in kind.imported:
            continue
        # A file of one's own need not be called as its class is.
        names = {value, (plain.get(group) or {}).get("name")}
        # What scores with a checkpoint needs the modules that it names.
        if dot or (issubclass(kind, Embedding) and names.isdisjoint(projs)):
            other = ": projs names what it compares" if group == "proj" and projs else ""
            raise InputError(
                f"{key}={value}: mode={kind.mode} does not use it; leave it out{other}"
            )
    full = OmegaConf.merge(OmegaConf.structured(kind), plain)
    for group in OF_CLASSES:
        node = full.get(group)
        if isinstance(node, DictConfig):
            if node.get("_target_") is None:
                raise InputError(
                    f"{group}: its file names no class; write _target_: MODULE.CLASS into it, or "
                    "defaults: [/class/MODULE.CLASS@_here_]"
                )
            # First into its place, so that an error can name the whole key.
            full[group] = OmegaConf.structured(schema(node._target_))
            defaults = OmegaConf.to_container(full[group])
            full[group].merge_with(plain[group])
            if group == "proj" and projs and OmegaConf.to_container(full[group]) != defaults:
                raise InputError(
                    f"{group}={node._target_} with other keys than its defaults: mode={kind.mode} "
                    "draws all with their class's; change them there, or compare fits: -m proj=NAME"
                )
    for group in ("trainer", "logger"):
        node = plain.get(group)
        if isinstance(node, dict) and node.get("_target_"):
            # Held against the types alone: the defaults stay Lightning's.
            types = OmegaConf.structured(schema(node["_target_"]))
            given = {key: value for key, value in node.items() if key in types}
            merged = OmegaConf.to_container(OmegaConf.merge({group: types}, {group: given}))[group]
            # `no` is a text, which would count as true.
            words = [key for key, value in given.items() if isinstance(value, str)]
            full[group].update({key: merged[key] for key in words if type(merged[key]) is bool})
    about = meanings(kind)
    for key in sorted(OmegaConf.missing_keys(full)):
        what = f": {about[key]}" if key in about else ""
        raise InputError(f"{key} is not set; give {key}=VALUE{what}")
    filled = OmegaConf.to_container(full, resolve=True)
    require_targets(filled)  # which ${…} may have brought
    settings = kind(**filled)
    for word in typed:
        key, _, value = word.lstrip("+").partition("=")
        if reader := settings.unread.get(key):
            value = value.replace('"', "")  # quotes of `as_typed`
            raise InputError(f"{key}={value} is of {reader}: give that, or leave {key} out")
    return settings


def as_asked(node: Any) -> Any:
    """Return plain containers in which ``${oc.env:NAME}`` again replaces values such as secrets."""
    if isinstance(node, dict):
        return {key: as_asked(part) for key, part in node.items()}
    if isinstance(node, list | tuple):
        return [as_asked(part) for part in node]
    for value, asked in _taken.items():
        if node == value or (isinstance(node, str) and len(value) >= _MIN_LENGTH):
            node = node.replace(value, asked)
    return node
