"""The KEY=VALUEs of a command line, read before Hydra does, and the folders named after them.

A run's folder stays the same for the same command, so that it can be continued.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import OverrideParseException

from padim_lit.errors import InputError
from padim_lit.sweep.jobs import RESULT_NEUTRAL_KEYS
from padim_lit.system.paths import typed_path

#: The experiment that is a sweep, as its YAML says; and all words that ask for one.
SWEEP = "experiment=table1"
MANY = ("-m", "--multirun", SWEEP)
#: Modes that compare: they keep what is done.
COMPARE = ("ablation", "distortion", "figure4")
CONFIG_PATH = ("--config-path", "-cp")
# Characters of the readable part; with the hash far below a file name's 255 bytes.
SLUG = 60
DIGITS = 10


def is_override(word: str) -> bool:
    """Whether a word of the command line is KEY=VALUE or ~KEY, and no option such as -m."""
    return not word.startswith("-") and ("=" in word or word.startswith("~"))


def as_sweep(words: Sequence[str]) -> list[str]:
    """The command line with --multirun where an experiment that is a sweep is to be run.

    Hydra reads the mode in a config that it composes first, and where that fails it takes the
    sweep for one run and says of another key that its values are ambiguous.

    >>> as_sweep(["experiment=table1", "data.root=DIR"])
    ['--multirun', 'experiment=table1', 'data.root=DIR']
    >>> as_sweep(["--cfg", "job", "experiment=table1"])
    ['--cfg', 'job', 'experiment=table1']
    """
    asked = get_args_parser().parse_args(list(words))
    typed = any(word.lstrip("+").startswith("hydra.mode=") for word in words)
    otherwise = asked.multirun or asked.run or asked.cfg or typed
    return ["--multirun"] * (SWEEP in words and not otherwise) + list(words)


def as_typed(words: Sequence[str]) -> list[str]:
    """The command line with quotes around values of which Hydra would make another text, or none.

    It takes 2024_01_15 for the number 20240115 and refuses 数据 or run#3. A number in quotes is one
    all the same where the key's type says so.

    Raises:
        InputError: several values, but no sweep; or none.

    >>> as_typed(["data.root=2024_01_15", "ckpt=a b/run#3", "dim=1_0"])
    ['data.root="2024_01_15"', 'ckpt="a b/run#3"', 'dim="1_0"']
    """
    many = any(w in MANY or w.lower() == "hydra.mode=multirun" for w in words)
    return [_kept(word, many) if is_override(word) else word for word in words]


def _kept(word: str, many: bool) -> str:
    key, equals, text = word.partition("=")
    if not equals or key.startswith("~"):
        return word
    if not key or key != key.rstrip():
        raise InputError(f"{word!r}: write KEY=VALUE, without blanks around the =")
    if not text:  # a variable of the shell that is not set; a path would be the working directory
        raise InputError(f"{word} has no value; give one, or leave it out")
    if key in ("hydra.run.dir", "hydra.sweep.dir"):  # the shell leaves the ~ after a = alone
        text = str(typed_path(text))
        word = f"{key}={text}"
    plain = _PLAIN.get(key.lstrip("+").partition(".")[0], ())
    one = partial(_one, plain=() if key.endswith("dir") else plain)
    try:
        (override,) = OverridesParser.create().parse_overrides([f"k={text}"])
    except OverrideParseException:
        listed = text[:1] + text[-1:] == "[]"
        if set(text) & set("'\"") or not (listed or (many and "," in text)):
            return f"{key}={_quoted(text)}"
        parts = ",".join(map(one, (text[1:-1] if listed else text).split(",")))
        return f"{key}=[{parts}]" if listed else f"{key}={parts}"
    if not override.is_sweep_override():
        value, parts = override.value(), text[1:-1].split(",")
        if isinstance(value, list) and len(value) == len(parts):
            return f"{key}=[{','.join(map(one, parts))}]"
        blanks = isinstance(value, str) and value == text.strip() != text  # part of a name
        return f"{key}={_quoted(text) if blanks else one(text)}"
    if not many:
        raise InputError(
            f"{word}: several values; add -m for a run with each, or, if it is one text with a "
            f"comma, type {key}='{_quoted(text)}'"
        )
    parts, swept = [part.strip() for part in text.split(",")], override.value()
    simple = getattr(swept, "simple_form", False) and len(swept.list) == len(parts)
    if simple and len(set(parts)) < len(parts):
        raise InputError(f"{word}: a value is there twice, and would be run twice; give each once")
    return f"{key}={','.join(map(one, parts))}" if simple else word


#: Groups whose keys have no types that would make a number of a text again.
_PLAIN = {"trainer": (bool, int, float), "hydra": (bool, int, float), "logger": (bool,)}


def _one(text: str, plain: tuple[type, ...]) -> str:
    """One value, in quotes where Hydra reads another text; not what is of a type in `plain`."""
    text = text.strip()
    try:
        value = OverridesParser.create().parse_overrides([f"k={text}"])[0].value()
    except OverrideParseException:
        return _quoted(text)
    number = isinstance(value, int | float) and type(value) not in plain
    # In a path of Windows each is a separator, and none escapes what follows.
    unescaped = isinstance(value, str) and ("\\" if os.sep == "\\" else "\\\\") in text
    return _quoted(text) if (number or unescaped) and str(value) != text else text


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.double).with_quotes()


def refuse_unknown_options(words: Sequence[str]) -> None:
    """InputError where Hydra would print its usage, on eight lines, or a traceback.

    >>> refuse_unknown_options(["--dim=5"])
    Traceback (most recent call last):
    padim_lit.errors.InputError: unrecognized arguments: --dim=5; keys are KEY=VALUE ...
    """

    def refuse(message: str) -> NoReturn:
        todo = "keys are KEY=VALUE without dashes, after all options; see --help"
        raise InputError(f"{message}; {todo}")

    parser = get_args_parser()
    parser.allow_abbrev = False  # `prepare` knows which options take a word by their whole names
    parser.error = refuse  # type: ignore[method-assign]
    asked = parser.parse_args(list(words))
    if asked.multirun and asked.cfg:
        raise InputError("--cfg prints one config, not those of a sweep; leave -m out")


def read_overrides(words: Sequence[str]) -> list[Override]:
    """The KEY=VALUEs of a command line as Hydra reads them.

    Raises:
        OverrideParseException: a word is none.
    """
    return OverridesParser.create().parse_overrides(list(words))


def own_packages(words: Sequence[str]) -> list[str]:
    """The packages in own=[…] of a command line."""
    pairs = [word.lstrip("+").partition("=") for word in words]
    return re.findall(r"[^][,\s'\"]+", ",".join(text for key, _, text in pairs if key == "own"))


def refuse_null_groups(overrides: Sequence[Override], conf: Path) -> None:
    """Refuse GROUP=null or =7, of which Hydra makes a traceback; `conf` holds a folder a group.

    Raises:
        InputError: the group and its options.
    """
    for override in overrides:
        group = override.key_or_group
        if override.is_delete() or not (conf / group).is_dir():
            continue
        values = getattr(override.value(), "list", [override.value()])
        if not all(isinstance(value, str | QuotedString) for value in values):
            options = sorted(file.stem for file in (conf / group).glob("*.yaml"))
            raise InputError(
                f"{override.input_line}: {group} is no value but a file of conf/{group}; "
                f"leave it out, or choose {', '.join(options)}"
            )


def from_here(words: Sequence[str]) -> list[str]:
    """The command line with a --config-path from where one stands, not from this package."""
    found, takes_path = [], False
    for word in words:
        option, equals, path = word.partition("=")
        if takes_path:
            word = str(Path(word).absolute())
        elif option in CONFIG_PATH and equals:
            word = f"{option}={Path(path).absolute()}"
        found.append(word)
        takes_path = word in CONFIG_PATH
    return found


def with_folders(words: Sequence[str], overrides: Sequence[Override]) -> list[str]:
    """The command line `words`, options first, with folders for what `overrides` there ask for.

    Adds hydra.sweep.dir (used by multiruns), and hydra.run.dir for what the same command goes on
    with, experiments and watch=true; one that is there already stays. All other runs keep their
    folder of day and time, so that none takes the place of another's results.
    """
    given = {override.key_or_group for override in overrides}
    added = []
    if "hydra.sweep.dir" not in given:
        added.append(f"hydra.sweep.dir=multirun/{folder_name(overrides) or 'sweep'}")
    if "hydra.run.dir" not in given and _goes_on(overrides):
        added.append(f"hydra.run.dir=outputs/{folder_name(overrides)}")
    elif "hydra.run.dir" not in given and any(w.startswith(CONFIG_PATH) for w in words):
        # A run's own config says nothing of Hydra, whose folders are shared within a second.
        added.append("hydra.run.dir=outputs/${now:%Y-%m-%d}/${now:%H-%M-%S-%f}")
    return [*words, *added]


def folder_name(overrides: Sequence[Override]) -> str:
    """``EXPERIMENT-READABLE-HASH``: equal for equal `overrides`, whatever their order.

    Left out are hydra.* and, unless swept, `RESULT_NEUTRAL_KEYS`. Of a key that is there twice the
    last counts, as for Hydra. Swept keys do keep their order, because it numbers the jobs. The name
    holds letters, digits and "._-" alone. Empty without overrides.
    """
    last = {o.key_or_group: o for o in overrides if not re.match("hydra([./]|$)", o.key_or_group)}
    last = {k: o for k, o in last.items() if o.is_sweep_override() or k not in RESULT_NEUTRAL_KEYS}
    if not last:
        return ""
    swept = [o for o in last.values() if o.is_sweep_override()]
    rest = [last[key] for key in sorted(last) if not last[key].is_sweep_override()]
    typed = json.dumps([[o.input_line for o in swept], [o.input_line for o in rest]])
    digest = hashlib.sha256(typed.encode()).hexdigest()[:DIGITS]
    words = [_words(o) for o in (*swept, *rest) if o.key_or_group not in ("experiment", "mode")]
    readable = "_".join(word for word in words if word)[:SLUG].strip("._-")
    return "-".join(part for part in (_experiment(overrides), readable, digest) if part)


def _experiment(overrides: Sequence[Override]) -> str:
    typed = {o.key_or_group: _plain(_value(o))[:SLUG] for o in overrides}
    mode = typed.get("mode", "")
    return typed.get("experiment") or ("" if mode == "fit" else mode)


def _goes_on(overrides: Sequence[Override]) -> bool:
    typed = {o.key_or_group: _plain(_value(o)).lower() for o in overrides}
    watches = typed.get("watch") in ("true", "yes", "on", "y", "1")
    return "experiment" in typed or typed.get("mode") in COMPARE or watches


def _words(override: Override) -> str:
    key, value = override.key_or_group.rpartition(".")[2], _value(override)
    if not override.is_sweep_override():  # of a path the last name tells most
        value = re.split(r"[/\\]", value.rstrip("/\\'\""))[-1]
    return "-".join(word for word in (_plain(key), _plain(value)) if word)


def _value(override: Override) -> str:
    """As typed."""
    return override.input_line.partition("=")[2]


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip(".-")
