"""``python -m padim_lit``: the command, as ``padim-lit`` and ``python run.py`` are."""

from padim_lit.system.start import start

if __name__ == "__main__":
    start("padim_lit.cli.main")
