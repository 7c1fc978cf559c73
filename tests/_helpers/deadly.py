"""Data sets that kill their reader, or keep it waiting."""

import os
import signal
import time
from pathlib import Path

from padim_lit.data import Folder, Split


class DeadlyFolder(Folder):
    """While a file of that name, deadly or endless, lies there."""

    def read(self) -> Split:
        if (Path(self.root) / "deadly").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if (Path(self.root) / "endless").exists():
            (Path(self.root) / "waiting").touch()
            time.sleep(100)
        return super().read()
