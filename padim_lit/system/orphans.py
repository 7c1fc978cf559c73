"""Processes of one run end with the one that started them."""

import os
import signal
import threading
import time

_LOOK_SECONDS = 0.1
_MAIN = "PADIM_LIT_MAIN"


def be_parent() -> None:
    """Let processes that this one starts know whom they end with, were it gone before they look."""
    os.environ[_MAIN] = str(os.getpid())


def end_with_parent() -> None:
    """From now on, let this process be killed as soon as its parent is gone.

    A rank or a sweep's worker would compute on for minutes, until it next spoke with the others.
    """
    parent = int(os.environ.get(_MAIN) or os.getppid())

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()
