"""Broken and strange inputs, made from a seed, and what a program may do with them.

A case is a name and a thunk. What the thunk may do is to return, or to raise InputError with one
line that names what was given. Anything else, more than `SECONDS`, or more than `MEMORY` beyond
what the process held, is a bug.
"""

import contextlib
import math
import resource
import signal
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor

from padim_lit.errors import InputError

SECONDS = 20.0  # a case takes milliseconds
MEMORY = 4 * 2**30


class Case(NamedTuple):
    """`run` may return, or raise InputError whose line has `named` in it."""

    name: str
    run: Callable[[], object]
    named: str


class TooSlow(BaseException):
    """No Exception, so that no handler of the program takes it for a broken input."""


def outcome(case: Case) -> str:
    """ "done" or "refused"; AssertionError for whatever else happens."""
    try:
        with _limits():
            case.run()
    except InputError as error:
        line = str(error)
        assert "\n" not in line and line.isprintable(), f"{case.name}: more than a line: {line!r}"
        assert case.named in line, f"{case.name}: {line!r} does not name {case.named}"
        return "refused"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise AssertionError(f"{case.name}: {type(error).__name__}: {error}") from error
    return "done"


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TooSlow(f"no end after {SECONDS} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    old = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, old[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, old)


# --- Bytes -------------------------------------------------------------------------------------


def flip(content: bytes, random: Random, bits: int | None = None) -> bytes:
    """Some bits turned over."""
    changed = bytearray(content)
    for _ in range(bits or random.choice([1, 1, 2, 8, 64])):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def truncate(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content))]


def splice(content: bytes, other: bytes, random: Random) -> bytes:
    """The beginning of one, the end of another."""
    return content[: random.randrange(len(content))] + other[random.randrange(len(other)) :]


def overwrite(content: bytes, random: Random) -> bytes:
    """A run of bytes replaced by noise, zeros or ones, or doubled."""
    start = random.randrange(len(content))
    length = random.choice([1, 2, 4, 8, 100])
    part = random.choice(
        [random.randbytes(length), b"\0" * length, b"\xff" * length, content[start:][:length] * 2]
    )
    return content[:start] + part + content[start + length :]


def damaged(content: bytes, other: bytes, random: Random) -> bytes:
    how = random.randrange(5)
    if how == 0:
        return truncate(content, random)
    if how == 1:
        return splice(content, other, random)
    if how == 2:
        return overwrite(content, random)
    if how == 3:  # headers are where sizes and offsets are
        return flip(content[:64], random, 1) + content[64:]
    return flip(content, random)


# --- Images ------------------------------------------------------------------------------------


def images() -> dict[str, bytes]:
    """Whole files of every kind that is read, by name."""
    noise = np.random.default_rng(0)
    grey = noise.integers(0, 256, (37, 51), dtype=np.uint8)
    rgb = noise.integers(0, 256, (37, 51, 3), dtype=np.uint8)
    deep = noise.integers(0, 65536, (37, 51), dtype=np.uint16)
    colour, sixteen = Image.fromarray(rgb), Image.fromarray(deep)
    turned = Image.Exif()
    turned[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    many = {"save_all": True, "append_images": [colour.transpose(Image.Transpose.ROTATE_90)]}
    made = {
        "grey.png": (Image.fromarray(grey), {}),
        "rgb.png": (colour, {"icc_profile": profile}),
        "deep.png": (sixteen, {}),
        "palette.png": (colour.quantize(16), {"transparency": 3}),
        "rgba.png": (colour.convert("RGBA"), {}),
        "bits.png": (Image.fromarray(grey).convert("1"), {}),
        "animated.png": (colour, many),
        "dot.png": (Image.new("L", (1, 1), 7), {}),
        "line.png": (Image.new("L", (3000, 1), 7), {}),
        "rgb.jpg": (colour, {"exif": turned, "icc_profile": profile}),
        "scans.jpg": (colour, {"progressive": True}),
        "cmyk.jpg": (colour.convert("CMYK"), {}),
        "rgb.tif": (colour, {"exif": turned}),
        "deep.tif": (sixteen, {"compression": "tiff_lzw"}),
        "pages.tif": (colour, many),
        "deflated.tif": (colour, {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": (colour, {"compression": "jpeg"}),
        "fax.tif": (Image.fromarray(grey).convert("1"), {"compression": "group4"}),
        "cmyk.tif": (colour.convert("CMYK"), {}),
        "floats.tif": (Image.fromarray(grey.astype(np.float32)), {}),
        "rgb.bmp": (colour, {}),
        "palette.bmp": (colour.quantize(16), {}),
        "rgb.webp": (colour, {"exif": turned, "icc_profile": profile}),
        "rgba.webp": (colour.convert("RGBA"), {"lossless": True}),
        "animated.webp": (colour, {"save_all": True, "append_images": [colour]}),
    }
    files = {}
    for name, (image, options) in made.items():
        end = name.rpartition(".")[2]
        kind = {"jpg": "JPEG", "tif": "TIFF"}.get(end, end.upper())
        image.save(memory := BytesIO(), kind, **options)
        files[name] = memory.getvalue()
    return files


def image_files(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents: each whole file first, then bombs, then broken ones."""
    random, whole = Random(seed), images()
    yield from list(whole.items())[:count]
    for n in range(count - len(whole)):
        name = random.choice(list(whole))
        content, other = whole[name], random.choice(list(whole.values()))
        kind = random.random()
        if kind < 0.15:
            name = random.choice(["bomb.png", "bomb.bmp", "bomb.tif", "bomb.webp"])
            yield f"{n}-{name}", _bomb(name, random)
        elif kind < 0.35 and name.endswith("png"):
            yield f"{n}-{name}", _png_with_other_chunks(content, random)
        elif kind < 0.4:
            name = f"{n}-{name}"
            yield name, random.randbytes(random.choice([0, 1, 8, 300]))
        else:
            yield f"{n}-{name}", damaged(content, other, random)


def _chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def _side(random: Random) -> int:
    return random.choice([0, 1, 2, 9000, 10_000, 20_000, 65_535, 10**6, 2**31 - 1, 2**32 - 1])


def _bomb(name: str, random: Random) -> bytes:
    """A small file that claims to be large; some hold what they claim, packed."""
    w, h = _side(random), _side(random)
    if name.endswith("png"):
        bits, colour = random.choice([(8, 0), (8, 2), (8, 6), (16, 0), (16, 6), (1, 0), (8, 3)])
        header = struct.pack(">IIBBBBB", w, h, bits, colour, 0, 0, 0)
        rows = zlib.compress(bytes(min(w * h, 10**6)))
        chunks = [(b"IHDR", header), (b"PLTE", b"\1\2\3"), (b"IDAT", rows), (b"IEND", b"")]
        if random.random() < 0.3:  # text that unpacks to 100 MB
            text = b"k\0\0" + zlib.compress(bytes(10**8), 1)
            chunks.insert(1, (random.choice([b"zTXt", b"iCCP"]), text))
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)
    if name.endswith("bmp"):
        size = [min(side, 2**31 - 1) for side in (w, h)]
        bits, packing = random.choice([(24, 0), (8, 1), (1, 0), (32, 3)])
        header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, packing, 0, 1, 1, 0, 0)
        return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + header + bytes(2000)
    if name.endswith("webp"):
        sides = b"".join(struct.pack("<I", min(side, 2**24 - 1))[:3] for side in (w, h))
        frame = images()["rgba.webp"][12:]
        body = b"WEBPVP8X" + struct.pack("<II", 10, random.choice([0, 2, 16])) + sides + frame
        return b"RIFF" + struct.pack("<I", len(body)) + body
    tags = [(256, 4, w), (257, 4, h), (258, 3, random.choice([1, 8, 16])), (259, 3,
            random.choice([1, 5, 8, 32773])), (262, 3, 1), (273, 4, 8), (277, 3, 1),
            (278, 4, random.choice([1, h])), (279, 4, random.choice([10, 2**32 - 1]))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    start = struct.pack("<2sHI", b"II", 42, 1008) + bytes(1000)
    return start + struct.pack("<H", len(tags)) + entries + struct.pack("<I", random.choice([0, 8]))


def _png_with_other_chunks(content: bytes, random: Random) -> bytes:
    """Chunks dropped, doubled, swapped or changed, with checksums that fit."""
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(random.choice([1, 1, 3])):
        i = random.randrange(len(chunks))
        how = random.randrange(5)
        if how == 0 and len(chunks) > 1:
            del chunks[i]
        elif how == 1:
            chunks.insert(random.randrange(len(chunks)), chunks[i])
        elif how == 2:
            random.shuffle(chunks)
        elif chunks[i][1]:
            chunks[i] = (chunks[i][0], damaged(chunks[i][1], chunks[i][1], random))
        else:
            chunks[i] = (random.choice([b"tRNS", b"eXIf", b"fdAT", b"acTL", b"gAMA", b"pHYs",
                         b"iTXt", b"abcd"]), random.randbytes(random.randrange(40)))  # fmt: skip
    return content[:8] + b"".join(_chunk(*chunk) for chunk in chunks)


# --- Checkpoints -------------------------------------------------------------------------------


class Harmful:
    """Unpickled, it would make a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def repack(content: bytes, change: Callable[[dict[str, bytes]], None], **options: object) -> bytes:
    """A zip with records changed and checksums that fit."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    change(records)
    with zipfile.ZipFile(memory := BytesIO(), "w", **options) as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    return memory.getvalue()


def with_other_records(content: bytes, random: Random) -> bytes:
    """Records dropped, swapped between tensors of other sizes, cut or compressed."""
    how = random.randrange(5)

    def change(records: dict[str, bytes]) -> None:
        one, other = random.sample(list(records), 2)
        if how == 0:
            del records[one]
        elif how == 1 and len(records[one]) != len(records[other]):
            records[one], records[other] = records[other], records[one]
        elif how == 2:
            one = max(records, key=lambda name: len(records[name]))
            records[one] = records[one][: len(records[one]) // 2]
        elif how == 3:
            name = next(name for name in records if name.endswith("data.pkl"))
            records[name] = damaged(records[name], records[name], random)
        else:
            del records[one], records[other]

    packing = random.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    return repack(content, change, compression=packing)


#: What may stand where something else belongs.
STRANGE = (
    None, True, -1, 0, 1, 3, 10**9, 10**30, 0.5, -1.5, math.nan, math.inf, "", "x", "../x", "max",
    "näme\n", [], [1, 2], [-1, -1], [10**6, 10**6], {}, {"a": 1}, (1,),
    torch.zeros(0), torch.zeros(3, 3), torch.tensor(math.nan), torch.zeros(1).expand(10**9),
)  # fmt: skip


def with_something_strange(content: Any, random: Random) -> str:
    """Change one value somewhere in `content`, in place; where."""
    where, holder = [], content
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = random.choice(keys)
        where.append(str(key))
        value = holder[key]
        inner = isinstance(value, dict | list) and len(value) > 0
        if not inner or random.random() < 0.1:
            break
        holder = value
    if isinstance(holder, dict) and random.random() < 0.1:
        del holder[key]
        return f"{'.'.join(where)} deleted"
    if isinstance(value, Tensor) and random.random() < 0.7:
        holder[key] = new = random.choice([
            lambda t: t.flatten(), lambda t: t[:1] if t.ndim else t[None], lambda t: t.int(),
            lambda t: t.to(torch.complex64), lambda t: t.half(), lambda t: t.bool(),
            lambda t: t * math.nan, lambda t: t / 0.0, lambda t: t[..., None], lambda t: t.mT
            if t.ndim > 1 else t.new_zeros(5), lambda t: t.to_sparse() if t.ndim else t[None],
        ])(value)  # fmt: skip
        return f"{'.'.join(where)} as {new.dtype} {tuple(new.shape)}"
    holder[key] = random.choice(STRANGE)
    return f"{'.'.join(where)} = {str(holder[key])[:40]!r}"
