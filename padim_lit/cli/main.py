"""The command ``padim-lit``, which is ``python run.py``: Hydra around `experiment.main`."""

import os

# Before torch is imported: its threads that wait sleep instead of spinning. Beside other work that
# saved up to half of the time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from hydra import version
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from padim_lit.cli import config, experiment, messages, overrides
from padim_lit.cli.hydra_internals import run_hydra
from padim_lit.cli.targets import allow
from padim_lit.errors import InputError
from padim_lit.sweep import launchers
from padim_lit.system.atomic import writing
from padim_lit.system.console import never_fail_to_print
from padim_lit.system.orphans import be_parent, end_with_parent

# Seconds; more than a further rank takes to end with the first, see `end_with_parent`.
_PATIENCE = 5.0
# Causes of logging's own errors: a file that cannot be opened, a class that no config may name.
LOGGING_CAUSES = (OSError, InputError)


def leave(line: str) -> NoReturn:
    """End the process with one line on stderr.

    What failed in every rank is reported by the first alone.
    """
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


def prepare(words: list[str]) -> tuple[Namespace, ArgumentParser]:
    """Return the words for Hydra, with the folders by which a sweep goes on where it ended."""
    asked, parser = overrides.options_of(words)
    sweep = asked.multirun or overrides.SWEEP in asked.overrides
    asked.overrides = overrides.as_typed(asked.overrides, sweep)
    overrides.refuse_hidden_config(asked, config.CONF)
    typed = overrides.read_overrides(asked.overrides)
    allow(overrides.own_packages(asked.overrides))
    asked.overrides += overrides.folders(typed, saved=asked.config_path is not None)
    return asked, parser


def main() -> None:
    """Run the command line in ``sys.argv``; HYDRA_FULL_ERROR=1 keeps tracebacks."""
    # Further ranks inherit this process's environment from Lightning: no user asked them.
    debugging = os.environ.get("HYDRA_FULL_ERROR") == "1" and "LOCAL_RANK" not in os.environ

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
        asked, parser = prepare(sys.argv[1:])
        # What `hydra.main` does with a command line that it reads itself.
        version.setbase("1.3")
        try:
            run_hydra(asked, parser, task, str(config.CONF), "config")
        except ValueError as error:
            if isinstance(error, InputError) or not isinstance(error.__cause__, LOGGING_CAUSES):
                raise
            with writing(Path(getattr(error.__cause__, "filename", None) or "run.log")):
                raise error.__cause__ from error
