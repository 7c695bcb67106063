"""A dataset that a Kaggle notebook has mounted: read without network and credentials."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from unbroken.remotes.kaggle.index import INDEX_NAME, Blob, Index
from unbroken.remotes.kaggle.kept import hashed

INPUTS = Path("/kaggle/input")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Mounted:
    """The version that was mounted when the notebook started; newer ones are not seen."""

    folder: Path
    index: Index

    def copy(self, blob: Blob, target: Path) -> bool:
        """Write a content to a file, if the mounted version has it whole."""
        if not blob.size:
            target.write_bytes(b"")
            return True
        places = ((pack, offset) for pack in self.index.packs for other, offset in pack.offsets() if other == blob)
        with contextlib.suppress(OSError):
            for pack, offset in places:
                _copy(self.folder / pack.name, offset, blob.size, target)
                return hashed(target) == blob
        return False


def find_mounted(inputs: Path, owner: str, slug: str) -> Mounted | None:
    """The dataset below `inputs`, wherever this notebook has it."""
    for pattern in ("*", f"*/{slug}", f"*/*/{slug}"):
        for path in sorted(inputs.glob(f"{pattern}/{INDEX_NAME}")):
            with contextlib.suppress(OSError, ValueError):
                index = Index.from_bytes(path.read_bytes())
                if index.dataset.lower() == f"{owner}/{slug}".lower():
                    return Mounted(path.parent, index)
    return None


def _copy(source: Path, offset: int, size: int, target: Path) -> None:
    with source.open("rb") as packed, target.open("wb") as file:
        packed.seek(offset)
        while size > 0 and (block := packed.read(min(size, _BLOCK))):
            size -= file.write(block)
