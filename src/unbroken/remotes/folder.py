"""A folder as a remote: on this disk, on a mounted drive, or on any file system that several machines see."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

from unbroken.errors import NotFound, RemoteError, RemoteRefused, RemoteUnreachable, UnbrokenError, UsageError
from unbroken.remotes.contract import Item, Put
from unbroken.remotes.transfer import checked_name, is_name, listed_folder, open_source, receive
from unbroken.store.backend import joined, name_of, parent_of
from unbroken.store.durable import LocalBackend, is_leftover, write_new_durably

_CHUNK = 1 << 20
_TABLE = Path("/etc/fstab")
# s after which what a killed writer left is taken for garbage, by the clock of the file system itself
_ABANDONED = 24 * 3600


def _codes(*names: str) -> set[int]:
    return {getattr(errno, name) for name in names if hasattr(errno, name)}


_FORBIDDEN = _codes("EACCES", "EPERM", "EROFS")
_FULL = _codes("ENOSPC", "EDQUOT")
_GONE = _codes(
    "EIO", "ENODEV", "ENXIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EREMOTEIO", "ECONNABORTED", "ECONNRESET"
) | _codes("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ECONNREFUSED", "EBADFD")


class FolderRemote:
    """Objects as plain files under `path`, durable when `put` returns, written by any number of processes and machines.

    The folder itself is made by the first `put`; its parent must be there, so that a drive that is not mounted is an error and
    not a new folder on the local disk. The operating system decides how long a dead network drive is waited for. What killed
    writers left is never listed; its files are removed by a `put` into the same folder a day later.
    """

    sends_all = False

    def __init__(self, url: str, path: Path) -> None:
        self.url = url
        self._path = Path(path)
        self._files = LocalBackend(self._path)

    def items(self, prefix: str = "") -> list[Item]:
        folder = listed_folder(prefix)
        with self._explained():
            self._look()
            found = [item for item in self._under(folder) if item.name.startswith(prefix)]
        return sorted(found, key=lambda item: item.name)

    def put(self, files: Mapping[str, Path]) -> Put:
        for name in files:
            _checked(name)
        written: list[str] = []
        present: list[str] = []
        for name, source in files.items():
            with open_source(name, source) as file, self._explained():
                (written if self._put(name, file) else present).append(name)
        return Put(tuple(written), tuple(present))

    def fetch(self, name: str, target: Path) -> None:
        receive(target, partial(self._open_at, _checked(name)))

    def _put(self, name: str, file: BinaryIO) -> bool:
        self._look()
        if self._has(name):
            return False
        is_new = write_new_durably(self._files, name, lambda writer: shutil.copyfileobj(file, writer, _CHUNK))
        if is_new:
            self._sweep(name)
        else:
            self._has(name)
        return is_new

    def _has(self, name: str) -> bool:
        """Whether the name is a file there; raises RemoteError where it is something else."""
        path = self._files.local_path(name)
        if os.path.lexists(path) and not path.is_file():
            raise RemoteError(f"{self.url} has something that is no file where {name} would go: move it away there")
        return path.is_file()

    def _open_at(self, name: str, offset: int) -> tuple[int, Iterator[bytes]]:
        with self._explained():
            self._look()
            path = self._files.local_path(name)
            if not path.is_file():
                raise NotFound(f"{self.url} has no {name}")
            return path.stat().st_size, self._chunks(path, offset)

    def _chunks(self, path: Path, offset: int) -> Iterator[bytes]:
        with self._explained(), path.open("rb") as file:
            file.seek(offset)
            while chunk := file.read(_CHUNK):
                yield chunk

    def _under(self, folder: str) -> Iterator[Item]:
        for entry in self._files.entries(folder):
            name = joined(folder, entry.name)
            if not is_name(name) or is_leftover(entry.name):
                continue
            if not entry.is_folder:
                # pipes and devices have no size
                if entry.size or self._files.local_path(name).is_file():
                    yield Item(name, entry.size)
            elif not self._files.local_path(name).is_symlink():
                yield from self._under(name)

    def _sweep(self, name: str) -> None:
        """Remove what writers that were killed long before `name` was written left in its folder."""
        entries = self._files.entries(parent_of(name))
        now = next((entry.modified for entry in entries if entry.name == name_of(name)), 0.0)
        for entry in entries:
            if is_leftover(entry.name) and not entry.is_folder and now - entry.modified > _ABANDONED:
                with contextlib.suppress(OSError):
                    self._files.remove(joined(parent_of(name), entry.name))

    def _look(self) -> None:
        path = self._path.absolute()
        if path.exists():
            if not path.is_dir():
                raise RemoteError(f"{self.url} is a file: name a folder")
        elif not path.parent.is_dir():
            raise RemoteUnreachable(f"{self.url}: there is no folder {path.parent}. Is the drive mounted?")
        away = _unmounted(path)
        if away is not None:
            raise RemoteUnreachable(
                f"{self.url}: nothing is mounted at {away}, which /etc/fstab has for a drive: mount it first"
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except UnbrokenError:
            raise
        except OSError as error:
            raise self._said(error) from error

    def _said(self, error: OSError) -> RemoteError:
        reason = error.strerror or str(error)
        if error.errno in _FORBIDDEN:
            return RemoteRefused(f"{self.url} does not allow it ({reason}): check the rights on the folder")
        if error.errno in _GONE:
            return RemoteUnreachable(f"{self.url} does not answer ({reason}): is the drive still connected?")
        if error.errno in _FULL:
            return RemoteError(f"{self.url} is full ({reason}): make room there and run the same command again")
        return RemoteError(f"{self.url} fails ({reason}{f': {error.filename}' if error.filename else ''})")


def _unmounted(path: Path) -> Path | None:
    """The mount point of this machine's table in which a path would be if it were mounted; None if it is, or there is none."""
    try:
        lines = _TABLE.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    fields = [line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    points = [
        Path(field[1].replace("\\040", " "))
        for field in fields
        if len(field) > 3 and field[1] != "/" and "bind" not in field[3].split(",")
    ]
    above = {path, *path.parents}
    return next((point for point in points if point in above and _is_bare(point)), None)


def _is_bare(point: Path) -> bool:
    """Whether nothing is mounted there and nothing lies there: what a link or another mount shows is no bare mount point."""
    try:
        return not os.path.ismount(point.resolve()) and not any(point.iterdir())
    except OSError:
        return False


def _checked(name: str) -> str:
    if any(is_leftover(part) for part in checked_name(name).split("/")):
        raise UsageError(f"{name!r} is a name of files being written: take another one")
    return name
