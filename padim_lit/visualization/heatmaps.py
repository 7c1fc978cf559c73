"""Save the pictures of a gallery: one PNG each, and one sheet with all of them."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from padim_lit.deploy.explanation import Explanation
from padim_lit.deploy.regions import View
from padim_lit.system.atomic import write_bytes
from padim_lit.visualization.gallery import GalleryEntry
from padim_lit.visualization.overlay import MIN_LINES, SMALL, Heat, heat_map, outlines, side_by_side
from padim_lit.visualization.panels import BOLD, columns, font_of, grid, keys, png, thumb, written

#: Pixels of the overview: its width, and white between pairs of pictures.
WIDTH, SPACE = 1480, 12
# Of a file's name in the overview: its end tells a camera's photos apart.
MOST_LETTERS = 32
NAMES = {
    "highest_defect": "Highest-scoring defects",
    "lowest_defect": "Lowest-scoring defects",
    "highest_good": "Highest-scoring good",
}


@dataclass(frozen=True)
class Look:
    """What all figures of a run have in common.

    Attributes:
        threshold: Mahalanobis distance of the map's outline; None draws none.
        image_threshold: from which an image is called defective; None calls none found or missed.
        scale: (low, high) Mahalanobis distance of the colours.
        title: what the run was, in a few words.
        source: where the thresholds are from, in a few words.
        stretch: width over height, in the photos, of a pixel that the model sees.
    """

    threshold: float | None
    image_threshold: float | None
    scale: tuple[float, float]
    title: str
    source: str = "Thresholds chosen on the test set, hence optimistic"
    stretch: float = 1.0

    def shape(self, seen: Sequence[int]) -> tuple[int, int]:
        """Return the size that (h, w) pixels have in the photos' proportions, in the same area."""
        high, wide = seen[0] / self.stretch**0.5, seen[1] * self.stretch**0.5
        return max(1, round(high)), max(1, round(wide))

    def heat(self, picture: GalleryEntry) -> Heat:
        """Return a picture's map, which is of the whole of it."""
        h, w = picture.map.shape
        view = View((h, w), (0, 0, w, h))
        return Heat(picture.map, view, self.scale, self.threshold, picture.roi, picture.truth)

    def note(self) -> str:
        """Say which thresholds there are."""
        values = {"an image's score": self.image_threshold, "places on its map": self.threshold}
        known = [f"{v:.2f} for {name}" for name, v in values.items() if v is not None]
        if not known:
            return "No threshold could be chosen: the test set lacks good or defective images."
        return f"{self.source}: {', '.join(known)}."

    def called(self, picture: GalleryEntry) -> str | None:
        """Return how the image threshold judges a picture; None without a threshold.

        A defect is found where its map is marked at it, as far as its place is known.
        """
        if self.image_threshold is None:
            return None
        if picture.score < self.image_threshold:
            return "missed" if picture.label else "called good"
        if not picture.label:
            return "false alarm"
        if self.threshold is None or no_truth(picture):
            return "called defective"
        marked = picture.map >= self.threshold
        if marked[picture.truth].any():
            return "found"
        return "marked elsewhere" if marked.any() else "nothing marked"


def save_heatmaps(
    folder: str | os.PathLike,
    pictures: Sequence[GalleryEntry],
    look: Look,
    explanations: Sequence[Explanation] | None = None,
) -> list[Path]:
    """Write one PNG per picture and ``overview.png``, and return their paths, the overview last.

    Args:
        folder: made if it is missing.
        pictures: from ``Gallery.pictures``, all of one size; none writes nothing.
        look: what the figures have in common.
        explanations: of each picture's score, for a row of each layer's share of the map.

    Raises:
        InputError: the folder cannot be written.
    """
    folder, paths = Path(folder), []
    for picture, why in zip(pictures, explanations or [None] * len(pictures), strict=True):
        path = folder / _file_name(picture, look.called(picture))
        if path in paths:
            path = folder / f"{picture.index}_{path.name}"
        paths.append(write_bytes(path, draw_one(picture, look, why)))
    if pictures:
        paths.append(write_bytes(folder / "overview.png", draw_all(pictures, look)))
    return paths


def draw_one(picture: GalleryEntry, look: Look, why: Explanation | None = None) -> bytes:
    """Draw a picture beside its map, and each layer's share, if known, as `side_by_side` does."""
    said = f"{NAMES[picture.role]}, no. {picture.rank}: {picture.kind}, score {picture.score:.2f}"
    if called := look.called(picture):
        where = "at or above" if picture.score >= look.image_threshold else "below"
        said += f" ({called}: {where} the threshold)"
    caption = [said, PurePath(picture.path).name, look.title, look.note()]
    if missing := no_truth(picture):
        caption.append(missing)
    height, width = look.shape(picture.image.shape)
    image = np.asarray(Image.fromarray(picture.image).resize((width, height)))
    return side_by_side(image, look.heat(picture), caption, why, defect_name([picture]), 2 * SMALL)


def draw_all(pictures: Sequence[GalleryEntry], look: Look) -> bytes:
    """Draw all pictures beside their maps, in rows."""
    shelves: dict[tuple[str, bool], list[GalleryEntry]] = {}
    for picture in pictures:
        shelves.setdefault((picture.role, picture.planted), []).append(picture)
    height, width = thumb(look.shape(pictures[0].map.shape))
    font, bold = font_of(), font_of(file=BOLD)
    pair = columns(2, (height, width))
    across = max(1, WIDTH // (pair * width + SPACE))
    sheets = [written([look.title], WIDTH, font_of(18, BOLD))]
    for shelf in shelves.values():
        cells, texts = [], []
        for picture in shelf:
            small = np.asarray(Image.fromarray(picture.image).resize((width, height)))
            both = small, heat_map(small, look.heat(picture), MIN_LINES)
            cells.append(grid([Image.fromarray(one) for one in both], ["", ""], pair, font))
            said = [picture.kind, f"{picture.score:.2f}", look.called(picture)]
            name = PurePath(picture.path).name[-MOST_LETTERS:]
            texts.append(f"{', '.join(filter(None, said))}\n{name}")
        sheets += [written([_heading(shelf)], WIDTH, bold), grid(cells, texts, across, font, SPACE)]
    maps = [p.map for p in pictures]
    lines = outlines(maps, look.threshold, defect_name(pictures), pictures[0].roi)
    footer = keys(round(font.size), {"distance": look.scale}, lines)
    return png([*sheets, written([look.note(), *footer], WIDTH, font)])


def defect_name(pictures: Sequence[GalleryEntry]) -> str | None:
    """Return what dashed outlines surround; None where no picture has any."""
    known = [p.planted for p in pictures if p.truth is not None and p.truth.any()]
    if not known:
        return None
    return "planted defect" if all(known) else "true defect"


def no_truth(picture: GalleryEntry) -> str | None:
    """Return why there is no truth to draw, or None where there is one."""
    if picture.label == 0:
        return None
    if picture.truth is None:
        return "place unknown"
    return None if picture.truth.any() else "the defect lies outside the crop"


def _heading(shelf: Sequence[GalleryEntry]) -> str:
    name = NAMES[shelf[0].role]
    if shelf[0].planted:
        return f"{name} (planted)"
    unknown = all(picture.truth is None and picture.label for picture in shelf)
    return f"{name} (place unknown)" if unknown else name


def remove_heatmaps(folder: Path) -> None:
    """Remove what `save_heatmaps` and `write_maps` wrote in an earlier run; other files stay."""
    roles = "|".join(NAMES)
    ours = re.compile(rf"(\d+_)?({roles})-\d+_.*\.png|overview\.png|maps\.npz")
    for path in folder.glob("*"):
        if ours.fullmatch(path.name):
            path.unlink()


def _file_name(picture: GalleryEntry, called: str | None) -> str:
    # A file's name may have 255 bytes, and a letter four.
    kind, stem = (
        text.encode("utf-8", "replace")[:80].decode("utf-8", "ignore")
        for text in (picture.kind, PurePath(picture.path).stem)
    )
    parts = (f"{picture.role}-{picture.rank}", kind, stem, f"{picture.score:.2f}", called)
    return "_".join(re.sub(r"[^\w.-]+", "-", part) for part in parts if part is not None) + ".png"
