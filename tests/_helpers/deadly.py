"""A data set that kills its reader, or keeps it waiting, while a file of that name lies there."""

import os
import signal
import time
from pathlib import Path

from padim_lit.data import Folder


class DeadlyFolder(Folder):
    def __init__(self, root: str, **options):
        if (Path(root) / "deadly").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if (Path(root) / "endless").exists():
            time.sleep(100)
        super().__init__(root, **options)
