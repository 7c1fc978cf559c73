"""A data set that kills its reader, or keeps it waiting, while a file of that name lies there."""

import os
import signal
import time
from pathlib import Path

from padim_lit.data import Folder, Split


class DeadlyFolder(Folder):
    def read(self) -> Split:
        if (Path(self.root) / "deadly").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if (Path(self.root) / "endless").exists():
            (Path(self.root) / "waiting").touch()
            time.sleep(100)
        return super().read()
