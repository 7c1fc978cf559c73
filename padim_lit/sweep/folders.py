"""Names of run folders that stay the same for the same command, so that it can be continued."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

#: Keys that say how a result is computed and not which: they change no folder and no result.
RESULT_NEUTRAL_KEYS = (
    "num_workers",
    "full_check",
    "picture_cache",
    "picture_cache_gb",
    "max_memory_gb",
)
CONFIG_PATH = ("--config-path", "-cp")
# Characters of the readable part; with the hash far below a file name's 255 bytes.
SLUG = 60
DIGITS = 10


@dataclass(frozen=True)
class Override:
    """One KEY=VALUE of a command line.

    Attributes:
        key: without "+" or "~".
        value: as typed.
        text: the whole word as typed.
        swept: a multirun makes jobs of its values.
        null: it is null or no text (a number, a list), or one of its values is.
    """

    key: str
    value: str
    text: str
    swept: bool = False
    null: bool = False


def is_override(word: str) -> bool:
    """Whether a word of the command line is KEY=VALUE or ~KEY, and no option such as -m."""
    return not word.startswith("-") and ("=" in word or word.startswith("~"))


def with_folders(words: Sequence[str], overrides: Sequence[Override]) -> list[str]:
    """The command line `words` with folders for what `overrides`, its KEY=VALUEs, ask for.

    Adds hydra.sweep.dir (used by multiruns), and hydra.run.dir where an experiment or a mode other
    than fit is asked for; one that is there already stays. A plain run keeps its folder of day
    and time.
    """
    given = {override.key for override in overrides}
    added = []
    if "hydra.sweep.dir" not in given:
        added.append(f"hydra.sweep.dir=multirun/{folder_name(overrides) or 'sweep'}")
    if "hydra.run.dir" not in given and _experiment(overrides):
        added.append(f"hydra.run.dir=outputs/{folder_name(overrides)}")
    elif "hydra.run.dir" not in given and any(w.startswith(CONFIG_PATH) for w in words):
        # A run's own config says nothing of Hydra, whose folders are shared within a second.
        added.append("hydra.run.dir=outputs/${now:%Y-%m-%d}/${now:%H-%M-%S-%f}")
    # Beside the others, because an option may part them only once.
    places = [i for i, word in enumerate(words) if is_override(word)]
    at = places[-1] + 1 if places else len(words)
    return [*words[:at], *added, *words[at:]]


def folder_name(overrides: Sequence[Override]) -> str:
    """``EXPERIMENT-READABLE-HASH``: equal for equal `overrides`, whatever their order.

    Left out are hydra.* and, unless swept, `RESULT_NEUTRAL_KEYS`. Of a key that is there twice the
    last counts, as for Hydra. Swept keys do keep their order, because it numbers the jobs. The name
    holds letters, digits and "._-" alone. Empty without overrides.
    """
    last = {
        o.key: o
        for o in overrides
        if not _is_hydras(o) and (o.swept or o.key not in RESULT_NEUTRAL_KEYS)
    }
    if not last:
        return ""
    swept = [o for o in last.values() if o.swept]
    rest = sorted((o for o in last.values() if not o.swept), key=lambda o: o.key)
    typed = json.dumps([[o.text for o in swept], [o.text for o in rest]])
    digest = hashlib.sha256(typed.encode()).hexdigest()[:DIGITS]
    words = [_words(o) for o in (*swept, *rest) if o.key not in ("experiment", "mode")]
    readable = "_".join(word for word in words if word)[:SLUG].strip("._-")
    return "-".join(part for part in (_experiment(overrides), readable, digest) if part)


def _experiment(overrides: Sequence[Override]) -> str:
    found = {o.key: _plain(o.value)[:SLUG] for o in overrides if o.key in ("experiment", "mode")}
    mode = found.get("mode", "")
    return found.get("experiment") or ("" if mode == "fit" else mode)


def _is_hydras(override: Override) -> bool:
    return re.split(r"[./]", override.key)[0] == "hydra"


def _words(override: Override) -> str:
    value = override.value
    if not override.swept and "/" in value:
        value = value.rstrip("/'\"").rpartition("/")[2]  # of a path the last name tells most
    return "-".join(w for w in (_plain(override.key.rpartition(".")[2]), _plain(value)) if w)


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip(".-")
