"""What every remote is: objects by name, complete or absent, written once and never changed.

`unbroken.testing.remote_contract` holds the tests that every remote passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# s without a byte or an answer until a remote counts as unreachable
TIMEOUT = 20.0


@dataclass(frozen=True)
class Item:
    """An object at a remote; `size` in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Put:
    """What a `put` did: names it wrote, and names that were there already and were left alone."""

    written: tuple[str, ...] = ()
    present: tuple[str, ...] = ()


class Remote(Protocol):
    """Objects under names such as `cache/a.zip`: parts separated by `/`, as `store.backend.checked_path` accepts them.

    An object is visible only when it is complete, and its bytes never change; nothing is ever deleted. Contents are not looked
    at: whoever fetches compares hashes. Several machines may use one place at once, each through its own object; one object
    belongs to one thread.

    Every method raises RemoteUnreachable where nothing answers within the time-out, RemoteRefused where the place asks for
    credentials or forbids the operation, RemoteError for everything else that fails there, each in one line with the way out and
    without any secret, and UsageError for a name that leaves the place.
    """

    @property
    def url(self) -> str:
        """What the user typed, without secrets."""
        ...

    @property
    def sends_all(self) -> bool:
        """Whether every `put` uploads all of the place again, so that one `put` of everything is better than two."""
        ...

    def items(self, prefix: str = "") -> list[Item]:
        """The complete objects whose names begin with `prefix`, sorted by name. A place that does not exist yet holds none."""
        ...

    def put(self, files: Mapping[str, Path]) -> Put:
        """Copy files there under these names, each only if the name is absent.

        Names become visible in the order given or all at once, so that what is named last can vouch for the others. An
        interruption leaves some of them there and none half; the same call goes on. A place that does not exist yet is made.
        """
        ...

    def fetch(self, name: str, target: Path) -> None:
        """Make `target` hold the object's bytes, in one step when they are all there; its folder must exist.

        Where the remote can, an interrupted transfer leaves `.{target.name}.part` beside it, from which the next call goes on.
        Raises NotFound if there is no such object.
        """
        ...
