"""The cache: found, extended or computed, and kept; safe with several processes at once."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from unbroken import logs
from unbroken.cache.entry import EntryName, OtherFormat, pointer_hint, read_entry, read_record, write_entry
from unbroken.cache.inputs import Inputs, Kind, differences
from unbroken.cache.result import Result
from unbroken.cache.upkeep import held_entries, prune
from unbroken.errors import DamagedFile, NotFound, RunLocked, StorageError
from unbroken.store.durable import LocalBackend, move_aside
from unbroken.store.lock import ExclusiveLock

QUARANTINE, LOCKS = "quarantine", ".locks"
_EXPLAINED = 30  # newest entries that a miss is compared with
_LONGEST_PAUSE_SECONDS = 0.5

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
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        self.folder = Path(folder)
        self.backend = LocalBackend(self.folder)
        self.limit_bytes = limit_bytes

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
        found = self._hit(inputs, steps)
        if found is not None:
            return Answer(found, "hit")
        with self._alone(inputs):
            found = self._hit(inputs, steps)  # another process may have computed it meanwhile
            if found is not None:
                return Answer(found, "hit")
            return self._made(inputs, compute, extend, steps)

    def find(self, inputs: Inputs, steps: int | None = None) -> Result | None:
        """The result if it is there, whole or as the beginning of a longer one."""
        return self._hit(inputs, steps)

    def put(self, inputs: Inputs, result: Result) -> None:
        """Keep a result that was computed elsewhere; a failure only warns."""
        self._save(inputs, result, None)

    def say(self, kind: Kind, message: str) -> None:
        """One greppable log line."""
        logs.LOGGER.info("[CACHE %s] %s", kind.upper(), message)

    def entries(self, inputs: Inputs) -> list[EntryName]:
        """Entries of these inputs, those with fewest steps first."""
        name = EntryName.of(inputs, None)
        beginning = f"{name.scenario}_{inputs.short}_{inputs.kind}_cache_"
        parsed = (EntryName.parsed(found) for found in _names(self.folder) if found.startswith(beginning))
        own = [entry for entry in parsed if entry is not None and entry.fingerprint == inputs.fingerprint]
        return sorted(own, key=lambda entry: entry.steps or 0)

    def _hit(self, inputs: Inputs, steps: int | None) -> Result | None:
        enough = [e for e in self.entries(inputs) if e.steps == steps or (e.steps or 0) >= (steps or 0) > 0]
        for entry in enough:
            found = self._read(entry)
            if found is not None:
                self._say_hit(inputs, entry, steps)
                return found if steps is None else found.first(steps)
        return None

    def _say_hit(self, inputs: Inputs, entry: EntryName, steps: int | None) -> None:
        with contextlib.suppress(OSError):
            os.utime(self.folder / entry.text())
        if inputs.kind == "baseline":
            self.say("baseline", f"Using universal cache ({entry.steps} steps ≥ {steps} required): {entry.text()}")
        else:
            self.say("rl", f"Using the result with config {inputs.short}: {entry.text()}")

    def _read(self, entry: EntryName) -> Result | None:
        """The result of an entry; a damaged one is said, put aside and as good as absent."""
        name = entry.text()
        try:
            return read_entry(self.backend, name)[1]
        except NotFound:
            return None
        except OtherFormat as error:
            self.say(entry.kind, str(error))
        except DamagedFile as error:
            self._put_aside(entry, error)
        except OSError as error:
            self.say(entry.kind, f"WARNING: {name} cannot be read ({error}); computing it")
        return None

    def _put_aside(self, entry: EntryName, error: DamagedFile) -> None:
        name = entry.text()
        reason = pointer_hint(self.folder / name) or str(error).partition("is damaged: ")[2] or str(error)
        try:
            place = move_aside(self.backend, name, QUARANTINE)
        except OSError as problem:
            place = f"nowhere, as it cannot be moved ({problem})"
        self.say(entry.kind, f"WARNING: {name} cannot be used: {reason}. Moved to {place}; computing it again")

    def _made(self, inputs: Inputs, compute: Compute, extend: Extend | None, steps: int | None) -> Answer:
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
        result = replace(result, context=inputs.context)
        self._save(inputs, result, None if partial is None else EntryName.of(inputs, partial.steps))
        return Answer(result, how)

    def _partial(self, inputs: Inputs, steps: int | None) -> Result | None:
        """The longest shorter result that can be gone on from to the last bit."""
        for entry in reversed(self.entries(inputs)):
            if not 0 < (entry.steps or 0) < (steps or 0):
                continue
            found = self._read(entry)
            if found is None or found.end is None:
                continue
            if dict(found.context) == dict(inputs.context):
                return found
            self.say(
                inputs.kind,
                f"{entry.text()} was computed with {_words(found.context)}, here is {_words(inputs.context)}: not extended",
            )
        return None

    def _miss(self, inputs: Inputs) -> str:
        what = f"No cache found for {inputs.scenario} with config {inputs.short}"
        nearest = self._nearest(inputs)
        return what if nearest is None else f"{what} ({nearest})"

    def _nearest(self, inputs: Inputs) -> str | None:
        """What the entry that differs least has different; None where there is no other of the scenario."""
        wanted = EntryName.of(inputs, None)
        others = [
            e for e in held_entries(self.folder) if (e.name.scenario, e.name.kind) == (wanted.scenario, wanted.kind)
        ]
        nearest: tuple[int, str] | None = None
        for entry in others[-_EXPLAINED:]:
            with contextlib.suppress(DamagedFile, NotFound, OSError):
                found = differences(read_record(self.backend, entry.file).inputs, inputs.record)
                if nearest is None or len(found) < nearest[0]:
                    places = ", ".join(one.place for one in found[:4]) + (", …" if len(found) > 4 else "")
                    nearest = len(found), f"nearest is {entry.name.fingerprint[:8]}, which differs in {places}"
        return None if nearest is None else nearest[1]

    def _save(self, inputs: Inputs, result: Result, replaced: EntryName | None) -> None:
        try:
            name = write_entry(self.backend, inputs, result)
        except OSError as error:
            self.say(inputs.kind, f"WARNING: not saved: {error}; the result is used all the same")
            return
        what = "the result" if result.steps is None else f"{result.steps} states"
        self.say(inputs.kind, f"Saved {what} to {self.folder / name}")
        if replaced is not None:
            # every row of it is in the new entry
            self._remove(replaced)
        self._shrink(inputs.kind, name)

    def _remove(self, entry: EntryName) -> None:
        with contextlib.suppress(OSError):
            self.backend.remove(entry.text())

    def _shrink(self, kind: Kind, newest: str) -> None:
        if self.limit_bytes is None:
            return
        for gone in prune(self.folder, self.limit_bytes, spared=frozenset({newest})):
            self.say(kind, f"Evicted {gone.file}: the cache is limited to {logs.human_size(self.limit_bytes)}")

    @contextlib.contextmanager
    def _alone(self, inputs: Inputs) -> Iterator[None]:
        """One process and thread at a time computes a fingerprint; where the folder cannot be locked, each does."""
        lock = ExclusiveLock(self.folder / LOCKS / f"{inputs.fingerprint}.lock", run=inputs.short)
        pause, said = 0.02, False
        while True:
            try:
                lock.acquire()
                break
            except RunLocked:
                if not said:
                    self.say(inputs.kind, f"Waiting for another process that computes config {inputs.short}")
                    said = True
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            except StorageError:
                break
        try:
            yield
        finally:
            lock.release()


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as found:
            return [entry.name for entry in found if entry.name.endswith(".zip")]
    except OSError:
        return []


def _words(context: object) -> str:
    return (
        ", ".join(f"{key} {value}" for key, value in dict(context).items())
        if isinstance(context, dict)
        else str(context)
    )
