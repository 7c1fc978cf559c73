"""Where ``padim-lit`` and ``python run.py`` start: before what takes seconds to import."""

import atexit
import gc
import sys


def main() -> None:
    """`padim_lit.cli.main.main`; Ctrl-C while it is imported is status 130 too, and quiet."""
    # At its end Python looks for cycles among all that torch and others imported: 2 s for nothing.
    atexit.register(gc.freeze)
    try:
        from padim_lit.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
