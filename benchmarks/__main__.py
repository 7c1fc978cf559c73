"""Entry point: ``python -m benchmarks NAME --help``."""

import runpy
import sys
from pathlib import Path


def main() -> None:
    known = benchmarks()
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("python -m benchmarks NAME [--help]")
        for one, what in known.items():
            print(f"  {one:<10} {what}")
        return
    if name not in known:
        sys.exit(f"error: no benchmark {name!r}; allowed: {', '.join(known)}")
    sys.argv = [f"python -m benchmarks {name}", *rest]
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")


def benchmarks() -> dict[str, str]:
    """By its name the first line of each file that has a main: what it measures."""
    files = sorted(Path(__file__).parent.glob("[!_]*.py"))
    texts = {file.stem: file.read_text(encoding="utf-8") for file in files}
    firsts = {name: text.partition("\n")[0] for name, text in texts.items() if "\ndef main" in text}
    return {name: first.strip('"') for name, first in firsts.items()}


if __name__ == "__main__":
    main()
