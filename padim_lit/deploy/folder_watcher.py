"""A folder into which others write: which files have come to rest, polled."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from padim_lit.data.files import named_images
from padim_lit.deploy.prediction_log import Version
from padim_lit.errors import InputError


@dataclass(eq=False)
class Watcher:
    """Finds files that are new, or written over, and have not changed for a while.

    Args:
        folder: with all below it, as `find_images` lists it; images of formats that are not read
            are given too, so that they are named.
        settle: seconds that a file's size and time of change must have stayed.
        known: tells versions that need no further look.
        clock: seconds.

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
        """Files at rest with the seconds since their last change was seen, longest first.

        Raises:
            InputError: the folder is gone, or may not be read; at the first look one below it.
        """
        if not self.folder.is_dir():
            raise InputError(f"images={self.folder}: the folder that is watched is gone")
        if not os.access(self.folder, os.R_OK | os.X_OK):
            raise InputError(f"images={self.folder}: may not be read; give this user its rights")
        start = self.clock()
        there = named_images(self.folder / "**", strict=self._since is None)
        new = [version for version in _versions(there) if not self.known(version)]
        end, before = self.clock(), self._since or {}
        # At the earliest: a file was seen at some time between the two.
        self._since = {version: before.get(version, end) for version in new}
        rests = {version: max(0.0, start - since) for version, since in self._since.items()}
        found = [(version, rest) for version, rest in rests.items() if rest >= self.settle]
        return sorted(found, key=lambda entry: (-entry[1], entry[0].path))

    @property
    def waiting(self) -> Collection[Version]:
        """Files that are there and not known, after `rested`."""
        return (self._since or {}).keys()


def _versions(paths: Iterable[str | Path]) -> Iterator[Version]:
    for path in paths:
        with suppress(OSError):  # what goes between two looks is no error
            yield Version.of(path)
