"""Reading images and masks from disk: every common pixel format becomes RGB or a boolean mask."""

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from padim_lit.errors import InputError, refusing
from padim_lit.system.resource_errors import error_line

T = TypeVar("T")

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_ORIENTATION, _PHOTOMETRIC, _WHITE_IS_ZERO = 0x0112, 262, 0
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WIDTH, _HEIGHT = 256, 257  # tags of a TIFF
_SIDEWAYS = (5, 6, 7, 8)  # (w, h) becomes (h, w)
#: Grey levels above background up to which a mask is taken for one of classes.
MOST_CLASSES = 16
#: Level, of 255, above which a pixel is a defect in masks of more levels, whose edges are soft.
SOFT_THRESHOLD = 127
#: Levels of a JPEG from here to SOFT_THRESHOLD are the mask's own; lower ones may be compression.
FAINT_LEVEL = 64
_LOSSY = ("JPEG", "MPO")
#: Pixels of an image; a file of a few kB may claim any number, and each takes up to 16 bytes.
MOST_PIXELS = 89_478_485


def read_image(path: Path) -> Image.Image:
    """The image at `path` as 8-bit RGB, EXIF orientation applied.

    Grey is repeated on three channels. 16-bit grey is scaled by the full 16-bit range
    (0..65535 to 0..255, rounded), never by its own maximum, so brightness stays comparable
    between images. Transparency is composited over black, so colours that nobody can see never
    reach the model. Of a multi-page file the first page counts.

    Raises InputError for a missing, empty, truncated, unreadable or floating-point file.
    """
    return _use(path, lambda image: _eight_bit(image, path))


def read_bytes(content: bytes | bytearray, todo: str) -> Image.Image:
    """Decode a request's body as `read_image` decodes a file; raise as that does.

    `todo`: what to do, if it cannot be decoded.
    """
    name = "the request's body"
    return _decoded(io.BytesIO(content), name, lambda image: _eight_bit(image, name), todo)


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert `image`, in memory, as `read_image` converts a file; raise as that does.

    Also for 32-bit values that are no file's and none above 255: those of 8 bits would be black.
    """
    with refusing("image in memory cannot be decoded", "replace it", Exception):
        # Of a file the 16 bits are known: a black photo in one is black.
        if image.mode == "I" and image.format is None and image.getextrema()[1] <= 255:
            raise InputError(
                "an int32 image in memory is taken for 16 bit, 0 to 65535, but has no value above "
                "255 and looks like 8-bit; convert it to uint8, or scale it (times 257)"
            )
        return _eight_bit(image, "in memory")


def from_array(values: np.ndarray) -> Image.Image:
    """Convert (h, w), (h, w, 1) or (h, w, 3) uint8 or uint16 to 8-bit RGB as `read_image` does.

    Also what Pillow gives of files: (h, w, 4) uint8 with transparency, (h, w) bool, and (h, w)
    int32 of 16-bit values.

    Raises InputError for other shapes and types, and for int32 of 8-bit values.
    """
    allowed = _CHANNELS.get(values.dtype.name, ())
    if values.ndim < 2 or values.shape[2:] not in allowed or not values.size:
        raise InputError(
            f"an array {values.shape} of {values.dtype} is no picture; allowed are (h, w), "
            "(h, w, 1) and (h, w, 3) in RGB order of uint8 or uint16, and (h, w, 4) of uint8; "
            "convert it"
        )
    pixels = _EIGHT_BIT[values] if values.dtype.name == "uint16" else values
    if pixels.shape[2:] == (1,):
        pixels = pixels[..., 0]
    return as_rgb(Image.fromarray(np.ascontiguousarray(pixels)))


#: Of each type, the shapes of a pixel that are read.
_CHANNELS = {"uint8": [(), (1,), (3,), (4,)], "uint16": [(), (1,), (3,)]}
_CHANNELS |= {kind: [()] for kind in ("bool", "int32")}


def read_mask(path: Path, threshold: int | None = None) -> np.ndarray:
    """The mask at `path` as (h, w) bool, True = defect, EXIF orientation applied.

    What counts is a pixel's brightest channel, 0 to 255 (16-bit masks are scaled).

    Args:
        path: of the mask.
        threshold: what is above is a defect. None: everything above 0 in a mask of at most
            MOST_CLASSES levels, which may be classes of defects; above SOFT_THRESHOLD in one of
            more, whose edges are soft (resized), and in a bright JPEG, which has a border of faint
            levels around each defect.

    Raises InputError as `read_image` does; with None also for a mask of several levels without 0,
    and for one of many levels of which most are low, or areas and not only edges: neither reading
    fits it, and many classes (instances, say) would be lost.
    """
    values, lossy = _use(path, lambda image: (_levels(image, path), image.format in _LOSSY))
    if threshold is not None:
        return _above(values, threshold)
    mask = _above(values, SOFT_THRESHOLD)
    if lossy and 2 * np.count_nonzero(mask) > np.count_nonzero(_above(values, FAINT_LEVEL)):
        return mask
    levels = np.count_nonzero(np.bincount(values.ravel())[1:])
    if 1 < levels <= MOST_CLASSES and values.all():
        raise InputError(
            f"mask {path} has {levels} grey levels and no background, which is 0; write it as 0 "
            "and 255"
        )
    if levels <= MOST_CLASSES:
        return values > 0
    known, lost = np.count_nonzero(values), (values > 0) & ~mask
    if 2 * np.count_nonzero(mask) <= known or 10 * np.count_nonzero(lost & _flat(values)) > known:
        raise InputError(
            f"mask {path} has more than {MOST_CLASSES} grey levels, and much of it is at or below "
            f"{SOFT_THRESHOLD}; it may hold classes or soft edges; write it as 0 and 255"
        )
    return mask


def highest_value(path: Path) -> tuple[int, int]:
    """Return the highest value of the image at `path`, and that of its type: 255 or 65535.

    Raises InputError as `read_image` does.
    """
    values = _use(path, lambda image: _levels(image, path))
    return int(values.max()), int(np.iinfo(values.dtype).max)


def _levels(image: Image.Image, path: Path) -> np.ndarray:
    """Return each pixel's brightest channel, upright: (h, w) uint8 or uint16."""
    image = _upright(image)
    if image.mode.startswith("I"):
        return _integers(image, path).astype(np.uint16)
    levels = np.asarray(_rgb(image, path)).max(axis=2)
    if image.mode == "P" and "transparency" not in image.info:
        classes = np.asarray(image)
        background = levels[classes == 0]
        if background.size and not background.any():  # so what is black too, is a class
            levels = np.maximum(levels, classes > 0)
    return levels


def _flat(values: np.ndarray) -> np.ndarray:
    """Return where a pixel equals its four neighbours, (h, w) bool: in an area, not at an edge."""
    wide = np.pad(values, 1, "edge")
    beside = wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:]
    return np.logical_and.reduce([values == one for one in beside])


def _above(values: np.ndarray, threshold: int) -> np.ndarray:
    return (_EIGHT_BIT[values] if threshold and values.dtype == np.uint16 else values) > threshold


def read_size(path: Path) -> tuple[int, int]:
    """Return the size that `read_header` gives."""
    return read_header(path)[0]


def read_header(path: Path) -> tuple[tuple[int, int], bool]:
    """(h, w) of the image at `path`, upright, and whether `is_paged`: no pixel is decoded.

    Raises InputError as `read_image` does, but for values and what is broken behind the header.
    """

    def look(image: Image.Image) -> tuple[tuple[int, int], bool]:
        width, height = image.size
        if image.format == "TIFF":  # of which newer Pillows give the size as it will be turned
            width, height = (image.tag_v2[tag] for tag in (_WIDTH, _HEIGHT))  # type: ignore
        # A PNG is taken as it lies: Pillow would decode its pixels to look for a tag.
        turned = image.format != "PNG" and _turn(image) in _SIDEWAYS
        return (width, height) if turned else (height, width), is_paged(image)

    return _use(path, look)


def is_paged(image: Image.Image) -> bool:
    """Whether an image, as Pillow opens or `read_image` reads it, has further pages or frames."""
    return getattr(image, "is_animated", False)


def _eight_bit(image: Image.Image, path: Path | str) -> Image.Image:
    paged, image = is_paged(image), _upright(image)
    if image.mode.startswith("I"):
        found = Image.fromarray(_EIGHT_BIT[_integers(image, path)]).convert("RGB")
    else:
        found = _rgb(image, path)
        found.info = {}  # its tags still say how it lay in the file, and it would be turned again
    found.is_animated = paged  # type: ignore[attr-defined]
    return found


def _upright(image: Image.Image) -> Image.Image:
    """The decoded image, turned as its orientation tag says, black at 0.

    Not by Pillow's exif_transpose, which writes all other tags anew and fails where one of them is
    odd, though the pixels are whole.
    """
    tags = getattr(image, "tag_v2", {})
    # Pillow (13.0) inverts 8-bit files of this kind, not 16-bit ones.
    inverted = image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    # By name Pillow (13.0) maps uncompressed TIFFs into memory with the sides swapped where the
    # orientation tag turns them, which scrambles the pixels.
    name = getattr(image, "filename", "")
    image.filename = ""  # type: ignore[attr-defined]
    try:
        image.load()
    finally:  # the caller's picture keeps its name, also where it is broken
        image.filename = name  # type: ignore[attr-defined]
    if inverted:  # and, as all TIFFs, turned by Pillow already
        return Image.fromarray(65535 - np.asarray(image).astype(np.uint16))
    how = _UPRIGHT.get(_turn(image))
    return image if how is None else image.transpose(how)


def _turn(image: Image.Image) -> int | None:
    """Return an image's orientation tag."""
    with suppress(Exception):  # of tags that cannot be read; the pixels are whole
        return image.getexif().get(_ORIENTATION)
    return None


def _use(path: Path, use: Callable[[Image.Image], T]) -> T:
    """Return what `use` makes of the opened image; the file is closed afterwards."""
    todo = "check its path and rights, and where it leads if it is a link"
    with refusing(f"{path} cannot be read", todo, OSError):
        if path.exists() and not path.is_file():  # to open a pipe would wait for its writer
            raise InputError(f"{path} is a folder, pipe or device; give an image file")
        file = path.open("rb")
    with file:
        return _decoded(file, path, use)


def _decoded(
    file: IO[bytes],
    path: Path | str,
    use: Callable[[Image.Image], T],
    todo: str = "replace or remove it",
) -> T:
    what = f"cannot read {path} as PNG, JPEG, TIFF, BMP or WebP"
    try:
        # A decoder may raise anything; it is this file's problem alone.
        with refusing(what, todo, Exception), _opened(file) as image:
            if image.width * image.height > MOST_PIXELS:
                raise InputError(
                    f"{path} is an image of {image.width}×{image.height} pixels; allowed are "
                    f"{MOST_PIXELS // 10**6} million; make it smaller, or cut it"
                )
            return use(image)
    except InputError as error:
        # But of a loader process that was killed PyTorch tells whatever runs at that moment.
        if isinstance(error.__cause__, RuntimeError) and error_line(error.__cause__):
            raise error.__cause__ from None
        raise


def _opened(file: IO[bytes]) -> Image.Image:
    try:
        return Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError:  # whose text names the open file as Python's object
        raise UnidentifiedImageError("its content is none of them") from None
    except Image.DecompressionBombError:  # whose text names Pillow's limit, twice as many
        most = f"{MOST_PIXELS // 10**6} million pixels are allowed"
        raise ValueError(f"at most {most}; make it smaller, or cut it") from None


def _integers(image: Image.Image, path: Path | str) -> np.ndarray:
    """(h, w) int64 values of a 16- or 32-bit integer image, checked to lie in 0..65535.

    The value that a PNG calls transparent is black.
    """
    values = np.asarray(image).astype(np.int64)
    if (clear := image.info.get("transparency")) is not None:
        values[values == clear] = 0
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > 65535:
        raise InputError(
            f"{path} is an image with integer values {low} to {high}; allowed is 16 bit, 0 to "
            "65535; convert it to 8 or 16 bit"
        )
    return values


# 16 to 8 bit as a table: the formula on each pixel would take 24 bytes of memory for it.
_EIGHT_BIT = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)


def _rgb(image: Image.Image, path: Path | str) -> Image.Image:
    if image.mode == "F":
        raise InputError(
            f"image {path} holds floating-point values, whose range is not defined; "
            "allowed are 8- and 16-bit integers; convert it"
        )
    what = f"{path} is an image in the colour mode {image.mode}, which cannot become RGB"
    with refusing(what, "save it as grey or RGB", ValueError):
        # has_transparency_data covers the tRNS chunk of palette, grey and RGB files, which
        # converting straight to RGB would drop (with a warning from Pillow for palettes).
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
            return Image.alpha_composite(black, rgba).convert("RGB")
        return image.convert("RGB")
