"""Which files are images: the one listing for data sets and for images without labels.

No image is left out, and none is listed twice, without a word.
"""

import logging
import os
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from functools import cache
from os import PathLike
from pathlib import Path

from padim_lit.data.images import EXTENSIONS
from padim_lit.errors import InputError, refusing
from padim_lit.system.atomic import written_by_runs
from padim_lit.system.paths import typed_path

log = logging.getLogger(__name__)

#: What a mask's name has after its photo's, if anything; the second is KolektorSDD2's.
MASK_ENDS = ("_mask", "_GT")
#: Folders of masks, in any case.
MASK_FOLDERS = ("ground_truth", "mask", "masks")
# Not read, but surely meant as images: ignoring them would shrink a dataset unnoticed.
_UNREAD = frozenset({
    ".apng", ".arw", ".avif", ".cr2", ".dng", ".exr", ".gif", ".hdr", ".heic", ".heif", ".j2k",
    ".jfif", ".jp2", ".jpe", ".jpf", ".jpx", ".jxl", ".nef", ".pbm", ".pgm", ".pnm", ".ppm",
    ".psd", ".raw", ".svg", ".tga",
})  # fmt: skip


def find_images(given: str | PathLike, key: str = "images") -> list[Path]:
    """The images that a key's value names, sorted: a file, a folder and all below, or a pattern.

    Folders behind links are followed, each real folder and file is listed once. Hidden files and
    folders are left out, unless named themselves. Links that lead nowhere are listed: reading them
    says so. How many files of which other kinds lie there is logged.

    Raises InputError where there is no image, for images of a format that is not read, masks
    beside photos, and a folder that cannot be read.
    """
    path = typed_path(given)
    if path.is_file():
        return [path]
    found = list(walk(path / "**" if path.is_dir() else path))
    _refuse_unread(found, given)
    _refuse_dangling([p for p in found if not p.suffix], given)  # folders, surely
    images = sorted(p for p in found if is_image(p))
    if not images:
        if not os.path.lexists(path) and not set("*?[") & set(str(path)):
            raise InputError(
                f"{key}={str(given)!r}: no such file or folder; give one that is there"
            )
        raise InputError(
            f"{key}={given}: no image there; give a file, a folder or a quoted pattern of "
            f"{', '.join(EXTENSIONS)}"
        )
    refuse_masks(images, f"{key}={given}")
    others = Counter(p.suffix.lower() or "without suffix" for p in found if not is_image(p))
    if others:
        left = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        log.info("%s=%s: %d images; other files, left out: %s", key, given, len(images), left)
    return images


def list_images(folder: Path) -> list[Path]:
    """Image files in `folder` and all below it, sorted; hidden and other files are ignored.

    Links to one file are several images here, as a store has one file for all that are alike.

    Raises InputError when the folder is missing or cannot be read, for images of a format that is
    not read, and links that lead nowhere. An empty list is no error here.
    """
    _entries(folder)  # says so where it is missing
    files = list(walk(folder / "**", once=False))
    _refuse_dangling(files, folder)
    _refuse_unread(files, folder)
    return sorted(filter(is_image, files))


def refuse_masks(images: list[Path], where: Path | str) -> None:
    """Raise InputError where names call files masks: they would be taken for photos."""
    named = {str(path.with_suffix("")): path for path in reversed(images)}  # the first of a name
    # In a folder that holds all of them too, they are meant.
    shared = len(Path(os.path.commonpath([path.parent for path in images])).parts)
    found = []
    for path in images:
        name = str(path.with_suffix(""))
        ends = [end for end in ("", *MASK_ENDS) if name.endswith(end)]
        photos = [named.get(name.removesuffix(end), path) for end in ends]
        found += [sorted((path, photo)) for photo in photos if photo != path]
        if any(part.lower() in MASK_FOLDERS for part in path.parts[shared:-1]):
            found.append([path])
    if found:
        raise InputError(
            f"{len(found)} image(s) in {where} look like masks among photos, such as "
            f"{' and '.join(map(str, found[0]))}; masks belong in ground_truth/KIND: move them "
            "there, give the photos alone, or rename what is one"
        )


def subfolders(folder: Path) -> list[str]:
    """Names of the visible subfolders of `folder`, sorted; [] when the folder is missing.

    Raises InputError for links that lead nowhere.
    """
    found = _entries(folder) if folder.is_dir() else []
    visible = [folder / entry.name for entry in found if not entry.name.startswith(".")]
    _refuse_dangling(visible, folder)
    return [path.name for path in visible if path.is_dir()]


def is_image(path: Path) -> bool:
    """Whether a file's name ends as an image of a format that is read."""
    return path.suffix.lower() in EXTENSIONS


def looks_like_image(path: Path) -> bool:
    """Whether `is_image`, or the name ends as an image of a format that is not read."""
    return is_image(path) or path.suffix.lower() in _UNREAD


def named_images(pattern: Path, strict: bool = True) -> Iterator[Path]:
    """Return the files that a pattern names, see `walk`, and that their names call images."""
    return filter(looks_like_image, walk(pattern, strict))


def walk(pattern: Path, strict: bool = True, once: bool = True) -> Iterator[Path]:
    """Yield the files that a pattern names, each once and in no order.

    Where it can be, a path has no links.

    ``**`` stands for any number of folders and, at the end, for all files in them. What exists by
    the very name of a part is taken by its name, ``run[7]`` say. Links to a folder that holds the
    one where ``**`` begins lead back and are not followed. What runs of ours wrote is no input: it
    is left out, unless the pattern names it.

    Args:
        pattern: parts as in `fnmatch`, hidden names only where a part begins with a dot; on
            Windows in any case, as its file systems have it.
        strict: InputError for a folder that cannot be read; False passes it over, as a watcher
            must, whose folders come and go.
        once: False gives links to files that are listed already too.
    """
    parts = pattern.relative_to(pattern.anchor).parts
    if parts[-1] == "**":
        parts += ("*",)
    start = Path(pattern.anchor or ".")
    # A real path goes along: to find it takes a look at each folder above. No parts: it is a file.
    plain, linked = [(start, os.path.realpath(start), parts, "")], deque()
    seen: set[tuple[str, int]] = set()
    left = Counter[str]()
    written = cache(written_by_runs)  # for this walk alone: a run may begin at any time
    while plain or linked:
        # Links come last, so that what is there both ways has its own path.
        folder, real, parts, top = plain.pop() if plain else linked.popleft()
        if (parts or once) and (real, len(parts)) in seen:
            if not parts:
                left["links to files that are listed already"] += 1
            continue
        seen.add((real, len(parts)))
        if not parts:
            yield folder
            continue
        head, *rest = parts
        deep = head == "**"
        if deep:
            top = top or real
            plain.append((folder, real, rest, ""))
        elif rest and os.path.lexists(folder / head):
            plain.append((folder / head, os.path.realpath(folder / head), rest, ""))
            continue
        for entry in _entries(folder, strict):
            link = entry.is_symlink()
            # The entry itself raises for a link to itself.
            holds = os.path.isdir(entry.path) if link else entry.is_dir()  # noqa: PTH112
            if holds != (deep or bool(rest)):
                continue  # before what costs most where there are many files
            path, later = folder / entry.name, linked if link else plain
            there = os.path.realpath(path) if link else os.path.join(real, entry.name)  # noqa: PTH118
            if entry.name in written(folder):
                left["files and folders that runs wrote, left out"] += 1
            elif entry.name.startswith(".") and not head.startswith("."):
                if deep or looks_like_image(path):
                    left["hidden images and folders, left out"] += 1
            elif deep and link and Path(top).is_relative_to(there):
                left["links that lead back, not followed"] += 1
            elif deep:
                later.append((path, there, parts, top))
            elif entry.name == head or fnmatch(entry.name, head):
                later.append((path, there, rest, ""))
    if left and strict:
        log.info("%s: %s", pattern, ", ".join(f"{n} {what}" for what, n in left.items()))


def _entries(folder: Path, strict: bool = True) -> list[os.DirEntry]:
    refused = refusing(f"{folder} cannot be read", "check its path and rights", OSError)
    passed = suppress(NotADirectoryError if strict else OSError)
    with refused, passed, os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)
    return []


def _refuse_unread(files: list[Path], where: Path | str) -> None:
    unread = sorted(p for p in files if p.suffix.lower() in _UNREAD)
    if unread:
        raise InputError(
            f"{len(unread)} image(s) in {where} have a format that is not read, such as "
            f"{unread[0]}; allowed are {', '.join(EXTENSIONS)}; convert or remove them"
        )


def _refuse_dangling(entries: list[Path], where: Path | str) -> None:
    dangling = [p for p in entries if p.is_symlink() and not p.exists()]
    if dangling:
        raise InputError(
            f"{len(dangling)} link(s) in {where} lead nowhere, such as {min(dangling)}; fetch "
            "their files (dvc pull, git annex get), or remove them"
        )
