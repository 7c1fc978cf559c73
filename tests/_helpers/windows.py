"""Windows' rules where it differs, as far as Linux can play them."""

import os
import pathlib
from pathlib import Path

import pytest

from padim_lit.system import atomic


def keep_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file that this process has open, or mapped into memory, is removed, renamed, replaced.

    `atomic` takes the system for Windows.
    """
    monkeypatch.setattr(atomic, "_WINDOWS", True)
    handles = Path("/proc/self/fd")

    def held() -> set[str]:
        links = [link for link in handles.iterdir() if os.path.lexists(link)]  # not its own
        lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
        return {*(str(link.readlink()) for link in links), *(line[73:] for line in lines)}

    def kept(real):
        def call(*paths, dir_fd=None, **options):
            place = Path() if dir_fd is None else (handles / str(dir_fd)).readlink()
            for path in paths:
                if os.path.realpath(place / path) in held():
                    raise PermissionError(13, "Access is denied", str(path))
            return real(*paths, **options, **({} if dir_fd is None else {"dir_fd": dir_fd}))

        return call

    for name in ("unlink", "remove", "rename", "replace"):
        monkeypatch.setattr(os, name, kept(getattr(os, name)))
        accessor = getattr(pathlib, "_NormalAccessor", None)  # Python 3.10's own list of them
        if hasattr(accessor, name):
            monkeypatch.setattr(accessor, name, staticmethod(getattr(os, name)))
