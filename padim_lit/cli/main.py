"""The command ``padim-lit``, which is ``python run.py``: Hydra around `experiment.main`."""

import os

# Before torch is imported: its threads that wait sleep instead of spinning. Beside other work that
# saved up to half of the time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import NoReturn

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from padim_lit.cli import config, experiment, messages, overrides
from padim_lit.cli.targets import allow
from padim_lit.errors import InputError
from padim_lit.sweep import launchers
from padim_lit.system.console import never_fail_to_print
from padim_lit.system.orphans import be_parent, end_with_parent

#: Options that take the next word, whatever it looks like.
VALUED = (
    *("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"),
    *("--package", "-p", "--cfg", "-c", "--experimental-rerun"),
)
# Seconds; more than a further rank takes to end with the first, see `end_with_parent`.
_PATIENCE = 5.0


def leave(line: str) -> NoReturn:
    """End with one line on stderr, in all: what failed in every rank is the first one's to say."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(_PATIENCE)
    sys.exit(f"error: {line}")


@contextmanager
def one_line_errors(debugging: bool) -> Iterator[None]:
    """Turn what a user can mend into one line on stderr; `debugging` keeps tracebacks."""
    try:
        yield
    except (InputError, HydraException, OmegaConfBaseException, YAMLError, OSError) as error:
        if debugging:
            raise
        leave(messages.one_line(error))
    except KeyboardInterrupt:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if debugging or not (reason := launchers.error_line(error)):
            raise
        leave(reason)


def prepare(words: list[str]) -> list[str]:
    """The command line with the folders that make a sweep go on where it ended."""
    if {"-sc", "--shell-completion", "-i", "--info"} & set(words):
        allow(overrides.own_packages(words))
        return words
    # Options first: Lightning adds keys at the end for further ranks, and only one block may be.
    option = [word.startswith("-") or before in VALUED for before, word in pairwise(["", *words])]
    words = [words[i] for i in sorted(range(len(words)), key=lambda i: not option[i])]
    overrides.refuse_unknown_options(words)
    words = overrides.as_typed(overrides.as_sweep(words))
    typed = overrides.read_overrides([word for word in words if overrides.is_override(word)])
    allow(overrides.own_packages(words))
    overrides.refuse_null_groups(typed, config.CONF)
    return overrides.with_folders(overrides.from_here(words), typed)


def main() -> None:
    """Run the command line in ``sys.argv``; HYDRA_FULL_ERROR=1 keeps tracebacks."""
    # Lightning starts further ranks with this process's environment: theirs is no user's wish.
    debugging = os.environ.get("HYDRA_FULL_ERROR") == "1" and "LOCAL_RANK" not in os.environ

    @hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")
    def task(cfg: DictConfig) -> None:
        # Here too, because Hydra prints a line of its own about an error that comes out of a task.
        with one_line_errors(debugging):
            experiment.main(cfg)

    if "LOCAL_RANK" in os.environ:  # a further rank, or one of torchrun's
        end_with_parent()
    else:
        be_parent()
    # Without this, Hydra reports its errors in its own way, on several lines.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    never_fail_to_print()
    config.register()
    with one_line_errors(debugging):
        sys.argv[1:] = prepare(sys.argv[1:])
        try:
            task()
        except ValueError as error:
            # Where the folder is there already, it is the log file that logging cannot open.
            if isinstance(error, InputError) or not isinstance(error.__cause__, OSError):
                raise
            raise error.__cause__ from error
