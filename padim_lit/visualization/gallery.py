"""Keep the few test images worth looking at while all of them pass by, and write them as numbers.

``maps.npz`` holds them for pages that colour the maps anew.
"""

import os
from bisect import insort
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from padim_lit.analysis.result_files import BROKEN, load_arrays, reading
from padim_lit.system.atomic import file_bytes, write_bytes

Role = Literal["highest_defect", "lowest_defect", "highest_good"]
#: In the order of a report.
ROLES: tuple[Role, ...] = get_args(Role)
#: The role of an image whose label nobody knows, which is then `UNKNOWN`.
SCORED, UNKNOWN = "scored", -1
#: Steps of a stored distance between the lowest and the highest of all maps.
LEVELS = 2**16 - 1
#: A picture's attributes that are one value each.
PLAIN_ATTRIBUTES = ("role", "path", "kind", "rank", "index", "label", "score", "planted")


@dataclass(frozen=True, slots=True)
class GalleryEntry:
    """One test image with its truth and its anomaly map, on the CPU.

    Attributes:
        role: "highest_defect" (defective, among the highest scores), "lowest_defect" (among the
            lowest) or "highest_good" (good, among the highest), wherever a threshold lies.
        rank: 1 for the clearest of its role; planted defects are counted apart.
        index: position in the test set.
        path, kind, label: as in the batch; label 0 good, 1 defective.
        score: Mahalanobis distance, not squared; see `image_score`.
        image: uint8 (h, w, 3).
        truth: bool (h, w), True = defect; None where the pixel truth is unknown.
        map: float32 (h, w), Mahalanobis distance.
        planted: the defect was planted, so that the image does not count in the image metrics.
        roi: bool (h, w), what counts; None: all.
    """

    role: Role | Literal["scored"]
    rank: int
    index: int
    path: str
    kind: str
    label: int
    score: float
    image: np.ndarray
    truth: np.ndarray | None
    map: np.ndarray
    planted: bool = False
    roi: np.ndarray | None = None

    @property
    def shown(self) -> np.ndarray:
        """The map, float32 (h, w), NaN outside of `roi`: there it is 0, as if all was well."""
        return self.map if self.roi is None else np.where(self.roi, self.map, np.float32(np.nan))


Placed = tuple[tuple[float, int], GalleryEntry]


class Gallery:
    """The k highest- and k lowest-scoring defects and the k highest-scoring good images so far.

    Planted defects compete apart, so that real ones are shown too. At most 5k pictures are held,
    however many images pass. Equal scores are resolved by the index, so batches, their order and
    ranks do not change the result.
    """

    def __init__(self, k: int = 4):
        self.k = k
        # By role and whether it is planted: (±score, index) and picture, the clearest first.
        self._kept: dict[tuple[Role, bool], list[Placed]] = defaultdict(list)

    def add(
        self, batch: Mapping[str, Any], score: Tensor, map: Tensor, roi: Tensor | None = None
    ) -> None:
        """Offer a collated batch of B images.

        Args:
            batch: as the datamodules collate it.
            score: (B,) Mahalanobis distance of each image, finite.
            map: (B, h, w) Mahalanobis distance of each pixel.
            roi: (h, w) bool, what of it counts; None: all.
        """
        counts = None if roi is None else roi.cpu().numpy()
        real = batch["count_image"].tolist()
        rows = zip(
            batch["index"].tolist(), batch["label"].tolist(), score.tolist(), real, strict=True
        )
        for i, (index, label, value, is_real) in enumerate(rows):
            for role in ROLES[:2] if label else ROLES[2:]:
                place = (value if role == "lowest_defect" else -value, index)
                shelf = self._kept[role, not is_real]
                # Copying every image and map off the device would be slow.
                if len(shelf) < self.k or place < shelf[-1][0]:
                    self._keep(shelf, (place, _picture(batch, score, map, i, role, counts)))

    def merge(self, other: "Gallery") -> None:
        """Take in what another rank's gallery kept; an image seen by both stays one picture."""
        for key, shelf in other._kept.items():
            for placed in shelf:
                self._keep(self._kept[key], placed)

    def pictures(self) -> list[GalleryEntry]:
        """Return all pictures in the order of a report: by role, the clearest of each first.

        Where there are fewer than 2k defective images, the upper half are the highest and the
        others the lowest, so that none is both.
        """
        chosen: dict[Role, list[GalleryEntry]] = {role: [] for role in ROLES}
        for planted in (False, True):
            shelves = {role: [p for _, p in self._kept[role, planted]] for role in ROLES}
            defective = len({p.index for p in shelves["highest_defect"] + shelves["lowest_defect"]})
            most = {
                "highest_defect": (defective + 1) // 2,
                "lowest_defect": defective // 2,
                "highest_good": self.k,
            }
            for role, shelf in shelves.items():
                chosen[role] += [replace(p, rank=i) for i, p in enumerate(shelf[: most[role]], 1)]
        return [picture for pictures in chosen.values() for picture in pictures]

    def _keep(self, shelf: list[Placed], placed: Placed) -> None:
        if all(held.index != placed[1].index for _, held in shelf):
            insort(shelf, placed)
            del shelf[self.k :]


def _picture(
    batch: Mapping[str, Any],
    score: Tensor,
    map: Tensor,
    i: int,
    role: Role,
    roi: np.ndarray | None,
) -> GalleryEntry:
    image = batch["image"][i].clamp(0, 1).mul(255).round().to(torch.uint8)
    # copy(): a view would keep the whole batch alive.
    truth = batch["mask"][i].cpu().numpy().copy() if batch["count_pixel"][i] else None
    return GalleryEntry(
        role=role,
        rank=0,
        index=int(batch["index"][i]),
        path=batch["path"][i],
        kind=batch["kind"][i],
        label=int(batch["label"][i]),
        score=float(score[i]),
        image=np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()),
        truth=truth,
        map=map[i].float().cpu().numpy().copy(),
        planted=not batch["count_image"][i],
        roi=roi,
    )


def write_maps(path: str | os.PathLike, pictures: Sequence[GalleryEntry]) -> Path | None:
    """Write what `maps_file` gives; no picture writes nothing.

    Raises:
        InputError: the file cannot be written.
    """
    return write_bytes(path, maps_file(pictures)) if pictures else None


def maps_file(pictures: Sequence[GalleryEntry]) -> bytes:
    """Pack K pictures of one size, at least one, as arrays of a compressed npz.

    ``image`` uint8 (K,h,w,3); ``truth`` bool (K,h,w), ``known`` (K,) whether it is; ``map`` uint16
    (K,h,w), a distance being ``low + step · map`` with ``scale`` (2,) for the two; ``roi`` bool
    (h,w), where there is one; and an array (K,) for each of `PLAIN_ATTRIBUTES`. Sixteen bits over
    the range of the maps are finer than half-precision floats.
    """
    maps = np.stack([picture.map for picture in pictures]).astype(np.float64)
    low = float(maps.min())
    step = max(float(maps.max()) - low, 1e-6) / LEVELS
    blank = np.zeros(maps.shape[1:], bool)
    return file_bytes(
        np.savez_compressed,
        **{name: np.array([getattr(p, name) for p in pictures]) for name in PLAIN_ATTRIBUTES},
        scale=np.array([low, step]),
        image=np.stack([picture.image for picture in pictures]),
        known=np.array([p.truth is not None for p in pictures]),
        truth=np.stack([blank if p.truth is None else p.truth for p in pictures]),
        map=np.rint((maps - low) / step).astype(np.uint16),
        **({} if pictures[0].roi is None else {"roi": pictures[0].roi}),
    )


def read_maps(path: str | os.PathLike) -> list[GalleryEntry]:
    """Read the pictures of a file of `write_maps`; no pickle in it is loaded.

    Raises:
        InputError: the file is none of ours, cut off, or too large.
    """
    file = load_arrays(Path(path))
    with reading(Path(path), *BROKEN):
        return _pictures(file)


def _pictures(file: dict[str, np.ndarray]) -> list[GalleryEntry]:
    low, step = file["scale"].astype(np.float64).tolist()
    said = {name: file[name].tolist() for name in PLAIN_ATTRIBUTES}
    return [
        GalleryEntry(
            image=file["image"][i],
            truth=file["truth"][i] if file["known"][i] else None,
            map=(low + step * file["map"][i]).astype(np.float32),
            roi=file.get("roi"),
            **{name: values[i] for name, values in said.items()},
        )
        for i in range(len(file["map"]))
    ]
