"""What a disk may hold after a power loss, derived from recorded operations.

The model is what POSIX allows, harsher than most file systems: content that was not synced may be gone, cut, zeroed or
there; names that were made, moved or removed since the last sync of their folder may or may not have changed, each on
its own and in any order. A move is one step, except that syncing only the folder it leaves may lose the file. Folders
can be lost with all they hold. Moving whole folders is not modelled.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from unbroken.store.backend import joined, parent_of
from unbroken.store.memory import MemoryBackend
from unbroken.testing.backends import Operation

_ALL_SUBSETS_UP_TO = 5


@dataclass(frozen=True)
class CrashState:
    """One state that the disk may be in: its files, what had been acknowledged by then, and where the power went."""

    backend: MemoryBackend
    acknowledged: tuple[str, ...]
    place: str


@dataclass(eq=False)
class _Content:
    """The bytes of one file, whatever names it has; the first `synced` are safe."""

    data: bytearray = field(default_factory=bytearray)
    synced: int = 0


_FOLDER = _Content()


@dataclass(frozen=True, eq=False)
class _Change:
    """One name in a folder that now means `content`, or nothing; never on the disk before the change it is `after`."""

    path: str
    content: _Content | None
    after: "_Change | None" = None


_LOSSES: dict[str, Callable[[_Content], bytes]] = {
    "unsynced data kept": lambda content: bytes(content.data),
    "unsynced data gone": lambda content: bytes(content.data[: content.synced]),
    "unsynced data cut": lambda content: bytes(content.data[: (content.synced + len(content.data)) // 2]),
    "unsynced data zeroed": lambda content: bytes(content.data[: content.synced]).ljust(len(content.data), b"\0"),
}


class _Disk:
    """What is on the disk for certain, and the changes of names that are still under way to it."""

    def __init__(self) -> None:
        self._certain: dict[str, _Content] = {}
        self._visible: dict[str, _Content] = {}
        self._pending: list[_Change] = []

    def carry_out(self, operation: Operation) -> None:
        match operation.name:
            case "create":
                self._create(operation.path)
            case "write":
                self._visible[operation.path].data += operation.data
            case "sync":
                self._visible[operation.path].synced = len(self._visible[operation.path].data)
            case "replace":
                arrival = self._change(operation.target, self._visible[operation.path])
                self._change(operation.path, None, arrival)
            case "remove":
                self._change(operation.path, None)
            case "make_folder":
                self._make_folder(operation.path)
            case "sync_folder":
                self._sync_folder(operation.path)

    def possible_states(self) -> Iterator[tuple[str, dict[str, bytes | None]]]:
        """Every way in which this disk may come up again: files by path, None for a folder."""
        for changes in _subsets(self._pending):
            if any(change.after in self._pending and change.after not in changes for change in changes):
                continue
            names = dict(self._certain)
            for change in changes:
                _apply(names, change)
            place = f"{len(changes)} of {len(self._pending)} changes of names"
            yield from ((f"{place}, {loss}", _contents(names, rule)) for loss, rule in _LOSSES.items())

    def _create(self, path: str) -> None:
        """A new file, or the one of that name emptied in place: its old content is lost at once."""
        if path in self._visible:
            self._visible[path].data.clear()
            self._visible[path].synced = 0
        else:
            self._change(path, _Content())

    def _change(self, path: str, content: _Content | None, after: _Change | None = None) -> _Change:
        change = _Change(path, content, after)
        self._pending.append(change)
        _apply(self._visible, change)
        return change

    def _make_folder(self, path: str) -> None:
        parts = path.split("/") if path else []
        for folder in itertools.accumulate(parts, joined):
            if folder not in self._visible:
                self._change(folder, _FOLDER)

    def _sync_folder(self, folder: str) -> None:
        for change in self._pending:
            if parent_of(change.path) == folder:
                _apply(self._certain, change)
        self._pending = [change for change in self._pending if parent_of(change.path) != folder]


def crash_states(recording: Sequence[Operation]) -> Iterator[CrashState]:
    """Every distinct state of the disk after a power loss between any two operations of the recording.

    The recording starts with an empty disk. Up to 5 changes of names under way are combined in every way; of more, the
    prefixes and those with a single one missing. One rule of loss holds for all unsynced content of a state.
    """
    disk = _Disk()
    acknowledged: list[str] = []
    seen: set[bytes] = set()
    for number, operation in enumerate([*recording, None]):
        for loss, files in disk.possible_states():
            if _is_new(files, acknowledged, seen):
                done = f"after {number} operations, before {operation.name if operation else 'the end'}: {loss}"
                yield CrashState(_backend(files), tuple(acknowledged), done)
        if operation is not None and operation.name == "acknowledge":
            acknowledged.append(operation.path)
        elif operation is not None:
            disk.carry_out(operation)


def _apply(names: dict[str, _Content], change: _Change) -> None:
    if change.content is None:
        names.pop(change.path, None)
    else:
        names[change.path] = change.content


def _subsets(pending: list[_Change]) -> Iterator[tuple[_Change, ...]]:
    if len(pending) <= _ALL_SUBSETS_UP_TO:
        sizes = range(len(pending) + 1)
        yield from itertools.chain.from_iterable(itertools.combinations(pending, size) for size in sizes)
        return
    yield from (tuple(pending[:size]) for size in range(len(pending) + 1))
    yield from (tuple(pending[:missing] + pending[missing + 1 :]) for missing in range(len(pending)))


def _contents(names: dict[str, _Content], rule: Callable[[_Content], bytes]) -> dict[str, bytes | None]:
    """The files and folders that can be reached; None for a folder."""
    return {
        path: None if content is _FOLDER else rule(content)
        for path, content in sorted(names.items())
        if all(names.get(above) is _FOLDER for above in _folders_above(path))
    }


def _folders_above(path: str) -> list[str]:
    return list(itertools.accumulate(path.split("/")[:-1], joined))


def _backend(files: dict[str, bytes | None]) -> MemoryBackend:
    backend = MemoryBackend()
    for path, content in files.items():
        if content is None:
            backend.make_folder(path)
        else:
            with backend.create(path) as file:
                file.write(content)
    return backend


def _is_new(files: dict[str, bytes | None], acknowledged: list[str], seen: set[bytes]) -> bool:
    digest = hashlib.blake2b(repr(acknowledged).encode())
    for path, content in files.items():
        digest.update(f"\0{path}\0{-1 if content is None else len(content)}\0".encode())
        digest.update(content or b"")
    known = digest.digest() in seen
    seen.add(digest.digest())
    return not known
