"""Names of run folders that stay the same for the same command, so that it can be continued."""

import hashlib
import json
import re
from collections.abc import Sequence

from hydra.core.override_parser.types import Override

from padim_lit.sweep.jobs import RESULT_NEUTRAL_KEYS

#: Modes that compare: they keep what is done.
COMPARE = ("ablation", "distortion", "figure4")
CONFIG_PATH = ("--config-path", "-cp")
# Characters of the readable part; with the hash far below a file name's 255 bytes.
SLUG = 60
DIGITS = 10


def is_override(word: str) -> bool:
    """Whether a word of the command line is KEY=VALUE or ~KEY, and no option such as -m."""
    return not word.startswith("-") and ("=" in word or word.startswith("~"))


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
