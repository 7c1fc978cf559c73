"""MVTec AD (Bergmann et al., CVPR 2019), one category at a time."""

import csv
import errno
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from padim_lit.data.datamodule import Split
from padim_lit.data.datasets.mvtec_like import MVTecLike
from padim_lit.data.download import fetch, unpack
from padim_lit.data.tree import require_category
from padim_lit.errors import InputError
from padim_lit.system.atomic import writing
from padim_lit.system.console import print_line
from padim_lit.system.paths import typed_path

PAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad/downloads"
LICENCE = "CC BY-NC-SA 4.0"
_SHARES = "https://www.mydrive.ch/shares"

with Path(__file__).with_name("mvtec_archives.csv").open(encoding="utf-8") as _file:
    _KNOWN = list(csv.DictReader(_file))
#: Where each category lies there, as linked from PAGE in 2026. The publisher has moved the shares
#: twice within a year.
ARCHIVES = {row["category"]: row["path"] for row in _KNOWN}
#: The publisher gives no checksums. These were recorded by at least two projects that have nothing
#: to do with each other; of the other categories only one or none is known to us.
SHA256 = {row["category"]: row["sha256"] for row in _KNOWN if row["sha256"]}


@dataclass(eq=False)
class MVTec(MVTecLike):
    """One category of MVTec AD with its official split and its masks.

    Args:
        root: folder that holds the category folders; ~ is expanded.
        category: "screw", ...: the name of a folder in `root`; none: says which are there.
        download: fetch a category that is not in `root` (CC BY-NC-SA 4.0); see `provide`.
        url: where to fetch it from instead of the publisher's host; an archive of several
            categories will do, the whole dataset say.
        sha256: what the archive must have, in hex.

    Raises InputError for a missing root, an unknown category (naming the ones found), missing or
    empty folders, missing masks, a failed download, and what AnomalyData raises.
    """

    family, short = "MVTec AD", "mvtec"
    licence = f"{LICENCE}, not for commercial use; credit MVTec Software GmbH"

    download: bool = field(default=False, kw_only=True)
    url: str | None = field(default=None, kw_only=True)
    sha256: str | None = field(default=None, kw_only=True)

    def read(self) -> Split:
        if self.download:
            provide(typed_path(self.root), self.category, self.url, self.sha256)
        return super().read()


def provide(root: Path, category: str, url: str | None = None, sha256: str | None = None) -> None:
    """Make sure that `root` holds `category`: fetch and unpack its archive if it does not.

    A folder of a category appears complete or not at all. The archive is removed afterwards.

    Raises InputError for an unknown category without `url`, and everything that goes wrong on the
    way.
    """
    if category and (root / category / "train").is_dir():
        return
    if not category or url is None:
        require_category(category, "MVTec AD", ARCHIVES)
        url = f"{_SHARES}/{ARCHIVES[category]}/{category}.tar.xz"
        sha256 = sha256 or SHA256.get(category)
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"):
            # Another process may have been here while this one waited.
            if not (root / category / "train").is_dir():
                _download(root, category, url, sha256)


def _download(root: Path, category: str, url: str, sha256: str | None) -> None:
    if (root / category).exists():  # said before gigabytes are loaded
        raise InputError(f"{root / category} has no train folder; move it away to download it")
    print_line(
        f"MVTec AD is licensed {LICENCE}: not for commercial use; credit MVTec Software GmbH. "
        f"Terms: {PAGE}"
    )
    archive = fetch(url, root / ".download", sha256)
    unpacked = root / f".{category}.unpacking"
    shutil.rmtree(unpacked, ignore_errors=True)  # of a run that was killed here
    try:
        unpack(archive, unpacked)
        trains = [*unpacked.glob("*/*/train"), *unpacked.glob("*/train")]  # the top one counts
        found = {train.parent.name: train.parent for train in trains}
        require_category(category, url, found)
        for name, folder in found.items():
            if not (root / name).exists():
                folder.rename(root / name)
    except InputError as error:
        # A full disk is not the archive's fault: gigabytes are not loaded twice.
        if getattr(error.__cause__, "errno", None) != errno.ENOSPC:
            archive.unlink()
        raise
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    shutil.rmtree(archive.parent)
