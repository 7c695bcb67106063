"""Small checkpoints for tests of storage: a few hundred bytes with every kind of member."""

from collections.abc import Callable
from typing import Any

from unbroken.store.checkpoint_file import CheckpointWriter

Fill = Callable[[CheckpointWriter], dict[str, Any]]


def small_checkpoint(mark: str = "", **facts: Any) -> Fill:
    """A `fill` for `write_checkpoint` and `CheckpointRepository.save`; `mark` tells contents apart."""

    def fill(writer: CheckpointWriter) -> dict[str, Any]:
        writer.write_member("data", f'{{"mark": "{mark}"}}'.encode())
        writer.write_member("exact/log.txt", b"log " * 20, deflate=True)
        with writer.member("exact/numbers.bin") as file:
            file.write(bytes(range(40)))
            file.write(memoryview(bytearray(b"end")))
        return {"run": "sample", "scenario": "sample", **facts}

    return fill
