"""One line for whatever goes wrong with a config."""

import re
import sys
from dataclasses import fields, is_dataclass
from difflib import get_close_matches

from hydra import errors
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from padim_lit.cli.help import program
from padim_lit.cli.modes import MODES
from padim_lit.cli.settings import Embedding
from padim_lit.errors import InputError, told, visible
from padim_lit.sweep.launchers import EXTRAS

#: What OmegaConf says of a key that is missing, or that another one refers to.
UNSET = re.compile(
    r"Missing mandatory value: (\S+)|interpolation '\${([\w.]+)}': Incompatible value 'None'"
)

#: What it says of a value of another kind, and what we call the kinds.
OF_NO_KIND = re.compile(
    r"Value '(.*)' (?:of type '\w+' could not be converted to|is not a valid) (Integer|Float|bool)"
)
KINDS = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}


def error_line(error: errors.HydraException | OmegaConfBaseException) -> str:
    """One line for a config that Hydra or OmegaConf refuses: what was given, what to do."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    if first.endswith(" raised while composing config:"):
        first = " ".join(lines[:2])
    if isinstance(error, errors.MissingConfigException):
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        if group == "hydra/launcher" and name in EXTRAS:
            return f"this hydra/launcher needs a package more; pip install -e '.[{EXTRAS[name]}]'"
        if error.options:
            return f"no {error.missing_cfg_file}; allowed: {', '.join(error.options)}"
    if isinstance(error, errors.OverrideParseException):
        word = str(error.override)
        meant = f"did you mean mode={word.lower()}? " if word.lower() in MODES else ""
        wrong = "cannot be read" if "=" in word else "no KEY=VALUE"
        return (
            f"{word!r}: {wrong}; {meant}write KEY=VALUE, in double quotes where the shell would "
            f'part it, as in "data.root=MY DATA"; `{program()} --help` lists the keys'
        )
    group = re.fullmatch(r"Could not override '(\w+)'\. No match in the defaults list\.", first)
    if group and (readers := _readers(group[1])):
        chosen = [word for word in sys.argv if word.startswith(("mode=", "experiment="))]
        where = " ".join(chosen) or "this mode"
        return f"{group[1]} is no key of {where}, but of {', '.join(readers)}; leave it out"
    if preset := re.match(r"In 'experiment/(\w+)': .*Key '(\w+)' not in", first):
        return f"experiment={preset[1]}: sets {preset[2]}, no key of this mode; leave one out"
    if unset := UNSET.search(first):
        key = unset[1] or unset[2]
        return f"{key} is not set; give {key}=VALUE"
    cause = error.__cause__ if isinstance(error, errors.ConfigCompositionException) else error
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        if is_dataclass(cause.object_type):
            return _unknown(cause.full_key, cause.object_type)
        return " ".join(lines)
    if wrong := OF_NO_KIND.search(str(cause)):
        return f"{getattr(cause, 'full_key', '')}={wrong[1]}: must be {KINDS[wrong[2]]}"
    if cause is error or cause is None:
        key = getattr(error, "full_key", None)
        if "is not a ListConfig, list or tuple" in first:
            return f"{key}: must be a list, as in {key}=[A,B]"
        return f"{key}: {first}" if key and key not in first else first
    given = first.partition("override ")[2].partition(": ")[0]
    key, _, text = given.partition("=")
    if "is not a ListConfig, list or tuple" in str(cause):
        return f"{given}: must be a list; write {key}=[{text}], and several as {key}=[A,B]"
    if "is not Optional" in str(cause):
        return f"{given}: null is no value of it; give {key}=VALUE"
    if kind := re.search(r"Cannot convert '(list|dict)' to string", str(cause)):
        text = text.replace('"', "")  # quotes of `as_typed`
        several = "give a folder that holds all, or a pattern, as in 'DIR/**/*.png'; "
        todo = f"{several * (key == 'images')}if it is one, type {key}='\"{text}\"'"
        return f"{key}={text}: a text, and no {kind[1]}; {todo}"
    # The exception names the override, its cause what is wrong with it.
    return f"{first}: {str(cause).splitlines()[0]}; `{program()} --help` lists the keys"


def _unknown(key: str, kind: type) -> str:
    """Describe a key that neither a mode's settings nor a group's class have."""
    above, dot, last = key.rpartition(".")
    known = [f"{above}{dot}{name}" for name in _keys(kind)]
    # As ckpts for ckpt, proj for projs; images are no image_size.
    near = get_close_matches(key.lower(), known, n=1, cutoff=0.85)
    meant = [f"did you mean {name}?" for name in near]
    if dot and not near and _readers(last):  # as image_size, which is of the run and not of data
        meant = [f"{last} stands alone: give {last}=VALUE;"]
    if key == "data.root":  # of the default, which lies in a package
        meant = ["did you mean data=folder data.root=DIR?"]
    if not dot and (readers := _readers(key)):
        of_fits = all(issubclass(reader, Embedding) for reader in readers.values())
        fixed = of_fits and not issubclass(kind, Embedding)
        stays = ": what a model was fitted with stays; fit again to change it" if fixed else ""
        todo = " ".join(meant) or f"type one of these, or leave it out{stays}"
        return f"{key} is no key of mode={kind.mode}, but of {', '.join(readers)}; {todo}"
    return " ".join([f"unknown key {key};", *meant, f"known here: {', '.join(known)}"])


def _keys(kind: type) -> list[str]:
    return [one.name for one in fields(kind) if one.name[0] != "_"]


def _readers(key: str) -> dict[str, type]:
    """Return the modes that have the key, and their settings."""
    kinds = {f"mode={name}": mode.settings_class() for name, mode in MODES.items()}
    return {name: kind for name, kind in kinds.items() if key in _keys(kind)}


def one_line(error: BaseException) -> str:
    """Return an error's message in one line, without what frameworks wrap around our own errors."""
    return visible(_without_wrapping(error))


def _without_wrapping(error: BaseException) -> str:
    if isinstance(error, errors.InstantiationException) and error.__cause__ is not None:
        # Of a class of the user's own; what Lightning says is plain without its names.
        made = re.match(r"Error in call to target '(?!lightning\.)([\w.]+)'", str(error))
        error = error.__cause__
        if made and not isinstance(error, InputError | OSError | OmegaConfBaseException):
            return f"{made[1]}: {type(error).__name__}: {told(error)}"
    if isinstance(error, errors.HydraException | OmegaConfBaseException):
        return error_line(error)
    text = str(error).strip()
    if "Original Traceback" in text:  # raised in a loader's process: its last line is the message
        return " ".join(text.splitlines()[-1].partition(": ")[2].split())
    return told(error)
