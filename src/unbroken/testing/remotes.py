"""A remote around a remote that fails by plan, for tests of what uses remotes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from unbroken.errors import RemoteUnreachable
from unbroken.remotes.contract import Item, Put, Remote

Spoil = Callable[[bytes], bytes]


def truncated(content: bytes) -> bytes:
    """The first half."""
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """The same length with one bit of the middle byte changed."""
    middle = len(content) // 2
    return content[:middle] + bytes(byte ^ 1 for byte in content[middle : middle + 1]) + content[middle + 1 :]


@dataclass(frozen=True)
class Faults:
    """What goes wrong, all of it nothing by default. Operations (`items`, `put`, `fetch`) are counted together, from 1."""

    errors: Mapping[int, Exception] = field(default_factory=dict)
    """Raised instead of the operation of this number."""
    unreachable: range = range(0)
    """Numbers of the operations that meet nobody."""
    spoil: Spoil | None = None
    """Changes what `fetch` brings, which then looks complete; see `truncated` and `flipped`."""
    put_dies_after: int | None = None
    """Files of one `put` that get there before `death` is called; a put of no more files is spared."""
    death: Callable[[], object] | None = None
    """What ends such a put; default: RemoteUnreachable is raised. `backends.kill_this_process` is the real thing."""
    forgetful: bool = False
    """`put` reports success and keeps nothing."""
    affirmative: bool = False
    """`put` finds every name there already and does nothing, as behind a page that answers yes to everything."""
    stale: int = 0
    """Listings after each `put` that still show what was there before it."""


class FaultyRemote:
    """Passes everything on to `remote`, but for `faults`, which may be replaced at any time.

    `calls` lists every operation with the names or the prefix that it was given, failed ones included.
    """

    def __init__(self, remote: Remote, faults: Faults = Faults()) -> None:
        self.remote = remote
        self.faults = faults
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self._before_put: list[Item] = []
        self._stale_left = 0

    @property
    def url(self) -> str:
        """That of the inner remote."""
        return self.remote.url

    @property
    def sends_all(self) -> bool:
        """As the inner remote's."""
        return self.remote.sends_all

    def items(self, prefix: str = "") -> list[Item]:
        """As `Remote.items`."""
        self._count("items", prefix)
        if self._stale_left > 0:
            self._stale_left -= 1
            return [item for item in self._before_put if item.name.startswith(prefix)]
        return self.remote.items(prefix)

    def put(self, files: Mapping[str, Path]) -> Put:
        """As `Remote.put`."""
        self._count("put", *files)
        if self.faults.stale:
            self._before_put = self.remote.items()
            self._stale_left = self.faults.stale
        if self.faults.forgetful:
            return Put(written=tuple(files))
        if self.faults.affirmative:
            return Put(present=tuple(files))
        spared = self.faults.put_dies_after
        if spared is not None and len(files) > spared:
            self.remote.put(dict(islice(files.items(), spared)))
            self._die()
        return self.remote.put(files)

    def fetch(self, name: str, target: Path) -> None:
        """As `Remote.fetch`."""
        self._count("fetch", name)
        self.remote.fetch(name, target)
        if self.faults.spoil is not None:
            target.write_bytes(self.faults.spoil(target.read_bytes()))

    def _count(self, operation: str, *names: str) -> None:
        self.calls.append((operation, names))
        number = len(self.calls)
        if number in self.faults.errors:
            raise self.faults.errors[number]
        if number in self.faults.unreachable:
            raise self._silence()

    def _die(self) -> None:
        if self.faults.death is not None:
            self.faults.death()
        raise self._silence()

    def _silence(self) -> RemoteUnreachable:
        return RemoteUnreachable(f"{self.url}: no answer within 0 s, by plan")
