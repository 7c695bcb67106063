"""Looking after a cache folder: what is there, pins, the size limit, and what two entries differ in.

An entry's file time is when it was last used. A pin is a file named like the fingerprint in `pinned/`, so it outlives an extension.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unbroken import logs
from unbroken.cache.context import context_differences
from unbroken.cache.entry import (
    EntryName,
    EntryRecord,
    OtherFormat,
    read_record,
    reason_of,
    scenario_in_names,
    verify_entry,
)
from unbroken.cache.inputs import Difference, Inputs, differences, printable
from unbroken.errors import DamagedFile, NotFound, StorageError, UsageError
from unbroken.store.durable import LocalBackend, is_leftover, write_bytes_durably

PINNED = "pinned"
_FEWEST_DIGITS = 4
_COMPARED = 30  # newest entries that a miss is compared with
_ABANDONED_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Held:
    """An entry in a folder; `size` in bytes, `last_used` in seconds since 1970."""

    name: EntryName
    file: str
    size: int
    last_used: float
    pinned: bool

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "file": self.file,
            "scenario": self.name.scenario,
            "kind": self.name.kind,
            "fingerprint": self.name.fingerprint,
            "steps": self.name.steps,
            "size": self.size,
            "last_used": self.last_used,
            "pinned": self.pinned,
        }


def held_entries(folder: Path) -> list[Held]:
    """All entries, the least recently used first. What is no entry of ours is not seen.

    A folder that is not there holds none. Raises StorageError where one cannot be read.
    """
    files, pinned = _files(folder), pins(folder)
    held = []
    for file in files:
        name = EntryName.parsed(file.name)
        facts = None if name is None else _stat(file)
        if name is not None and facts is not None:
            held.append(Held(name, file.name, facts.st_size, facts.st_mtime, name.fingerprint in pinned))
    return sorted(held, key=lambda entry: (entry.last_used, entry.file))


def pins(folder: Path) -> frozenset[str]:
    """The fingerprints that are pinned. Raises as `held_entries`."""
    return frozenset(file.name for file in _files(folder / PINNED) if not file.name.startswith("."))


def pin(folder: Path, text: str) -> Held:
    """Keep the entry that `text` names, and what it is extended to, from being evicted. Raises as `find_entry`, and OSError."""
    entry = find_entry(folder, text)
    write_bytes_durably(LocalBackend(folder), f"{PINNED}/{entry.name.fingerprint}", b"")
    return entry


def unpin(folder: Path, text: str) -> str:
    """Let a pinned entry go again, also one that is not there any more; returns the fingerprint. Raises as `pin`."""
    gone = [one for one in pins(folder) if len(text) >= _FEWEST_DIGITS and one.startswith(text)]
    fingerprint = gone[0] if len(gone) == 1 else find_entry(folder, text).name.fingerprint
    (folder / PINNED / fingerprint).unlink(missing_ok=True)
    return fingerprint


def prune(folder: Path, limit_bytes: int, spared: Collection[str] = frozenset(), dry_run: bool = False) -> list[Held]:
    """Remove the least recently used entries until the folder holds at most `limit_bytes`; returns what goes.

    Pinned and `spared` files stay, even where they alone are more than the limit, and what cannot be removed. What writers that
    were killed a day ago left goes as well. Raises as `held_entries`.
    """
    held = held_entries(folder)
    excess = sum(entry.size for entry in held) - limit_bytes
    gone = []
    for entry in held:
        if excess <= 0:
            break
        if entry.pinned or entry.file in spared or not (dry_run or _removed(folder / entry.file)):
            continue
        excess -= entry.size
        gone.append(entry)
    if not dry_run:
        _sweep(folder)
    return gone


@dataclass(frozen=True)
class Pruned:
    """What pruning removed, or with `dry_run` would, and what stays."""

    gone: tuple[Held, ...]
    stays: tuple[Held, ...]
    limit_bytes: int
    dry_run: bool

    def text(self) -> str:
        """For people."""
        verb = "Would evict" if self.dry_run else "Evicted"
        lines = [f"{verb} {entry.file} ({logs.human_size(entry.size)})" for entry in self.gone]
        size, limit = sum(entry.size for entry in self.stays), logs.human_size(self.limit_bytes)
        pinned = sum(entry.pinned for entry in self.stays)
        left = "would stay" if self.dry_run else "stay"
        above = "" if size <= self.limit_bytes else "; pinned ones and those that cannot be removed are more than that"
        summary = f"{len(self.stays)} entries {left} ({pinned} pinned), {logs.human_size(size)} of {limit}{above}"
        return "\n".join([*lines, summary])

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        names = {"gone": [entry.file for entry in self.gone], "stays": [entry.file for entry in self.stays]}
        return {**names, "limit": self.limit_bytes, "dry_run": self.dry_run}


def pruned(folder: Path, limit_bytes: int, dry_run: bool = False) -> Pruned:
    """As `prune`, with what stays."""
    gone = prune(folder, limit_bytes, dry_run=dry_run)
    files = {entry.file for entry in gone}
    stays = tuple(entry for entry in held_entries(folder) if entry.file not in files)
    return Pruned(tuple(gone), stays, limit_bytes, dry_run)


def find_entry(folder: Path, text: str) -> Held:
    """The entry that a text names: a file name, a path, or the beginning of a fingerprint (4 digits or more).

    Raises NotFound, with what is nearest, and UsageError where several entries fit.
    """
    held = held_entries(folder)
    name = Path(text).name
    by_digits = [e for e in held if len(text) >= _FEWEST_DIGITS and e.name.fingerprint.startswith(text)]
    fitting = [e for e in held if e.file == name] or by_digits
    if not fitting:
        raise NotFound(f"there is no entry {text!r} in {folder}{_near(text, held)}")
    if len({entry.name.fingerprint for entry in fitting}) > 1:
        shown = ", ".join(f"{e.name.fingerprint[:12]} ({e.name.scenario})" for e in fitting[:6])
        raise UsageError(f"{text!r} fits {len(fitting)} entries: {shown}")
    return max(fitting, key=lambda entry: entry.name.steps or 0)


def show(folder: Path, text: str) -> EntryRecord:
    """What an entry says of itself. Raises as `find_entry` and `read_entry`."""
    return read_record(LocalBackend(folder), find_entry(folder, text).file)


def nearest(folder: Path, inputs: Inputs) -> str | None:
    """In what the entry of the same scenario and kind that differs least differs; None where there is none of these.

    Raises as `held_entries`.
    """
    wanted = (scenario_in_names(inputs.scenario), inputs.kind)
    others = [e for e in held_entries(folder) if (e.name.scenario, e.name.kind) == wanted]
    found: list[tuple[int, str]] = []
    unread = 0
    for entry in others[-_COMPARED:]:
        try:
            different = differences(dict(read_record(LocalBackend(folder), entry.file).inputs), inputs.record)
        except OtherFormat:
            unread += 1
        except (DamagedFile, OSError):
            continue
        else:
            if different:
                found.append((len(different), f"nearest is {entry.name.fingerprint[:8]}, changed: {_few(different)}"))
    said = [min(found)[1]] if found else []
    return "; ".join(said + ([f"{unread} of another version of the cache are not used"] if unread else [])) or None


@dataclass(frozen=True)
class Explained:
    """What two entries differ in, from the first to the second."""

    first: EntryRecord
    second: EntryRecord
    differences: tuple[Difference, ...]

    def text(self) -> str:
        """For people: `same inputs`, or the places with both values; and what that means for steps and extension."""
        lines = ["same inputs"] if not self.differences else [one.text() for one in self.differences]
        return "\n".join([*lines, *self._meaning()])

    def _meaning(self) -> list[str]:
        if self.differences:
            return ["Another configuration: neither entry serves or extends the other."]
        lines = []
        steps = [record.name.steps for record in (self.first, self.second)]
        if None not in steps and steps[0] != steps[1]:
            few, many = sorted(steps, key=lambda count: count or 0)
            lines.append(
                f"{many} steps ≥ {few}: the longer entry serves requests of up to {many} steps, the shorter those of up to {few}."
            )
        context = printable(context_differences(self.first.context, self.second.context))
        if context:
            lines.append(
                f"Computed in different places ({context}): both are used, each is extended only where it was computed."
            )
        return lines

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "same_inputs": not self.differences,
            "differences": [one.plain() for one in self.differences],
            "steps": [self.first.name.steps, self.second.name.steps],
            "context": context_differences(self.first.context, self.second.context),
        }


def explain(folder: Path, first: str, second: str) -> Explained:
    """Which inputs of two entries differ. Raises as `show`."""
    one, other = show(folder, first), show(folder, second)
    return Explained(one, other, tuple(differences(dict(one.inputs), dict(other.inputs))))


@dataclass(frozen=True)
class Checked:
    """An entry after all of its bytes were read; `problem` is None for a good one.

    `word`: `other` for an entry of another version, `UNREAD` for one that the disk does not give, `gone` where there is none.
    """

    file: str
    problem: str | None = None
    word: Literal["ok", "other", "DAMAGED", "UNREAD", "gone"] = "ok"

    @property
    def is_damaged(self) -> bool:
        """Whether what it holds is known to be wrong."""
        return self.word == "DAMAGED"

    @property
    def is_lost(self) -> bool:
        """Whether no version of the package can use it as it is."""
        return self.word in ("DAMAGED", "UNREAD")

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {"file": self.file, "valid": self.problem is None, "problem": self.problem}


def verify(folder: Path, text: str | None = None) -> list[Checked]:
    """Read every byte of one entry, or of all but those that another process removes meanwhile. Raises as `find_entry`."""
    chosen = held_entries(folder) if text is None else [find_entry(folder, text)]
    return [one for entry in chosen if (one := checked(folder, entry.file)).word != "gone"]


def checked(folder: Path, file: str) -> Checked:
    """The entry, or a file that is to become one, after all of its bytes were read."""
    try:
        verify_entry(LocalBackend(folder), file)
    except OtherFormat as error:
        return Checked(file, str(error), "other")
    except DamagedFile as error:
        return Checked(file, reason_of(error, folder / file), "DAMAGED")
    except NotFound:
        return Checked(file, "it is gone", "gone")
    except OSError as error:
        return Checked(file, f"it cannot be read ({error.strerror or error})", "UNREAD")
    return Checked(file)


def _files(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error


def _stat(file: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:  # gone meanwhile
        return None
    except OSError as error:
        raise _unreadable(Path(file.path), error) from error


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path} of the cache cannot be read: {error.strerror or error}")


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:  # another process was quicker
        return True
    except OSError:
        return False
    return True


def _sweep(folder: Path) -> None:
    for file in _files(folder):
        with contextlib.suppress(OSError):
            if is_leftover(file.name) and time.time() - file.stat().st_mtime > _ABANDONED_SECONDS:
                Path(file.path).unlink()


def _few(different: list[Difference]) -> str:
    return ", ".join(one.text() for one in different[:3]) + (", …" if len(different) > 3 else "")


def _near(text: str, held: list[Held]) -> str:
    if not held:
        return ": it holds none"
    known = {e.name.fingerprint[:8]: e for e in held} | {e.file: e for e in held}
    near = difflib.get_close_matches(Path(text).name, list(known), n=3, cutoff=0.5)
    same = [e for e in held if text and text in e.file][-3:]
    shown = list(dict.fromkeys(e.file for e in [*same, *(known[name] for name in near)]))[:3]
    return f"; near are {', '.join(shown)}" if shown else f" ('unbroken cache list' shows {len(held)})"
