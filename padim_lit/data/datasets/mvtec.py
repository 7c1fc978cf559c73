"""MVTec AD (Bergmann et al., CVPR 2019), one category at a time."""

import logging
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from padim_lit.data.archive import BadArchive, unpack
from padim_lit.data.cache import digest_of, stamp
from padim_lit.data.datamodule import Split
from padim_lit.data.datasets.mvtec_like import MVTecLike
from padim_lit.data.download import fetch
from padim_lit.errors import InputError
from padim_lit.system.atomic import write_json, writing
from padim_lit.system.paths import typed_path

log = logging.getLogger(__name__)

PAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad/downloads"
LICENCE = "CC BY-NC-SA 4.0"
_SHARES = "https://www.mydrive.ch/shares"


#: Where each category lies there, as linked from PAGE in 2026. The publisher has moved the shares
#: twice within a year.
ARCHIVES = {
    "bottle": "150452/132a93367fb17cdf968dfb5c4013f6e7/download/420937370-1629958698",
    "cable": "150453/10f960e07fec2838b2cd512586633a32/download/420937413-1629958794",
    "capsule": "150454/e0ce6dd74eb150f46c0d98131b3703f2/download/420937454-1629958872",
    "carpet": "150455/eac7fbce84d93a5094e13f391170eca4/download/420937484-1629959013",
    "grid": "150456/bb0b2e3dc804ccb8b4485e01f8e4493b/download/420937487-1629959044",
    "hazelnut": "150457/51d49f65e84bdc100ff8035d7dd783ea/download/420937545-1629959162",
    "leather": "150458/923030ce14e10a7d147e95d0f8885f6b/download/420937607-1629959262",
    "metal_nut": "150459/c68856a21dca589b0f8ff6d4ee0f18f4/download/420937637-1629959294",
    "pill": "150460/d4f1c04da67034ccc8d8b5fa3e73f244/download/420938129-1629960351",
    "screw": "150461/242f454cc6385e5693c4fd4b94567d1e/download/420938130-1629960389",
    "tile": "150462/5479f0fdc97bc6fa16eab0cb0cf0109f/download/420938133-1629960456",
    "toothbrush": "150463/895a1a5fb84b958f07417784b060434b/download/420938134-1629960477",
    "transistor": "150464/99b8ea0332438d64fcc2475ee73f9c29/download/420938166-1629960554",
    "wood": "150465/d5b4115b720cdb54d217e75636e6e374/download/420938383-1629960649",
    "zipper": "150466/bd155b557520edaf692d9bfdb915c24a/download/420938385-1629960680",
}
#: The publisher gives no checksums. These were recorded by at least two projects that have nothing
#: to do with each other; of the other categories only one or none is known to us.
SHA256 = {
    "bottle": "726512129cb3b1f47d4f6cd7c7fc9170db7fc209132249c788fec06029cb5dc3",
    "capsule": "f6a41cb11f1589d552888fe9c43a1adcbcae15b70073e19093322f836d00a2b6",
    "carpet": "d9dd5064515a20bd75cf24d223c570579141abd72388beef892780b74dbaa85d",
    "grid": "d94a9a651cbfaee22c94d06cf8fa8204a590c872362de0489eb34f1645328de8",
    "metal_nut": "86e3c8e163ceb19146ad3ddc408e85cc34ae02e0da430e07a73bac6bbb48532a",
    "screw": "0a27a365a21e472d19b9fb48cb8e4002b49fabe083bff7f4c16fa57d78154f10",
    "toothbrush": "fe72a34b4b0d074f84e844be7ef8c4f64f7f02f20e25f19c9e3b4a231c8bea77",
    "zipper": "7ab46e0e195da145db30052baea3d3a5d14c5f0e710137c968e0423f02cb942d",
}


@dataclass(eq=False)
class MVTec(MVTecLike):
    """One category of MVTec AD with its official split and its masks.

    Args:
        root: folder that holds the category folders; ~ is expanded.
        category: "screw", "bottle", ...: the name of a folder in `root`.
        download: fetch a category that is not in `root` (CC BY-NC-SA 4.0); see `provide`.
        url: where to fetch it from instead of the publisher's host; an archive of several
            categories will do, the whole dataset say.
        sha256: what the archive must have, in hex.

    Raises InputError for a missing root, an unknown category (naming the ones found), missing or
    empty folders, missing masks, a failed download, and what AnomalyData raises.
    """

    family, short = "MVTec AD", "mvtec"

    download: bool = field(default=False, kw_only=True)
    url: str | None = field(default=None, kw_only=True)
    sha256: str | None = field(default=None, kw_only=True)

    def read(self) -> Split:
        if self.download:
            provide(typed_path(self.root), self.category, self.url, self.sha256)
        return super().read()


def provide(root: Path, category: str, url: str | None = None, sha256: str | None = None) -> None:
    """See that `root` holds `category`: fetch and unpack its archive if it does not.

    A folder of a category appears complete or not at all, with a `source.json` that says where it
    came from and which checksum the archive had. The archive is removed afterwards.

    Raises InputError for an unknown category without `url`, a malformed `url` or `sha256`, and
    everything that goes wrong on the way.
    """
    if re.fullmatch(r"\w[\w.-]*", category) is None:
        raise InputError(f"data.category={category!r} must be the name of a folder, such as screw")
    if (root / category / "train").is_dir():
        return
    if url is None:
        if category not in ARCHIVES:
            raise InputError(
                f"unknown category {category!r}; MVTec AD has {', '.join(ARCHIVES)}; for an "
                "archive of your own set data.url"
            )
        url = f"{_SHARES}/{ARCHIVES[category]}/{category}.tar.xz"
        sha256 = sha256 or SHA256.get(category)
    elif urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise InputError(f"data.url={url!r} must start with http:// or https:// and name a host")
    if sha256 is not None and re.fullmatch(r"[0-9a-fA-F]{64}", sha256) is None:
        raise InputError(f"data.sha256={sha256!r} is no sha256; give its 64 hexadecimal digits")
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"):
            # Another process may have been here while this one waited.
            if not (root / category / "train").is_dir():
                _download(root, category, url, sha256)


def _download(root: Path, category: str, url: str, sha256: str | None) -> None:
    if (root / category).exists():
        raise InputError(
            f"{root / category} is there but has no train folder, so it is no category of MVTec "
            "AD; move it away to download it"
        )
    print(
        f"MVTec AD is licensed {LICENCE}: not for commercial use; credit MVTec Software GmbH. "
        f"Terms: {PAGE}",
        flush=True,
    )
    if sha256 is None:
        log.info("The publisher gives no checksum for %s; what arrives is recorded only.", url)
    archive = fetch(url, root / ".download", sha256)
    unpacked = root / f".{category}.unpacking"
    shutil.rmtree(unpacked, ignore_errors=True)  # of a run that was killed here
    source = {
        "url": url,
        "sha256": digest_of(stamp(archive)),
        "checked": sha256 is not None,
        "licence": LICENCE,
        "bytes": archive.stat().st_size,
    }
    try:
        unpack(archive, unpacked)
        _move(unpacked, root, category, source, url)
    except BadArchive:
        archive.unlink()
        raise
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    shutil.rmtree(archive.parent)


def _move(unpacked: Path, root: Path, category: str, source: dict, url: str) -> None:
    """Rename the categories that `unpacked` holds, at its top or one folder below, into `root`."""
    trains = [*unpacked.glob("*/*/train"), *unpacked.glob("*/train")]  # the top one counts
    found = {train.parent.name: train.parent for train in trains}
    if category not in found:
        there = ", ".join(sorted(found)) or "none"
        raise BadArchive(
            f"{url} holds no {category}/train; categories in it: {there}; check data.url and "
            "data.category"
        )
    for name, folder in sorted(found.items()):
        if not (root / name).exists():
            write_json(folder / "source.json", source)
            folder.rename(root / name)
