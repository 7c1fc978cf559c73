"""What ``python -m padim_lit.NAME`` commands share: their parser, and errors of one line."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from padim_lit.errors import InputError, told, visible
from padim_lit.system.console import never_fail_to_print


class Parser(argparse.ArgumentParser):
    """An argparse parser of ``python -m MODULE`` whose errors are one line."""

    def __init__(self, module: str, description: str | None):
        super().__init__(prog=f"python -m {module}", description=description)

    def take_folders(self, name: str, what: str) -> None:
        """Take one folder or more as the first argument, called `name`."""
        help = f"folders with {what}, at any depth"
        self.add_argument("folders", nargs="+", metavar=name, help=help)

    def error(self, message: str) -> NoReturn:
        # argparse would print its usage on a line of its own.
        usage = " ".join(self.format_usage().removeprefix("usage: ").split())
        self.exit(2, f"error: {message}; usage: {usage}\n")


def run(command: Callable[[], None]) -> None:
    """Run `command`; what a user can mend is one line and status 1, Ctrl-C is status 130."""
    never_fail_to_print()  # a path may hold what a file or pipe of Windows' code page lacks
    try:
        command()
    except (InputError, OSError) as error:
        sys.exit(f"error: {told(error)}")
    except KeyboardInterrupt:
        sys.exit(130)


def say(text: str) -> None:
    """Print one line on what is being done, beside what the command prints."""
    print(visible(" ".join(text.split())), file=sys.stderr, flush=True)
