"""Read the file that an offline Weights & Biases run leaves."""

import json
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def records(path: Path) -> list[Any]:
    """The records of a .wandb file: a leveldb log of protocol buffers behind a 7-byte header.

    Blocks have 32 KiB; each piece of a record starts with CRC-32, length and type (1 whole,
    2 first, 3 middle, 4 last), and fewer than 7 bytes at a block's end are padding.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, whole, found = path.read_bytes(), 7, b"", []
    assert content[:4] == b":W&B"
    while position < len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", content, position)
        piece = content[position + 7 : position + 7 + length]
        assert len(piece) == length and kind in (1, 2, 3, 4)
        assert zlib.crc32(bytes([kind]) + piece) == checksum
        position += 7 + length
        whole = piece if kind in (1, 2) else whole + piece
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            found.append(record)
    return found


def of(found: list[Any], kind: str) -> list[Any]:
    """The records of one kind: run, config, history, summary, exit, ..."""
    return [getattr(r, kind) for r in found if r.WhichOneof("record_type") == kind]


def values(items: Iterable[Any]) -> dict[str, Any]:
    """Key to value of config, history or summary items; the last of a key counts."""
    return {
        "/".join([item.key] if item.key else item.nested_key): json.loads(item.value_json)
        for item in items
    }
