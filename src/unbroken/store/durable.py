"""Durable files on a local disk: the only module that calls fsync and replace.

`write_durably` guarantees: at any moment, also after a kill or a power loss, the path names the complete old content
or the complete new content; once it has returned, the new one. It writes a temporary file in the same folder, syncs
it, gives it its final name in one step and syncs the folder. `write_new_durably` does the same for a name that must be
new, whoever else writes it in the same moment.

What it rests on: a disk that does not lie about fsync, and a file system where rename within one folder is atomic.
POSIX promises neither that data reaches the disk without fsync nor that a new name does without a sync of its folder.
Some network and FUSE file systems cannot sync a folder; this is ignored. macOS needs F_FULLFSYNC, which is used where
it works. Windows has no sync of folders, so a power loss may bring back the old content there, and it refuses to
replace a file that a scanner or another process has open: the replacement is tried again for about a second.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, BinaryIO, Self

from unbroken.store.backend import Buffer, Entry, FileBackend, Fill, Writer, checked_path, joined, name_of, parent_of

_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_NOT_FREE = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}
_REPLACE_ATTEMPTS = 8 if sys.platform == "win32" else 1
_CLAIM_ATTEMPTS = 30
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9]+-[0-9]+\.tmp")
_CLAIM = re.compile(r"\..+\.claim")
# bytes of a name that temporary names repeat in full: most file systems allow 255 in all
_LONG = 200

_counter = itertools.count()
_being_written: set[str] = set()


class LocalBackend:
    """Files under `root` on this machine; `root` is made when the first folder is. Safe to use from threads."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def local_path(self, path: str) -> Path:
        """Where `path` lies on this machine."""
        return self.root / checked_path(path)

    def create(self, path: str) -> "LocalFile":
        return LocalFile(self.local_path(path))

    def replace(self, src: str, dst: str) -> None:
        _replace(self.local_path(src), self.local_path(dst), _REPLACE_ATTEMPTS)

    def sync_folder(self, folder: str) -> None:
        if sys.platform == "win32":
            return
        descriptor = os.open(self.local_path(folder), os.O_RDONLY)
        try:
            _sync_names(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: str) -> None:
        self.local_path(path).unlink()

    def make_folder(self, path: str) -> None:
        if not self.root.exists():
            _make_root(self.root)
        self.local_path(path).mkdir(parents=True, exist_ok=True)

    def open(self, path: str) -> BinaryIO:
        return self.local_path(path).open("rb")

    def entries(self, folder: str) -> list[Entry]:
        try:
            names = sorted(path.name for path in self.local_path(folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = (_entry(self.local_path(folder) / name) for name in names)
        return [entry for entry in found if entry is not None]

    def exists(self, path: str) -> bool:
        return self.local_path(path).exists()

    def free_bytes(self) -> int:
        existing = next(folder for folder in (self.root, *self.root.absolute().parents) if folder.exists())
        return shutil.disk_usage(existing).free


class LocalFile:
    """A file being written, without a buffer of its own: a full disk shows at the write that meets it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)

    def write(self, data: Buffer, /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            rest = rest[self._file.write(rest) or 0 :]
        return size

    def sync(self) -> None:
        sync_content(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


def write_durably(backend: FileBackend, path: str, produce: Fill) -> None:
    """Make `path` hold exactly what `produce` writes; see the module for what is guaranteed.

    Missing folders are made. On any exception, from `produce` or the storage, the old content stays, the temporary
    file is removed if the storage allows it, and the exception passes on. Only an exception from the last folder sync
    leaves the new content visible, not yet certain to survive a power loss.
    """
    folder = parent_of(checked_path(path))
    make_folder_durably(backend, folder)
    temporary = joined(folder, f".{name_of(path)}.{os.getpid()}-{next(_counter)}.tmp")
    _being_written.add(temporary)
    try:
        _write_and_replace(backend, temporary, path, produce)
    except BaseException:
        with contextlib.suppress(OSError):
            backend.remove(temporary)
        raise
    finally:
        _being_written.discard(temporary)
    backend.sync_folder(folder)


def write_new_durably(backend: LocalBackend, path: str, produce: Fill) -> bool:
    """Make `path` hold exactly what `produce` writes, if nothing has that name; False if something has, which then stays.

    Of several processes, or machines that share the file system, exactly one gets True. At any moment the path names nothing
    or one complete content. A writer that is killed leaves files that `is_leftover` knows, and keeps nobody from the name.
    Errors as `write_durably`; a `produce` that fails leaves nothing.
    """
    folder = parent_of(checked_path(path))
    make_folder_durably(backend, folder)
    # a process number is unique on one machine only
    temporary = joined(folder, f".{_shortened(name_of(path))}.{os.getpid()}-{secrets.randbelow(10**12)}.tmp")
    _being_written.add(temporary)
    try:
        with backend.create(temporary) as file:
            produce(file)
            file.sync()
        is_new = _give_new_name(backend.local_path(temporary), backend.local_path(path))
    finally:
        with contextlib.suppress(OSError):
            backend.remove(temporary)
        _being_written.discard(temporary)
    backend.sync_folder(folder)
    return is_new


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name belongs to a write under way or killed, and so to nobody else."""
    return _TEMPORARY.fullmatch(name) is not None or _CLAIM.fullmatch(name) is not None


def write_bytes_durably(backend: FileBackend, path: str, content: Buffer) -> None:
    """Make `path` hold `content`; guarantees and errors as `write_durably`."""

    def produce(writer: Writer) -> None:
        writer.write(content)

    write_durably(backend, path, produce)


def write_json_durably(backend: FileBackend, path: str, value: Any) -> None:
    """Make `path` hold `value` as indented UTF-8 JSON in the given order of keys; TypeError if it is not plain data."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_bytes_durably(backend, path, text.encode("utf-8"))


def make_folder_durably(backend: FileBackend, folder: str) -> None:
    """Make the folder and its missing parents so that they survive a power loss.

    The parents are synced even when the folder exists: whoever made it may have been killed before doing so.
    """
    backend.make_folder(folder)
    while folder:
        folder = parent_of(folder)
        backend.sync_folder(folder)


def move_aside(backend: FileBackend, path: str, folder: str, label: str = "") -> str:
    """Move a file, or a folder, into `folder` and return its new path; nothing there is ever overwritten.

    The name stays, with `label` and, where taken, a number before its suffix: `a.zip`, `a.label.zip`, `a.label.1.zip`.
    The file keeps at least one of its two names over a power loss. Not safe against another process doing the same.
    """
    make_folder_durably(backend, folder)
    target = _free_name(backend, folder, name_of(path), label)
    backend.replace(path, target)
    backend.sync_folder(folder)
    backend.sync_folder(parent_of(path))
    return target


def remove_leftovers(backend: FileBackend, folder: str, owns: Callable[[str], bool] = lambda name: True) -> list[str]:
    """Remove the temporary files that killed writers left in `folder`; returns the names that are gone.

    Only names of exactly our form count, whose final name `owns` accepts, and never one that this process is writing.
    Another process that writes to the same names must be kept out by a lock. What cannot be removed is left.
    """
    removed = []
    for entry in backend.entries(folder):
        match = _TEMPORARY.fullmatch(entry.name)
        path = joined(folder, entry.name)
        if match and not entry.is_folder and path not in _being_written and owns(match["name"]):
            with contextlib.suppress(OSError):
                backend.remove(path)
                removed.append(entry.name)
    return removed


def _write_and_replace(backend: FileBackend, temporary: str, path: str, produce: Fill) -> None:
    with backend.create(temporary) as file:
        produce(file)
        file.sync()
    backend.replace(temporary, path)


def _free_name(backend: FileBackend, folder: str, name: str, label: str) -> str:
    pure = PurePosixPath(name)
    stem = f"{pure.stem}.{label}" if label else pure.stem
    candidates = itertools.chain([""], (f".{n}" for n in itertools.count(1)))
    names = (joined(folder, f"{stem}{number}{pure.suffix}") for number in candidates)
    return next(path for path in names if not backend.exists(path))


def _make_root(root: Path) -> None:
    parent = root.absolute().parent
    if not parent.exists():
        _make_root(parent)
    root.mkdir(exist_ok=True)
    LocalBackend(parent).sync_folder("")


def _entry(path: Path) -> Entry | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return Entry(path.name, facts.st_size, facts.st_mtime, path.is_dir())


def _replace(src: Path, dst: Path, attempts: int) -> None:
    for attempt in range(attempts):
        try:
            os.replace(src, dst)  # noqa: PTH105 - the one place where a file gets its final name
            return
        except PermissionError:
            if attempt + 1 == attempts:
                raise
            time.sleep(0.01 * 2**attempt)


def _shortened(name: str) -> str:
    """The name itself, or one of the same meaning that leaves room for an ending."""
    encoded = name.encode("utf-8")
    if len(encoded) <= _LONG:
        return name
    return encoded[: _LONG - 33].decode("utf-8", errors="ignore") + "-" + hashlib.sha256(encoded).hexdigest()[:32]


def _give_new_name(src: Path, dst: Path) -> bool:
    if sys.platform == "win32":
        return _rename_new(src, dst, _REPLACE_ATTEMPTS)
    try:
        os.link(src, dst)
    except FileExistsError:
        return False
    except OSError:
        # FAT, exFAT, and many network and FUSE file systems have no hard links, and name the reason each in its way
        return _claim_name(src, dst)
    return True


def _rename_new(src: Path, dst: Path, attempts: int) -> bool:
    """For Windows, where a file cannot be renamed to a name that exists."""
    for attempt in range(attempts):
        try:
            os.rename(src, dst)  # noqa: PTH104 - as in `_replace`
            return True
        except FileExistsError:
            return False
        except PermissionError:
            if attempt + 1 == attempts:
                raise
            time.sleep(0.01 * 2**attempt)
    return False


def _claim_name(src: Path, dst: Path) -> bool:
    """As a hard link that refuses an existing name, for file systems without one.

    Who may write is settled by a folder beside `dst`, because a folder never takes the place of one that is not empty. It
    holds a name only, that of the winner's temporary file, so that whoever comes by can finish for a winner that was killed.
    The order claim, then look for `dst`, then move is what keeps a late mover from replacing an object that is there.
    """
    ticket, claim = src.with_suffix(".claim"), dst.with_name(f".{_shortened(dst.name)}.claim")
    ticket.mkdir()
    (ticket / src.name).touch()
    try:
        for attempt in itertools.count():
            if dst.exists():
                break
            if attempt == _CLAIM_ATTEMPTS:
                raise OSError(errno.EBUSY, "a writer's claim cannot be served", os.fspath(claim))
            time.sleep(0.01 * attempt)
            _move_folder(ticket, claim)
            _serve_claim(claim, dst)
    finally:
        _discard_claim(ticket)
    _discard_claim(claim)
    return not src.exists()


def _move_folder(ticket: Path, claim: Path) -> None:
    try:
        os.rename(ticket, claim)  # noqa: PTH104 - as in `_replace`
    except OSError as error:
        # somebody else's claim is there, or ours already is
        if error.errno not in _NOT_FREE and not claim.exists():
            raise


def _serve_claim(claim: Path, dst: Path) -> None:
    for winner in _names_in(claim):
        if dst.exists():
            return
        try:
            os.replace(dst.with_name(winner), dst)  # noqa: PTH105 - as in `_replace`
        except FileNotFoundError:
            # moved by another in this moment, or gone: then this claim must not bar the name
            _discard_claim(claim, winner)


def _discard_claim(claim: Path, *names: str) -> None:
    with contextlib.suppress(OSError):
        for name in names or _names_in(claim):
            (claim / name).unlink(missing_ok=True)
        claim.rmdir()


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names are what a claim holds
    except FileNotFoundError:
        return []


def sync_content(descriptor: int) -> None:
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _sync_names(descriptor: int) -> None:
    try:
        sync_content(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
