"""``python -m padim_lit.report``: what it does is in command.py."""

from padim_lit.system.start import start

if __name__ == "__main__":
    start("padim_lit.report.command")
