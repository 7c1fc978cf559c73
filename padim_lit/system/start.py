"""How a command begins and ends: soon, and quietly where it is interrupted."""

import atexit
import gc
import sys
from importlib import import_module


def start(module: str) -> None:
    """Import `module` and call its ``main``; Ctrl-C in seconds of imports is quiet too."""
    # Torch and others make some 800,000 objects that stay. Python looks for cycles among them while
    # they are imported, now and then later, and at the end: seconds, for nothing.
    gc.disable()
    atexit.register(gc.freeze)
    try:
        main = import_module(module).main
        gc.freeze()
        gc.enable()
        main()
    except KeyboardInterrupt:
        sys.exit(130)
