"""The local ends of a transfer: files on their way to a remote, and objects that arrive in one step and can go on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from unbroken.errors import NotFound, RemoteError, UsageError
from unbroken.remotes.contract import Put, Remote
from unbroken.store.backend import checked_path, parent_of
from unbroken.store.durable import LocalBackend, sync_content

OpenAt = Callable[[int], tuple[int, Iterable[bytes]]]
"""From an offset to the object's whole size in bytes and its bytes from there on; those may be none where it is past the end."""


def checked_name(name: str) -> str:
    """The name, if an object may have it; raises UsageError if it leaves the place."""
    return checked_path(name or "/")


def listed_folder(prefix: str) -> str:
    """The deepest folder that holds every object whose name begins with `prefix`; raises UsageError if that leaves the place."""
    return checked_path(parent_of(prefix))


def is_name(name: str) -> bool:
    """Whether something that others put there has a name that an object can have."""
    try:
        return checked_name(name) == name
    except UsageError:
        return False


def open_source(name: str, source: Path) -> BinaryIO:
    """The file that is to become the object `name`; raises NotFound if there is none."""
    if not source.is_file():
        raise NotFound(f"there is no file {source} to be copied as {name}")
    return source.open("rb")


def not_listed(remote: Remote, put: Put, files: Mapping[str, Path] | None = None) -> dict[str, str]:
    """Of what the place says it had already, by name why it is not there: it is not listed, or with `files` in another size.

    For who expected none of the names there: the only good reason is another machine that has put them meanwhile.
    """
    folders = sorted({listed_folder(name) for name in put.present})
    sizes = {item.name: item.size for folder in folders for item in remote.items(f"{folder}/" if folder else "")}
    absent = {name: "does not list it" for name in put.present if name not in sizes}
    sized = {name: path.stat().st_size for name, path in (files or {}).items() if name in put.present}
    other = {
        name: "has something else under that name" for name, size in sized.items() if sizes.get(name, size) != size
    }
    return absent | other


def require_listed(remote: Remote, put: Put, files: Mapping[str, Path] | None = None) -> None:
    """Raise RemoteError for the first that is `not_listed`."""
    for name, why in not_listed(remote, put, files).items():
        raise RemoteError(f"{remote.url} said that {name} is there and {why}: run the same command again")


def receive(target: Path, open_at: OpenAt) -> None:
    """Make `target` hold the object in one step, going on from `.{target.name}.part` beside it, and durably.

    That file stays when the transfer breaks off. It is taken for the object's beginning unless it is longer than the object:
    whoever needs certainty compares a hash. Two processes may receive the same object at once.
    """
    part = target.with_name(f".{target.name}.part")
    have = _size(part)
    size, chunks = open_at(have)
    if have > size:
        have = 0
        os.truncate(part, 0)
        size, chunks = open_at(0)
    _write(part, have, chunks)
    _finish(part, target, size)


def _write(part: Path, offset: int, chunks: Iterable[bytes]) -> None:
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    with open(descriptor, "r+b", buffering=0) as file:
        # never cut short: another process may have begun to write the same bytes since this one looked
        file.seek(offset)
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[file.write(rest) :]
        sync_content(file.fileno())


def _finish(part: Path, target: Path, size: int) -> None:
    folder = LocalBackend(target.parent)
    arrived = _size(part)
    if arrived != size and part.exists():
        raise RemoteError(f"{target.name}: {arrived} of {size} bytes arrived; the same command goes on from there")
    try:
        folder.replace(part.name, target.name)
    except FileNotFoundError:
        # another process has received the same object in this moment
        if _size(target) != size:
            raise
    folder.sync_folder("")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
