"""Keep the few test images worth looking at while all of them pass by."""

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

Role = Literal["highest_defect", "lowest_defect", "highest_good"]
#: In the order of a report.
ROLES: tuple[Role, ...] = get_args(Role)
#: The role of an image whose label nobody knows, which is then `UNKNOWN`.
SCORED, UNKNOWN = "scored", -1


@dataclass(frozen=True, slots=True)
class GalleryEntry:
    """One test image with its truth and its anomaly map, on the CPU.

    Attributes:
        role: "highest_defect" (defective, among the highest scores), "lowest_defect" (among the
            lowest) or "highest_good" (good, among the highest), wherever a threshold lies.
        rank: 1 for the clearest of its role, counted apart with and without pixel truth.
        index: position in the test set.
        path, kind, label: as in the batch; label 0 good, 1 defective.
        score: Mahalanobis distance, not squared; see `image_score`.
        image: uint8 (h, w, 3).
        truth: bool (h, w), True = defect; None where the pixel truth is unknown.
        map: float32 (h, w), Mahalanobis distance.
        planted: the defect was planted, so that the image does not count in the image metrics.
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


class Gallery:
    """The k highest- and k lowest-scoring defects and the k highest-scoring good images so far.

    Images with known pixel truth (planted or masked) and images without compete apart, so that
    both are shown where both occur. At most 6k pictures are held, however many images pass. Equal
    scores are resolved by the index, so batches, their order and ranks do not change the result.
    """

    def __init__(self, k: int = 4):
        self.k = k
        self._kept: dict[tuple[Role, bool], list[GalleryEntry]] = {}

    def add(self, batch: Mapping[str, Any], score: Tensor, map: Tensor) -> None:
        """Offer a collated batch of B images.

        Args:
            batch: as the datamodules collate it.
            score: (B,) Mahalanobis distance of each image, finite.
            map: (B, h, w) Mahalanobis distance of each pixel.
        """
        known = batch["count_pixel"].tolist()
        rows = zip(
            batch["index"].tolist(), batch["label"].tolist(), score.tolist(), known, strict=True
        )
        for i, (index, label, value, has_truth) in enumerate(rows):
            for role in ROLES[:2] if label else ROLES[2:]:
                shelf = self._kept.get((role, has_truth), [])
                # Copying every image and map off the device would be slow.
                if len(shelf) < self.k or _place(role, value, index) < _place_of(shelf[-1]):
                    self._keep(_picture(batch, score, map, i, role))

    def merge(self, other: "Gallery") -> None:
        """Take in what another rank's gallery kept; an image seen by both stays one picture."""
        for shelf in other._kept.values():
            for picture in shelf:
                self._keep(picture)

    def pictures(self) -> list[GalleryEntry]:
        """All pictures in the order of a report, by role, the clearest of each first.

        Where there are fewer than 2k defective images, the upper half are the highest and the
        others the lowest, so that none is both.
        """
        chosen: dict[Role, list[GalleryEntry]] = {role: [] for role in ROLES}
        for truth in (False, True):
            shelves = {role: self._kept.get((role, truth), []) for role in ROLES}
            defective = len({p.index for p in shelves["highest_defect"] + shelves["lowest_defect"]})
            most = {
                "highest_defect": (defective + 1) // 2,
                "lowest_defect": defective // 2,
                "highest_good": self.k,
            }
            for role, shelf in shelves.items():
                chosen[role] += [replace(p, rank=i) for i, p in enumerate(shelf[: most[role]], 1)]
        return [picture for pictures in chosen.values() for picture in pictures]

    def _keep(self, picture: GalleryEntry) -> None:
        shelf = self._kept.setdefault((picture.role, picture.truth is not None), [])
        if all(held.index != picture.index for held in shelf):
            insort(shelf, picture, key=_place_of)
            del shelf[self.k :]


def _place(role: Role, score: float, index: int) -> tuple[float, int]:
    return (score if role == "lowest_defect" else -score, index)


def _place_of(picture: GalleryEntry) -> tuple[float, int]:
    return _place(picture.role, picture.score, picture.index)


def _picture(
    batch: Mapping[str, Any], score: Tensor, map: Tensor, i: int, role: Role
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
    )
