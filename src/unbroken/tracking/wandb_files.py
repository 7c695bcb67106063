"""What is in the files that Weights & Biases records offline.

A file is a head of seven bytes and then LevelDB's log: blocks of 32 KiB, in them chunks of a checksum (4 bytes), a size (2),
a kind (1) and data. A record, a message of W&B's protocol, is one chunk or several in a row. A kill can tear the last one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FILE_HEAD, _CHUNK_HEAD, _BLOCK = 7, 7, 32768
_WHOLE, _FIRST, _LAST = 1, 2, 4


def last_step_on_disk(folder: Path, run_id: str) -> int | None:
    """The last step that the files of a run have; -1 if they have none, None if there are none or one cannot be read.

    Every leg has a file of its own and goes on where those before it ended: the newest that has a step has the last.
    """
    paths = sorted(folder.glob(f"wandb/*run-[0-9]*/run-{run_id}.wandb"), key=_moment, reverse=True)
    try:
        found = (_last_step(path) for path in paths)
        return next((step for step in found if step is not None), -1 if paths else None)
    except Exception:  # noqa: BLE001 - whatever is wrong with a file that W&B wrote, its steps are not known
        return None


def _moment(path: Path) -> str:
    """When a leg began: its folder is called `offline-run-` or `run-`, this and the run's id."""
    return path.parent.name.removeprefix("offline-")


def _last_step(path: Path) -> int | None:
    from wandb.proto import wandb_internal_pb2

    protocol: Any = wandb_internal_pb2
    last = None
    for content in _records(path.read_bytes()):
        record = protocol.Record.FromString(content)
        if record.WhichOneof("record_type") == "history":
            last = max(record.history.step.num, -1 if last is None else last)
    return last


def _records(raw: bytes) -> Iterator[bytes]:
    held = b""
    for kind, data in _chunks(raw):
        held = data if kind in (_WHOLE, _FIRST) else held + data
        if kind in (_WHOLE, _LAST):
            yield held


def _chunks(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, data) up to the first chunk that is not as it was written."""
    place = _FILE_HEAD
    while place + _CHUNK_HEAD <= len(raw):
        left = _BLOCK - place % _BLOCK
        if left < _CHUNK_HEAD:
            place += left
            continue
        checksum, size, kind = struct.unpack_from("<IHB", raw, place)
        place += _CHUNK_HEAD
        data = raw[place : place + size]
        if len(data) < size or zlib.crc32(data, zlib.crc32(bytes((kind,)))) != checksum:
            return
        place += size
        yield kind, data
