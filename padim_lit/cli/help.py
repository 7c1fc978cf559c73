"""The text of ``--help``: every key in a line, and the modes that read it."""

import json
import sys
import textwrap
from dataclasses import MISSING, fields
from pathlib import PurePath
from typing import Any

from omegaconf import DictConfig, OmegaConf

from padim_lit.cli.modes import MODES
from padim_lit.cli.targets import load, meanings

HEAD = """
padim_lit learns from good images what a good part looks like, and finds what differs.

  $RUN data=folder data.root=DIR                         learns from your photos, tests
  $RUN mode=predict ckpt=RUN/model.ckpt images=PHOTOS    scores new ones
  python -m padim_lit.viewer outputs/                             a page over all that was found
  $RUN -m proj=subset,jl seed=0,1,2                      a run for each combination

  mode=NAME --help       the keys of a mode alone; the same with data=NAME, proj=NAME, ...
  KEY=VALUE              sets a key
  --config-dir DIR       adds a folder of your own, with subfolders as those of conf/
  --cfg job              prints the config instead of running it
  hydra.run.dir=FOLDER   where a run writes, in place of a folder in outputs/

GROUP=OPTION chooses a file of a group

$APP_CONFIG_GROUPS"""
#: What Lightning's own words would say otherwise than a run takes.
TRAINER = {
    "accelerator": "auto: a GPU of CUDA's where there is one, else the CPU | cpu | gpu",
    "precision": "32-true | bf16-mixed: the backbone in bf16, all else in float32",
    "max_epochs": "1: a fit is one pass over the images",
}
#: Columns of a key and its default, and of a line.
WIDTH, LINE = 26, 100


def help_text(*, _root_: DictConfig) -> str:
    """Return the text of ``--help`` for a config: its mode's keys, or all modes for mode=fit."""
    chosen = str(_root_.get("mode"))
    names = list(MODES) if chosen not in MODES or chosen == "fit" else [chosen]
    text = HEAD.replace("$RUN", program()) + "\nModes\n\n"
    for name in names:
        about = MODES[name].settings_class().__doc__.partition("\n")[0]
        text += _line(f"mode={name}", about.replace("`", ""))
    text += _keys_of_modes(names)
    unread = set.intersection(*(set(MODES[name].settings_class().imported) for name in names))
    for group in ("backbone", "proj", "density", "data", "trainer", "logger"):
        node = _root_.get(group)
        if isinstance(node, DictConfig) and node.get("_target_") and group not in unread:
            text += _keys_of_group(group, node)
    return text


def program() -> str:
    """What was typed to start this: an installed one has no run.py."""
    installed = {"padim-lit": "padim-lit", "__main__": "python -m padim_lit"}
    return installed.get(PurePath(sys.argv[0]).stem, "python run.py")


def _keys_of_modes(names: list[str]) -> str:
    """Each key once, by the modes that read it."""
    readers: dict[str, list[str]] = {}
    for name in names:
        kind = MODES[name].settings_class()
        about = meanings(kind)
        for one in fields(kind):
            if one.name in about:
                default = one.default_factory() if one.default is MISSING else one.default
                line = _line(f"{one.name}={_text(default)}", about[one.name])
                readers.setdefault(line, []).append(name)
    sections: dict[str, str] = {}
    for line, modes in readers.items():
        section = f"\nKeys of mode={','.join(modes)}\n\n"
        sections[section] = sections.get(section, section) + line
    return "".join(sections.values())


def _keys_of_group(group: str, node: DictConfig) -> str:
    about = {"name": "what tables call it"} | meanings(load(node._target_, group))
    about |= TRAINER if group == "trainer" else {}
    text = f"\nKeys of {group}, {node._target_}\n\n"
    for key, value in OmegaConf.to_container(node, resolve=False).items():
        if key != "_target_":
            text += _line(f"{group}.{key}={_text(value)}", about.get(key, ""))
    return text


def _line(name: str, about: str) -> str:
    first, margin = f"  {name}  ".ljust(WIDTH), " " * WIDTH
    text = textwrap.fill(about, LINE, initial_indent=first, subsequent_indent=margin)
    return (text or first.rstrip()) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    # Hydra fills in what follows a dollar sign.
    return value.replace("$", "$$") if isinstance(value, str) else json.dumps(value)
