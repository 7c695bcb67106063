"""What a pull replaces goes to `archive/sync-…/` by its own path, unless the remote or the new file has all of it."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from unbroken.errors import DamagedFile, NotFound
from unbroken.folder import RunFolder
from unbroken.store.backend import Writer, joined, parent_of
from unbroken.store.checkpoint_file import read_manifest
from unbroken.store.durable import make_folder_durably, write_durably
from unbroken.store.segments import folder_for, segments_of
from unbroken.syncing.lines import say
from unbroken.syncing.local import Known, is_container, pieces
from unbroken.syncing.records import part_of
from unbroken.syncing.there import There

_CHUNK = 1 << 20


class Keeping:
    """The archive of one pull. The caller holds the run's lock; what fails raises OSError, and then nothing is replaced."""

    def __init__(self, folder: RunFolder, there: There, known: Known) -> None:
        self._folder = folder
        self._backend = folder.backend
        self._there = there
        self._known = known
        self._chosen: str | None = None

    def copy(self, path: str, new: Path | None = None) -> None:
        """Keep a copy of a file that is to be replaced, by `new` if that is given."""
        local = self._folder.path / path
        target = joined(self._place, path)
        if not local.is_file() or self._backend.exists(target) or self._is_kept_anyway(path, local, new):
            return
        make_folder_durably(self._backend, parent_of(target))
        self._put(local, target)
        self._backend.sync_folder(parent_of(target))
        say(f"Kept the {path} that was here as {target}")

    def copy_checkpoint(self, path: str) -> None:
        """Keep a copy of a checkpoint, with the segments that it needs beside it."""
        with contextlib.suppress(NotFound, DamagedFile):
            for segment in segments_of(read_manifest(self._backend, path)):
                self.copy(joined(folder_for(path), segment.file))
        self.copy(path)

    def move(self, path: str) -> None:
        """Move a file or a folder here."""
        target = joined(self._place, path)
        if self._backend.exists(target):
            # a copy of it is there already
            self._backend.remove(path)
        else:
            make_folder_durably(self._backend, parent_of(target))
            self._backend.replace(path, target)
            self._backend.sync_folder(parent_of(target))
            say(f"Moved {path} of another leg to {target}")
        self._backend.sync_folder(parent_of(path))

    @property
    def _place(self) -> str:
        if self._chosen is None:
            stamp = time.strftime("%Y%m%d-%H%M%S")
            names = (f"archive/sync-{stamp}-{number}" for number in range(1, 10_000))
            self._chosen = next(name for name in names if not self._backend.exists(name))
        return self._chosen

    def _put(self, local: Path, target: str) -> None:
        if is_container(target):
            # file systems without hard links have a copy
            with contextlib.suppress(OSError):
                os.link(local, self._backend.local_path(target))
                return

        def produce(writer: Writer) -> None:
            with local.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    writer.write(chunk)

        write_durably(self._backend, target, produce)

    def _is_kept_anyway(self, path: str, local: Path, new: Path | None) -> bool:
        if is_container(path):
            return self._there.has(self._known.part(path))
        if all(self._there.has(part_of(piece)) for piece in pieces(local, local.stat().st_size)):
            return True
        return new is not None and _begins_with(new, local)


def _begins_with(whole: Path, beginning: Path) -> bool:
    with whole.open("rb") as one, beginning.open("rb") as other:
        return all(one.read(len(chunk)) == chunk for chunk in iter(lambda: other.read(_CHUNK), b""))
