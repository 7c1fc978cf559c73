"""Image files without labels: one file, a folder with all below it, or a pattern."""

import glob
from pathlib import Path

from padim_lit.data.images import EXTENSIONS
from padim_lit.errors import InputError


def find_images(given: str) -> list[Path]:
    """The images that `given` names, sorted: a file, a folder and all below it, or a pattern.

    Hidden files and folders and files of other formats are left out, unless named themselves.

    Raises:
        InputError: there is none.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        below = (p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in EXTENSIONS)
        found = [p for p in below if not any(x.startswith(".") for x in p.relative_to(path).parts)]
    elif path.is_file():
        found = [path]
    else:
        named = (Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207
        found = [p for p in named if p.is_file() and p.suffix.lower() in EXTENSIONS]
    if not found:
        raise InputError(
            f"images={given}: no image there; give a file, a folder or a quoted pattern of "
            f"{', '.join(EXTENSIONS)}"
        )
    return sorted(found)
