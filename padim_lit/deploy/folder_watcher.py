"""A folder into which others write: which files have come to rest, polled."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from padim_lit.data.images import EXTENSIONS
from padim_lit.deploy.prediction_log import Version


class Watcher:
    """Finds files that are new and have not changed for a while.

    Args:
        folder: with all below it; hidden files and folders and other formats are left out.
        settle: seconds that a file's size and time of change must have stayed.
        known: tells versions that need no further look.
        clock: seconds.
    """

    def __init__(
        self,
        folder: Path,
        settle: float,
        known: Callable[[Version], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.settle, self.known, self.clock = folder, settle, known, clock
        self._since: dict[str, tuple[Version, float]] = {}

    def rested(self) -> list[tuple[Version, float]]:
        """Files at rest with the seconds since their last change was seen, longest first."""
        now, since = self.clock(), {}
        for version in self._versions():
            if self.known(version):
                continue
            before = self._since.get(version.path)
            since[version.path] = (
                before if before is not None and before[0] == version else (version, now)
            )
        self._since = since
        found = [(v, now - t) for v, t in since.values() if now - t >= self.settle]
        return sorted(found, key=lambda entry: (-entry[1], entry[0].path))

    @property
    def waiting(self) -> int:
        """Files that are there and not known, after `rested`."""
        return len(self._since)

    def _versions(self) -> Iterator[Version]:
        folders = [str(self.folder)]
        while folders:
            # What goes away between two looks is no error: the next look does without it.
            with suppress(OSError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        folders.append(entry.path)
                    elif entry.name.lower().endswith(EXTENSIONS):
                        with suppress(OSError):
                            yield Version.of(entry.path)
