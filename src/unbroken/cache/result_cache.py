"""The cache: found, extended or computed, and kept; safe with several processes at once."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unbroken import logs
from unbroken.cache.alone import alone
from unbroken.cache.context import context_differences
from unbroken.cache.entry import EntryName, OtherFormat, read_entry, read_record, reason_of, write_entry
from unbroken.cache.inputs import Inputs, Kind, printable
from unbroken.cache.result import Result
from unbroken.cache.upkeep import nearest, prune
from unbroken.errors import DamagedFile, NotFound, StorageError
from unbroken.store.backend import FileBackend
from unbroken.store.durable import LocalBackend, is_leftover, move_aside, remove_leftovers

QUARANTINE = "quarantine"

Compute = Callable[[], Result]
Extend = Callable[[Result], Result]


@dataclass(frozen=True)
class Answer:
    """A result and how it came about."""

    result: Result
    how: str  # "hit", "extended" or "computed"


class ResultCache:
    """Results in a folder, each in a file of its own.

    Any number of processes and threads may use one folder; what one of them computes, the others wait for. `limit_bytes` bounds the
    folder: after a save the least recently used entries that are not pinned go. What cannot be saved is returned all the same.
    Whoever waits for another process when `left` is set gets StoppedEarly.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None, left: threading.Event | None = None) -> None:
        self.folder = Path(folder)
        self.backend: FileBackend = LocalBackend(self.folder)
        self.limit_bytes = limit_bytes
        self.left = left
        self._said: set[str] = set()

    def get_or_compute(
        self, inputs: Inputs, compute: Compute, extend: Extend | None = None, *, steps: int | None = None
    ) -> Result:
        """The result of `inputs`, with exactly `steps` steps where a number is given.

        A longer entry is cut, a shorter one is gone on from by `extend(shorter)`, which returns the missing steps alone, if the
        entry has an end state and was computed in the same context; else `compute()` makes it all. Errors of these two pass on.
        """
        return self.answer(inputs, compute, extend, steps=steps).result

    def answer(
        self, inputs: Inputs, compute: Compute, extend: Extend | None = None, *, steps: int | None = None
    ) -> Answer:
        """As `get_or_compute`, and how the result came about."""
        with contextlib.suppress(DamagedFile):
            found = self._hit(inputs, steps)
            if found is not None:
                return Answer(found, "hit")
        with alone(
            self.folder, inputs.fingerprint, lambda owner: self._say_waiting(inputs, owner), self.left
        ) as problem:
            # another process may have computed it meanwhile
            found = self._hit(inputs, steps, locked=True)
            if found is not None:
                return Answer(found, "hit")
            return self._made(inputs, compute, extend, steps, problem)

    def find(self, inputs: Inputs, steps: int | None = None) -> Result | None:
        """The result if it is there, whole or as the beginning of a longer one."""
        try:
            return self._hit(inputs, steps)
        except DamagedFile:
            with alone(self.folder, inputs.fingerprint, lambda owner: self._say_waiting(inputs, owner), self.left):
                return self._hit(inputs, steps, locked=True)

    def entries(self, inputs: Inputs) -> list[EntryName]:
        """Entries of these inputs, those with fewest steps first; none where the folder does not say what is in it."""
        ending, short = f"{inputs.fingerprint[8:]}.zip", f"_{inputs.short}_{inputs.kind}_cache_"
        parsed = (EntryName.parsed(name) for name in _names(self.folder) if name.endswith(ending) and short in name)
        own = [entry for entry in parsed if entry is not None and entry.fingerprint == inputs.fingerprint]
        return sorted(own, key=lambda entry: entry.steps or 0)

    def say(self, kind: Kind, message: str) -> None:
        """One greppable log line."""
        logs.LOGGER.info("[CACHE %s] %s", kind.upper(), message)

    def _warn(self, kind: Kind, message: str) -> None:
        logs.LOGGER.log(logging.WARNING, "[CACHE %s] WARNING: %s", kind.upper(), message)

    def _hit(self, inputs: Inputs, steps: int | None, *, locked: bool = False) -> Result | None:
        """The result, if an entry has it. What cannot be used is put aside and said if `locked`, else raised as DamagedFile."""
        for entry in self._serving(inputs, steps):
            found = self._read(entry, locked)
            if found is not None:
                self._say_hit(inputs, entry, steps)
                return found if steps is None else found.first(steps)
        return None

    def _serving(self, inputs: Inputs, steps: int | None) -> Iterator[EntryName]:
        """Entries that have what is asked for, the shortest first; that of the very steps without listing a large folder."""
        exact = EntryName.of(inputs, steps)
        yield exact
        yield from (entry for entry in self.entries(inputs) if entry.serves(steps) and entry != exact)

    def _say_hit(self, inputs: Inputs, entry: EntryName, steps: int | None) -> None:
        with contextlib.suppress(OSError):
            os.utime(self.folder / entry.text())
        enough = "" if steps is None else f" ({entry.steps} steps ≥ {steps} required)"
        what = "universal cache" if inputs.kind == "baseline" else f"the result with config {inputs.short}"
        self.say(inputs.kind, f"Using {what}{enough}: {entry.text()}")

    def _say_waiting(self, inputs: Inputs, owner: str) -> None:
        self.say(inputs.kind, f"Waiting for {owner}, which computes config {inputs.short}")

    def _read(self, entry: EntryName, locked: bool) -> Result | None:
        """The result of an entry; None where there is none, or none that can be used: see `_hit`."""
        name = entry.text()
        try:
            return read_entry(self.backend, name)[1]
        except (NotFound, NotADirectoryError):
            return None
        except (DamagedFile, OSError) as error:
            if not locked:
                raise DamagedFile(str(error)) from error
            self._say_unusable(entry, error)
        return None

    def _say_unusable(self, entry: EntryName, error: DamagedFile | OSError) -> None:
        if isinstance(error, OtherFormat):
            self._warn(entry.kind, f"{error}. It stays")
        elif isinstance(error, DamagedFile):
            self._put_aside(entry, error)
        else:
            self._warn(entry.kind, f"{entry.text()} cannot be read ({error}); computing it")

    def _put_aside(self, entry: EntryName, error: DamagedFile) -> None:
        name = entry.text()
        reason = reason_of(error, self.folder / name)
        try:
            moved = f"Moved to {move_aside(self.backend, name, QUARANTINE)}"
        except OSError as problem:
            moved = f"It cannot be moved away ({problem})"
        self._warn(entry.kind, f"{name} cannot be used: {reason}. {moved}; computing it again")

    def _made(
        self, inputs: Inputs, compute: Compute, extend: Extend | None, steps: int | None, problem: str | None
    ) -> Answer:
        partial = self._partial(inputs, steps) if extend is not None and steps is not None else None
        if partial is not None and extend is not None:
            self.say(
                inputs.kind, f"Partial: {partial.steps} steps of {steps} are there; extending from their end state"
            )
            result, how = partial.then(extend(partial)), "extended"
        else:
            self.say(inputs.kind, self._miss(inputs))
            result, how = compute(), "computed"
        if result.steps != steps:
            raise ValueError(f"{inputs.scenario}: {steps} steps were asked for and {result.steps} computed")
        # where there was a partial result, its context was found to be the present one
        result = result.sealed(inputs.context)
        self._save(inputs, result, None if partial is None else EntryName.of(inputs, partial.steps), problem)
        return Answer(result, how)

    def _partial(self, inputs: Inputs, steps: int | None) -> Result | None:
        """The longest shorter result that can be gone on from to the last bit."""
        for entry in reversed(self.entries(inputs)):
            if not 0 < (entry.steps or 0) < (steps or 0):
                continue
            found = self._read(entry, locked=True)
            if found is None or found.end is None:
                continue
            if dict(found.context) == dict(inputs.context):
                return found
            different = printable(context_differences(found.context, inputs.context))
            self.say(inputs.kind, f"{entry.text()} is not extended: computed elsewhere ({different})")
        return None

    def _miss(self, inputs: Inputs) -> str:
        what = f"No cache found for {inputs.scenario} with config {inputs.short}"
        with contextlib.suppress(OSError):
            found = nearest(self.folder, inputs)
            return f"{what} ({found})" if found else what
        return what

    def _save(self, inputs: Inputs, result: Result, replaced: EntryName | None, problem: str | None) -> None:
        """Keep a result; `problem` is why it was computed without a lock, None if it was with one."""
        name = EntryName.of(inputs, result.steps).text()
        try:
            if problem is None:
                self._remove_leftovers(inputs)
            self._require_own(name)
            write_entry(self.backend, inputs, result)
        except (OSError, TypeError, ValueError, RecursionError) as error:
            self._warn(inputs.kind, f"not saved: {error}; the result is used all the same")
            return
        what = "the result" if result.steps is None else f"{result.steps} states"
        self.say(inputs.kind, f"Saved {what} to {self.folder / name}")
        if problem is not None and problem not in self._said:
            self._said.add(problem)
            self._warn(inputs.kind, f"{problem}; another process may compute the same at the same time")
        if replaced is not None:
            # every row of it is in the new entry
            with contextlib.suppress(OSError):
                self.backend.remove(replaced.text())
        self._shrink(inputs.kind, name)

    def _remove_leftovers(self, inputs: Inputs) -> None:
        """Remove what killed writers of entries of these inputs left; nobody else writes them while they are locked."""
        ending = f"{inputs.fingerprint[8:]}.zip"
        if any(is_leftover(name) and ending in name for name in _names(self.folder)):
            remove_leftovers(self.backend, "", lambda name: name.endswith(ending))

    def _require_own(self, name: str) -> None:
        """Raises OtherFormat or StorageError where the name belongs to another version of the package, or may do so."""
        try:
            read_record(self.backend, name)
        except OtherFormat as error:
            raise OtherFormat(f"{name} belongs to another version of unbroken") from error
        except (DamagedFile, NotFound):
            return
        except OSError as error:
            if self.backend.exists(name):
                raise StorageError(
                    f"what has the name {name} cannot be read ({error.strerror or error}); make it readable, or remove it"
                ) from error

    def _shrink(self, kind: Kind, newest: str) -> None:
        if self.limit_bytes is None:
            return
        try:
            evicted = prune(self.folder, self.limit_bytes, spared=frozenset({newest}))
        except OSError as error:
            self._warn(kind, f"nothing is evicted, though the cache is limited: {error}")
            return
        for gone in evicted:
            self.say(kind, f"Evicted {gone.file}: the cache is limited to {logs.human_size(self.limit_bytes)}")


def _names(folder: Path) -> list[str]:
    # what is in a folder that cannot be read is computed, and the attempt to save it says what is wrong
    try:
        with os.scandir(folder) as found:
            return [entry.name for entry in found]
    except OSError:
        return []
