"""The text of ``--help``: every key in a line, and the modes that read it."""

import textwrap
from dataclasses import MISSING, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from padim_lit.cli.modes import MODES
from padim_lit.cli.schema import load, meanings

HEAD = """
PaDiM: learn from good images what a good part looks like, and find what is not so.

  KEY=VALUE                 set a key           -m KEY=A,B    a run for each value
  --cfg job                 print the config    --config-dir DIR  a folder of your own groups
  mode=NAME data=NAME --help    only what these take

Groups: GROUP=OPTION chooses a file

"""
WIDTH = 24


def help_text(*, _root_: DictConfig) -> str:
    """What ``--help`` prints for a config; of mode=fit, for all modes."""
    chosen = str(_root_.get("mode", "fit"))
    names = list(MODES) if chosen == "fit" else [chosen]
    text = HEAD + "$APP_CONFIG_GROUPS"
    if chosen == "fit":
        text += "\nModes\n\n"
        for name in names:
            about = MODES[name].settings_class().__doc__.partition("\n")[0]
            text += _line(f"mode={name}", about)
    text += _keys_of_modes(names)
    for group in ("backbone", "proj", "data", "trainer", "logger"):
        node = _root_.get(group)
        if isinstance(node, DictConfig) and node.get("_target_"):
            text += _keys_of_group(group, node)
    return text


def _keys_of_modes(names: list[str]) -> str:
    """Each key once, by the modes that read it."""
    keys: dict[str, tuple[str, str]] = {}
    readers: dict[str, list[str]] = {}
    for name in names:
        kind = MODES[name].settings_class()
        about = meanings(kind)
        for one in fields(kind):
            if one.name in about:
                default = one.default_factory() if one.default is MISSING else one.default
                keys.setdefault(one.name, (_text(default), about[one.name]))
                readers.setdefault(one.name, []).append(name)
    sections: dict[tuple[str, ...], list[str]] = {}
    for key, modes in readers.items():
        sections.setdefault(tuple(modes), []).append(key)
    text = ""
    for modes, inside in sections.items():
        text += f"\nKeys of {' '.join(f'mode={name}' for name in modes)}\n\n"
        text += "".join(_line(f"{key}={keys[key][0]}", keys[key][1]) for key in inside)
    return text


def _keys_of_group(group: str, node: DictConfig) -> str:
    about = meanings(load(node._target_, group))
    lines = f"\nKeys of {group}: {node._target_}\n\n"
    for key, value in OmegaConf.to_container(node, resolve=False).items():
        if key != "_target_":
            lines += _line(f"{group}.{key}={_text(value)}", about.get(key, ""))
    return lines


def _line(name: str, about: str) -> str:
    lines = textwrap.wrap(about, 98 - WIDTH) or [""]
    first = f"  {name:<{WIDTH - 2}} {lines[0]}" if len(name) < WIDTH - 2 else f"  {name}"
    rest = lines[1:] if len(name) < WIDTH - 2 else lines
    return "\n".join([first.rstrip(), *(" " * (WIDTH + 1) + line for line in rest)]) + "\n"


def _text(value: Any) -> str:
    plain = {None: "null", True: "true", False: "false"}
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    # Hydra fills in what a dollar sign begins.
    return plain[value] if value is None or value is True or value is False else (
        str(value).replace("$", "$$")
    )
