"""The KEY=VALUEs of a command line, read before Hydra does."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

from padim_lit.errors import InputError
from padim_lit.sweep.folders import Override


def read_overrides(words: Sequence[str]) -> list[Override]:
    """The KEY=VALUEs of a command line as Hydra reads them.

    Raises:
        OverrideParseException: a word is none.
    """
    found = []
    for override in OverridesParser.create().parse_overrides(list(words)):
        swept = override.is_sweep_override()
        value = override.value()
        values = getattr(value, "list", [value]) if swept else [value]
        found.append(
            Override(
                override.key_or_group,
                override.input_line.partition("=")[2],
                override.input_line,
                swept,
                null=not override.is_delete()
                and not all(isinstance(v, str | QuotedString) for v in values),
            )
        )
    return found


def refuse_null_groups(overrides: Sequence[Override], conf: Path) -> None:
    """Refuse GROUP=null or =7, of which Hydra makes a traceback; `conf` holds a folder a group.

    Raises:
        InputError: the group and its options.
    """
    for override in overrides:
        if override.null and (conf / override.key).is_dir():
            options = sorted(file.stem for file in (conf / override.key).glob("*.yaml"))
            raise InputError(
                f"{override.text}: {override.key} is no value but a file of conf/{override.key}; "
                f"leave it out, or choose {', '.join(options)}"
            )


def from_here(words: Sequence[str]) -> list[str]:
    """The command line with a --config-path from where one stands, not from this package."""
    found, takes_path = [], False
    for word in words:
        option, equals, path = word.partition("=")
        if takes_path:
            word = str(Path(word).absolute())
        elif option == "--config-path" and equals:
            word = f"{option}={Path(path).absolute()}"
        found.append(word)
        takes_path = word in ("--config-path", "-cp")
    return found
