"""The command line, read before Hydra does, and the folders named after its KEY=VALUEs.

A run's folder stays the same for the same command, so that it can be continued.
"""

import hashlib
import json
import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import OverrideParseException

from padim_lit.cli.hydra_internals import get_args_parser
from padim_lit.errors import InputError
from padim_lit.sweep.jobs import RESULT_NEUTRAL_KEYS
from padim_lit.system.paths import typed_path

#: The experiment that is a sweep, as its YAML says.
SWEEP = "experiment=table1"
#: The experiment that is a run as any other, with other defaults.
PRESET = "padim"
#: What OmegaConf takes for true, in small letters.
TRUE_WORDS = ("true", "yes", "on", "y", "1")
#: Modes that compare many fits; they keep finished ones.
COMPARING_MODES = ("ablation", "distortion", "figure4")
#: Keys that choose a file of conf/NAME.
GROUPS = ("mode", "experiment", "backbone", "proj", "density", "data", "trainer", "logger")
# Groups whose keys have no types: nothing would turn a quoted number into a number again.
_PLAIN = {"trainer": (bool, int, float), "hydra": (bool, int, float), "logger": (bool,)}
# Characters of a name's readable part; with the hash, names stay far below 255 bytes.
SLUG_LENGTH = 60
HASH_DIGITS = 10


def options_of(words: Sequence[str]) -> tuple[Namespace, ArgumentParser]:
    """Parse a command line as Hydra does; return its options and the parser.

    Options may stand anywhere.

    Raises InputError where Hydra would print its usage, on eight lines, or a traceback.

    >>> asked, _ = options_of(["dim=4", "-m", "seed=0,1"])
    >>> asked.multirun, asked.overrides
    (True, ['dim=4', 'seed=0,1'])
    >>> options_of(["--dim=5"])
    Traceback (most recent call last):
    padim_lit.errors.InputError: unrecognized arguments: --dim=5; keys are KEY=VALUE ...
    """

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message}; keys are KEY=VALUE without dashes; see --help")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    asked = parser.parse_intermixed_args(list(words))
    if asked.multirun and asked.cfg:
        raise InputError("--cfg prints one config, not those of a sweep; leave -m out")
    if asked.experimental_rerun:
        raise InputError("--experimental-rerun reads a pickle; give --config-path RUN instead")
    if asked.config_path is not None:  # from where one stands, not from this package
        asked.config_path = str(Path(asked.config_path).absolute())
    # Hydra reads the mode in a config that it composes first, and where that fails it takes the
    # sweep for one run and says of another key that its values are ambiguous.
    otherwise = asked.run or asked.cfg or asked.info or asked.shell_completion
    asked.multirun = asked.multirun or (SWEEP in asked.overrides and not otherwise)
    return asked, parser


def as_typed(words: Sequence[str], many: bool = False) -> list[str]:
    """Put values in quotes where Hydra would read another text, or refuse it.

    It takes 2024_01_15 for the number 20240115 and refuses 数据 or run#3. A number in quotes is one
    all the same where the key's type says so.

    Args:
        many: commas part the values of a sweep.

    Raises:
        InputError: several values, but no sweep; or none.

    >>> as_typed(["data.root=2024_01_15", "ckpt=a b/run#3", "dim=1_0"])
    ['data.root="2024_01_15"', 'ckpt="a b/run#3"', 'dim="1_0"']
    """
    return [_kept(word, many) for word in words]


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
    plain = () if key.endswith("dir") else _PLAIN.get(key.lstrip("+").partition(".")[0], ())
    with suppress(OverrideParseException):
        (override,) = read_overrides([f"k={text}"])
        if override.is_sweep_override() and not many:
            one = f"text with a comma, type {key}='{_quoted(text)}'"
            if re.fullmatch(r"-?\d+,\d+", text):  # as in half of Europe
                one = f"number, type {key}={text.replace(',', '.')}"
            raise InputError(
                f"{word}: several values; add -m for a run with each; if it is one {one}"
            )
    group, listed = key in GROUPS, text[:1] + text[-1:] == "[]"
    parts = [part.strip() for part in (text[1:-1] if listed else text).split(",")]
    apart = not group if listed else many and len(parts) > 1
    if not apart or not all(map(_whole, parts)):
        return f"{key}={_one(text, plain, group)}"
    if not listed and len(set(parts)) < len(parts):
        raise InputError(f"{word}: a value is there twice, and would be run twice; give each once")
    kept = ",".join(_one(part, plain, group) for part in parts)
    return f"{key}=[{kept}]" if listed else f"{key}={kept}"


def _whole(part: str) -> bool:
    """Whether what lies between two commas is one value: no bracket or quote is open."""
    brackets = all(part.count(left) == part.count(right) for left, right in ("[]", "()", "{}"))
    return brackets and not any(part.count(quote) % 2 for quote in "'\"") and part[-1:] != "\\"


def _one(text: str, plain: tuple[type, ...], group: bool) -> str:
    """Put one value in quotes where Hydra reads another text, unless its type is in `plain`.

    That of a `group` is a name: of 7 or null Hydra would make a traceback.
    """
    try:
        value = read_overrides([f"k={text}"])[0].value()
    except OverrideParseException:
        return _quoted(text)
    if group and not isinstance(value, str | QuotedString):
        return _quoted(text)
    number = isinstance(value, int | float) and type(value) not in plain
    # In a path of Windows each is a separator, and none escapes what follows.
    unescaped = isinstance(value, str) and ("\\" if os.sep == "\\" else "\\\\") in text
    blanks = value == text.strip()  # at its ends, which Hydra drops, though part of a name
    return _quoted(text) if (number or unescaped or blanks) and str(value) != text else text


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.double).with_quotes()


def read_overrides(words: Sequence[str]) -> list[Override]:
    """The KEY=VALUEs of a command line as Hydra reads them.

    Raises:
        OverrideParseException: a word is none.
    """
    return OverridesParser.create().parse_overrides(list(words))


def own_packages(words: Sequence[str]) -> list[str]:
    """Return the packages in own=[…] of a command line."""
    pairs = [word.lstrip("+").partition("=") for word in words]
    return re.findall(r"[^][,\s'\"]+", ",".join(text for key, _, text in pairs if key == "own"))


def refuse_hidden_config(asked: Namespace, conf: Path) -> None:
    """Refuse a --config-dir with a config that Hydra would pass over for that of the same name.

    Raises:
        InputError: how to run that config.
    """
    name = f"{(asked.config_name or 'config').removesuffix('.yaml')}.yaml"
    hidden, chosen = Path(asked.config_dir or "") / name, Path(asked.config_path or conf) / name
    both = asked.config_dir is not None and hidden.is_file() and chosen.is_file()
    if both and not hidden.samefile(chosen):
        raise InputError(
            f"--config-dir adds files to groups, and {hidden} would be passed over for {chosen}; "
            f"to run it type -cp {hidden.parent} -cn {hidden.stem}, else rename it"
        )


def folders(overrides: Sequence[Override], saved: bool = False) -> list[str]:
    """Return, as KEY=VALUEs, the folders that the command line does not name.

    hydra.sweep.dir (used by multiruns), and hydra.run.dir for what the same command goes on with,
    experiments and watch=true. All other runs keep their folder of day and time, so that none takes
    the place of another's results.

    Args:
        saved: the config is a run's, which says nothing of Hydra's folders: those of its own are
            shared within a second.
    """
    typed = {o.key_or_group: _value(o) for o in overrides}
    name, added = folder_name(overrides), []
    if "hydra.sweep.dir" not in typed:
        added.append(f"hydra.sweep.dir=multirun/{name or 'sweep'}")
    if "hydra.run.dir" not in typed:
        watches = _plain(typed.get("watch", "")).lower() in TRUE_WORDS
        experiment = typed.get("experiment", PRESET) != PRESET
        if experiment or typed.get("mode") in COMPARING_MODES or watches:
            added.append(f"hydra.run.dir=outputs/{name}")
        elif saved:
            added.append("hydra.run.dir=outputs/${now:%Y-%m-%d}/${now:%H-%M-%S-%f}")
    return added


def folder_name(overrides: Sequence[Override]) -> str:
    """Return ``EXPERIMENT-READABLE-HASH``, the same for the same `overrides` in any order.

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
    digest = hashlib.sha256(typed.encode()).hexdigest()[:HASH_DIGITS]
    chosen = [_plain(_value(last[key])) for key in ("experiment", "mode") if key in last]
    first = "" if chosen[:1] == ["fit"] else "".join(chosen[:1])[:SLUG_LENGTH]
    words = [_words(o) for o in (*swept, *rest) if o.key_or_group not in ("experiment", "mode")]
    readable = "_".join(filter(None, words))[:SLUG_LENGTH].strip("._-")
    return "-".join(filter(None, (first, readable, digest)))


def _words(override: Override) -> str:
    key, value = override.key_or_group.rpartition(".")[2], _value(override)
    if not override.is_sweep_override():  # of a path the last name tells most
        value = re.split(r"[/\\]", value.rstrip("/\\'\""))[-1]
    return "-".join(filter(None, (_plain(key), _plain(value))))


def _value(override: Override) -> str:
    """Return an override's value as it was typed."""
    return override.input_line.partition("=")[2]


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip(".-")
