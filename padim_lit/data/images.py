"""Reading images and masks from disk: every common pixel format becomes RGB or a boolean mask."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from padim_lit.errors import InputError

T = TypeVar("T")

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
# Not read, but surely meant as images: ignoring them would shrink a dataset unnoticed.
_UNREAD = {
    ".apng", ".arw", ".avif", ".cr2", ".dng", ".exr", ".gif", ".hdr", ".heic", ".heif", ".j2k",
    ".jfif", ".jp2", ".jpe", ".jpf", ".jpx", ".jxl", ".nef", ".pbm", ".pgm", ".pnm", ".ppm",
    ".psd", ".raw", ".svg", ".tga", ".webp",
}  # fmt: skip
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    MemoryError,
    Image.DecompressionBombError,
    # Where warnings are errors; elsewhere `_use` says the same after it.
    Image.DecompressionBombWarning,
)
_MASK_THRESHOLD = 127
#: Pixels of an image; a file of a few kB may claim any number, and each takes up to 16 bytes.
MOST_PIXELS = 89_478_485


def list_images(folder: Path) -> list[Path]:
    """Image files directly in `folder`, sorted by name; hidden and other files are ignored.

    Raises InputError when the folder is missing or cannot be read, and for images of a format that
    is not read. An empty list is no error here.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda p: p.name)
    except OSError as error:
        raise InputError(
            f"cannot read the image folder {folder}: {error.strerror or error}; check the path"
        ) from None
    files = [p for p in entries if not p.name.startswith(".") and p.is_file()]
    unread = [p for p in files if p.suffix.lower() in _UNREAD]
    if unread:
        raise InputError(
            f"{len(unread)} image(s) in {folder} have a format that is not read, such as "
            f"{unread[0].name}; allowed are {', '.join(EXTENSIONS)}; convert or remove them"
        )
    return [p for p in files if p.suffix.lower() in EXTENSIONS]


def read_image(path: Path) -> Image.Image:
    """The image at `path` as 8-bit RGB, EXIF orientation applied.

    Grey is repeated on three channels. 16-bit grey is scaled by the full 16-bit range
    (0..65535 to 0..255, rounded), never by its own maximum, so brightness stays comparable
    between images. Transparency is composited over black, so colours that nobody can see never
    reach the model. Of a multi-page file the first page counts.

    Raises InputError for a missing, empty, truncated, unreadable or floating-point file.
    """
    return _eight_bit(_open(path), path)


def as_rgb(image: Image.Image, name: str = "in memory") -> Image.Image:
    """`image` as `read_image` gives it from a file; `name` is for messages.

    Raises InputError as `read_image` does.
    """
    try:
        return _eight_bit(ImageOps.exif_transpose(image), name)
    except _BROKEN as error:  # it is decoded only now
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the image {name} cannot be decoded ({reason}); replace it") from None


def from_array(values: np.ndarray) -> Image.Image:
    """(h, w), (h, w, 1) or (h, w, 3) uint8 or uint16 as 8-bit RGB; 16 bit as in `read_image`.

    Raises InputError for other shapes and types.
    """
    plain = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3))
    if values.dtype not in (np.uint8, np.uint16) or not plain or 0 in values.shape:
        raise InputError(
            f"an array {values.shape} of {values.dtype} is no picture; allowed are (h, w) and "
            "(h, w, 3) in RGB order of uint8 or uint16; convert it"
        )
    pixels = _to_8bit(values.astype(np.int64)) if values.dtype == np.uint16 else values
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def read_mask(path: Path, nonzero: bool = False) -> np.ndarray:
    """The mask at `path` as (h, w) bool, True = defect, EXIF orientation applied.

    Args:
        path: of the mask.
        nonzero: every value above 0 is a defect, as data sets have it whose masks tell kinds of
            defects apart. What follows is for the others.

    A pixel is a defect where its brightest channel is above 127 of 255 (16-bit masks are scaled
    first). A mask whose maximum is 1 is a binary 0/1 mask. A maximum of 2..127 fits neither
    reading (a class-index map, say) and is refused rather than read as an empty mask.

    Raises InputError as `read_image` does, and for such a maximum.
    """
    image = _open(path)
    if image.mode.startswith("I"):
        raw = _integers(image, path)
        values = raw if nonzero or raw.max(initial=0) == 1 else _to_8bit(raw)
    else:
        values = np.asarray(_rgb(image, path)).max(axis=2)
    highest = int(values.max(initial=0))
    if nonzero:
        return values > 0
    if highest == 1:
        return values == 1
    if 1 < highest <= _MASK_THRESHOLD:
        raise InputError(
            f"mask {path} has values up to {highest}; allowed are 0/1, or grey levels whose "
            f"defects are above {_MASK_THRESHOLD}; write it as 0 and 255"
        )
    return values > _MASK_THRESHOLD


def read_size(path: Path) -> tuple[int, int]:
    """(h, w) of the image at `path` as stored, from its header: no pixel is decoded.

    Raises InputError as `read_image` does, but for what is broken behind the header.
    """
    mode, *size = _use(path, lambda image: (image.mode, image.height, image.width))
    _refuse_floats(mode, path)
    return tuple(size)


def _eight_bit(image: Image.Image, path: Path | str) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray(_to_8bit(_integers(image, path))).convert("RGB")
    return _rgb(image, path)


def _open(path: Path) -> Image.Image:
    """The decoded image in its stored mode, EXIF orientation applied; closes the file."""
    return _use(path, ImageOps.exif_transpose)


def _use(path: Path, use: Callable[[Image.Image], T]) -> T:
    """What `use` makes of the opened image; the file is closed afterwards."""
    if not path.is_file():
        raise InputError(f"no such image file: {path}; check the path")
    if path.stat().st_size == 0:
        raise InputError(f"image file is empty (0 bytes): {path}; replace or remove it")
    try:
        # An open file, not its name: by name Pillow (13.0) maps uncompressed TIFFs into memory with
        # the sides swapped where the orientation tag turns them, which scrambles the pixels.
        with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise InputError(
                    f"image {path} has {image.width}×{image.height} pixels; allowed are "
                    f"{MOST_PIXELS // 10**6} million; make it smaller, or cut it"
                )
            return use(image)
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"cannot read {path} as PNG, JPEG, TIFF or BMP ({reason}); replace or remove it"
        ) from None


def _integers(image: Image.Image, path: Path | str) -> np.ndarray:
    """(h, w) int64 values of a 16- or 32-bit integer image, checked to lie in 0..65535."""
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > 65535:
        raise InputError(
            f"image {path} has integer values {low} to {high}; allowed is 16 bit, 0 to 65535; "
            "convert it to 8 or 16 bit"
        )
    return values


def _to_8bit(values: np.ndarray) -> np.ndarray:
    return _EIGHT_BIT[values]  # a table: the formula on each pixel takes 24 bytes of memory for it


_EIGHT_BIT = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)


def _refuse_floats(mode: str, path: Path | str) -> None:
    if mode == "F":
        raise InputError(
            f"image {path} holds floating-point values, whose range is not defined; "
            "allowed are 8- and 16-bit integers; convert it"
        )


def _rgb(image: Image.Image, path: Path | str) -> Image.Image:
    _refuse_floats(image.mode, path)
    try:
        # has_transparency_data covers the tRNS chunk of palette, grey and RGB files, which
        # converting straight to RGB would drop (with a warning from Pillow for palettes).
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
            return Image.alpha_composite(black, rgba).convert("RGB")
        return image.convert("RGB")
    except ValueError:
        raise InputError(
            f"image {path} has the colour mode {image.mode}, which cannot become RGB; "
            "save it as grey or RGB"
        ) from None
