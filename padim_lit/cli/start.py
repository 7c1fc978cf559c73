"""Where ``padim-lit`` and ``python run.py`` start: before what takes seconds to import."""

from padim_lit.system.start import start


def main() -> None:
    """`padim_lit.cli.main.main`."""
    start("padim_lit.cli.main")
