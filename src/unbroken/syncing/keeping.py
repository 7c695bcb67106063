"""What a pull replaces goes to `archive/sync-…/` by its own path, before anything is replaced.

A file that never changes in place gets a second name there, which costs nothing; others are copied.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from unbroken.errors import DamagedFile, NotFound
from unbroken.folder import METADATA, RUN_FILE, RunFolder
from unbroken.store.backend import joined, parent_of
from unbroken.store.checkpoint_file import read_manifest
from unbroken.store.durable import make_folder_durably
from unbroken.store.segments import folder_for, segments_of
from unbroken.syncing.branches import own_records
from unbroken.syncing.documents import TRACKERS
from unbroken.syncing.lines import say
from unbroken.syncing.local import LOG, copy_durably, is_container, is_final, rename


class Keeping:
    """The archive of one pull. The caller holds the run's lock; what fails raises OSError."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._backend = folder.backend
        self._chosen: str | None = None

    @property
    def place(self) -> str:
        """The folder in the archive, which may not exist yet."""
        if self._chosen is None:
            stamp = time.strftime("%Y%m%d-%H%M%S")
            names = (f"archive/sync-{stamp}-{number}" for number in range(1, 10_000))
            self._chosen = next(name for name in names if not self._backend.exists(name))
        return self._chosen

    def copy(self, path: str) -> bool:
        """Keep a copy of a file, if it is there and was not kept before; returns whether one was made."""
        local, target = self._folder.path / path, joined(self.place, path)
        if not local.is_file() or self._backend.exists(target):
            return False
        make_folder_durably(self._backend, parent_of(target))
        self._put(path, target)
        self._backend.sync_folder(parent_of(target))
        return True

    def copy_checkpoint(self, path: str) -> bool:
        """Keep a copy of a checkpoint, with the segments that it needs beside it."""
        with contextlib.suppress(NotFound, DamagedFile):
            for segment in segments_of(read_manifest(self._backend, path)):
                self.copy(joined(folder_for(path), segment.file))
        return self.copy(path)

    def copy_run(self) -> list[str]:
        """Keep all that makes the run what it is, so that a copy of the place is a run; returns the files, segments left out."""
        checkpoints = [record.path for record in own_records(self._folder)]
        for path in checkpoints:
            self.copy_checkpoint(path)
        others = list(self._others())
        for path in others:
            self.copy(path)
        return checkpoints + others

    def move(self, path: str) -> None:
        """Move a file here, or what a folder holds."""
        if (self._folder.path / path).is_dir():
            for entry in self._backend.entries(path):
                self.move(joined(path, entry.name))
            return
        target = joined(self.place, path)
        if self._backend.exists(target):
            # a copy of it is there already
            self._backend.remove(path)
        else:
            make_folder_durably(self._backend, parent_of(target))
            rename(self._backend, path, target)
        self._backend.sync_folder(parent_of(path))

    def say(self, path: str) -> None:
        """Say where a file was put."""
        say(f"Kept the {path} that was here as {joined(self.place, path)}")

    def _others(self) -> Iterator[str]:
        yield from (path for path in (RUN_FILE, METADATA, TRACKERS) if self._backend.exists(path))
        for folder in ("", "best_model", "logs", "tensorboard"):
            for entry in self._backend.entries(folder):
                path = joined(folder, entry.name)
                if (
                    not entry.is_folder
                    and (folder or is_final(path))
                    and path != LOG
                    and not entry.name.startswith(".")
                ):
                    yield path

    def _put(self, path: str, target: str) -> None:
        local = self._folder.path / path
        if is_container(path):
            # file systems without hard links have a copy
            with contextlib.suppress(OSError):
                os.link(local, self._backend.local_path(target))
                return
        copy_durably(self._backend, local, target)
