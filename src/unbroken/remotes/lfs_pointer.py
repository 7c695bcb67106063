"""The small text that Git LFS keeps in a repository in the place of a file, as its version 1 defines it.

A clone made without LFS, or one whose objects were not fetched, holds such texts where contents are expected.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MAX_SIZE = 1024

# a clone with newline conversion holds it with CRLF
_TEXT = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\r?\n(?:ext-[^\r\n]*\r?\n)*"
    rb"oid sha256:(?P<oid>[0-9a-f]{64})\r?\nsize (?P<size>[0-9]{1,19})\r?\n?"
)


@dataclass(frozen=True)
class LfsPointer:
    """What a pointer says of the content: its SHA-256 in hexadecimal and its `size` in bytes."""

    oid: str
    size: int

    def text(self) -> bytes:
        """The pointer as git-lfs writes it."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.oid}\nsize {self.size}\n".encode()


def parse_lfs_pointer(content: bytes) -> LfsPointer | None:
    """The pointer that `content` is, or None if it is anything else."""
    match = _TEXT.fullmatch(content) if len(content) <= MAX_SIZE else None
    return LfsPointer(match["oid"].decode(), int(match["size"])) if match else None


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file at `path` is a pointer instead of its content; False where there is no readable file."""
    try:
        with path.open("rb") as file:
            return parse_lfs_pointer(file.read(MAX_SIZE + 1)) is not None
    except OSError:
        return False
