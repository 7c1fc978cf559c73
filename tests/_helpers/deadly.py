"""Data sets that kill their reader, or keep it waiting, or press Ctrl-C at a bad moment."""

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


class ForkedFolder(Folder):
    """Ctrl-C while the process is forked for the so-manieth time ($FORKS), as loaders do."""

    def read(self) -> Split:
        reader, left = os.getpid(), [int(os.environ["FORKS"])]

        def forked() -> None:
            left[0] -= 1
            if left[0] == 0 and os.getpid() == reader:
                signal.raise_signal(signal.SIGINT)

        os.register_at_fork(after_in_parent=forked)
        return super().read()
