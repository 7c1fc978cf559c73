"""A folder into which others write, polled for files that are no longer being written."""

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from padim_lit.data.files import named_images
from padim_lit.deploy.prediction_log import Version
from padim_lit.errors import InputError


@dataclass(eq=False)
class Watcher:
    """Finds files that are new, or written over, and have not changed for a while.

    Args:
        folder: with all folders in it; images of formats that cannot be read are found, too, so
            that a message can name them.
        settle: seconds for which a file's size and time of change must have stayed the same.
        known: whether a version needs no further look.
        clock: gives seconds.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> watcher = Watcher(folder, settle=0, known=set().__contains__)
    >>> _ = (folder / "a.png").write_bytes(b"")
    >>> [Path(version.path).name for version, _ in watcher.rested()], len(watcher.waiting)
    (['a.png'], 1)
    """

    folder: Path
    settle: float
    known: Callable[[Version], bool]
    clock: Callable[[], float] = time.monotonic
    _since: dict[Version, float] | None = field(default=None, init=False)

    def rested(self) -> list[tuple[Version, float]]:
        """Return files at rest, with the seconds since their last change was seen, longest first.

        Raises:
            InputError: the folder is gone, or may not be read; at the first look also a folder in
                it.
        """
        if not self.folder.is_dir():
            raise InputError(f"images={self.folder}: the folder that is watched is gone")
        if not os.access(self.folder, os.R_OK | os.X_OK):
            raise InputError(f"images={self.folder}: may not be read; give this user its rights")
        start = self.clock()
        there = named_images(self.folder / "**", strict=self._since is None)
        new = [version for version in map(Version.of, there) if not self.known(version)]
        end, before = self.clock(), self._since or {}
        # A file was seen between the two times; the later one keeps its rest from being overstated.
        self._since = {version: before.get(version, end) for version in new}
        rests = {version: max(0.0, start - since) for version, since in self._since.items()}
        found = [(version, rest) for version, rest in rests.items() if rest >= self.settle]
        return sorted(found, key=lambda entry: (-entry[1], entry[0].path))

    @property
    def waiting(self) -> Collection[Version]:
        """Files that `rested` saw last and that are not known."""
        return (self._since or {}).keys()
