"""Where ``padim-lit`` and ``python run.py`` start: before what takes seconds to import."""

import sys


def main() -> None:
    """`padim_lit.cli.main.main`; Ctrl-C while it is imported is status 130 too, and quiet."""
    try:
        from padim_lit.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
