"""What Weights & Biases has recorded offline: records in blocks, as LevelDB's log has them, after a head of seven bytes."""

import json
import struct

_BLOCK = 32768
_FULL, _FIRST, _LAST = 1, 2, 4


def records(path):
    """The records of a `.wandb` file, without one that was torn."""
    from wandb.proto import wandb_internal_pb2

    for raw in _chunks(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(raw)
        yield record


def history(path):
    """(step, key, value) of every number that was logged."""
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            for item in record.history.item:
                key = item.key or ".".join(item.nested_key)
                if not key.startswith("_"):
                    yield (
                        record.history.step.num,
                        key,
                        float(json.loads(item.value_json.replace("NaN", '"nan"').strip('"'))),
                    )


def _chunks(raw):
    place, held = 7, b""
    while place + 7 <= len(raw):
        left = _BLOCK - place % _BLOCK
        if left < 7:
            place += left
            continue
        size, kind = struct.unpack_from("<HB", raw, place + 4)
        part = raw[place + 7 : place + 7 + size]
        if kind == 0 or len(part) < size:
            return
        place += 7 + size
        held = part if kind in (_FULL, _FIRST) else held + part
        if kind in (_FULL, _LAST):
            yield held
