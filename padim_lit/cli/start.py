"""Where ``padim-lit`` and ``python run.py`` start: before what takes seconds to import."""

import sys
from importlib.metadata import version

from padim_lit.system.start import start
from padim_lit.version import __version__


def main() -> None:
    """`padim_lit.cli.main.main`; ``--version`` at once, which Hydra would take for its own."""
    if "--version" in sys.argv[1:]:
        print(f"padim_lit {__version__} (torch {version('torch')}, Hydra {version('hydra-core')})")
        return
    start("padim_lit.cli.main")
