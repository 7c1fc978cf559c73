"""Whether what ``torch.save`` wrote is still there bit for bit; torch itself does not look."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from padim_lit.errors import InputError


def foreign(path: Path | BinaryIO) -> str | None:
    """Return what ``torch.save`` would not have written, by the file's directory alone, or None.

    To be asked before ``torch.load``, which decompresses without a limit: a small file that swells
    is none of torch's, which stores plainly.

    Raises whatever zipfile does for what has no directory.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if len({record.filename for record in records}) != len(records):
            return "a record is there twice"
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            return "a record is compressed"
        # Plainly stored and one behind the other, they lie before the directory.
        plain = all(record.file_size == record.compress_size for record in records)
        if not plain or sum(record.file_size for record in records) > archive.start_dir:
            return "its records are larger than the file"
    return None


def damage(path: Path | BinaryIO, content: Any = None) -> str | None:
    """Return what is wrong with a file of ``torch.save``, or None; every CRC-32 in it is checked.

    ``torch.load`` reads past a flipped bit in a tensor, and scores would be wrong without a word.

    Args:
        path: of the file, or the file itself, opened.
        content: what ``torch.load`` made of it on the CPU, no value of it touched yet.
    """
    try:
        if (reason := foreign(path)) is not None:
            return reason
        with zipfile.ZipFile(path) as archive:
            # `torch.load` takes as many bytes as the pickle says and looks at no record's size: of
            # one that is too short it would read the memory behind.
            written = _written(archive.infolist())
            if content is not None and written != list(_storages(content).values()):
                return "tensors and records differ in size"
            broken = archive.testzip()
    except Exception as error:  # zipfile raises many kinds for a damaged directory
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None if broken is None else f"the checksum of {broken} does not fit"


def _written(records: list[zipfile.ZipInfo]) -> list[int]:
    """Return the bytes of the tensors' records that hold any, in the order of their numbers."""
    sizes = {}
    for record in records:
        _, data, number = record.filename.rpartition("/data/")
        if data and record.file_size:
            sizes[int(number)] = record.file_size
    return [sizes[number] for number in sorted(sizes)]


def _storages(content: Any) -> dict[int, int]:
    """Return address → bytes of the storages in `content`, in the order of torch's numbers."""
    found = (tensor.untyped_storage() for tensor in tensors_in(content))
    return {storage.data_ptr(): storage.nbytes() for storage in found if storage.nbytes()}


def tensors_in(content: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and dicts, each of which is looked into once.

    >>> pair = [torch.ones(1), (torch.ones(2), 3)]
    >>> len(list(tensors_in({"a": pair, "b": pair})))
    2
    """
    # A file of some kilobytes may hold [x,x] of [x,x] of …, or lists in lists without an end.
    seen, waiting = set(), [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, dict | list | tuple) and id(part) not in seen:
            seen.add(id(part))
            parts = part.values() if isinstance(part, dict) else part
            waiting += reversed(list(parts))


def require_numbers(name: str, tensor: Tensor) -> None:
    """Raise InputError for a tensor with NaN or infinity in it."""
    # The least and the largest are NaN where any is, and take no room beside the tensor.
    ends = tensor.aminmax() if tensor.is_floating_point() and tensor.numel() else ()
    if not all(end.isfinite() for end in ends):
        raise InputError(f"{name} is not finite (NaN or infinity); fit or fetch it again")
