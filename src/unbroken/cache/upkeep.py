"""Looking after a cache folder: what is there, pins, the size limit, and what two entries differ in.

An entry's file time is when it was last used. A pin is a file named like the fingerprint in `pinned/`, so it outlives an extension.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from unbroken.cache.entry import EntryName, EntryRecord, OtherFormat, pointer_hint, read_record, verify_entry
from unbroken.cache.inputs import Difference, differences
from unbroken.errors import DamagedFile, NotFound, UsageError
from unbroken.store.durable import LocalBackend, write_bytes_durably

PINNED = "pinned"


@dataclass(frozen=True)
class Held:
    """An entry in a folder; `size` in bytes, `last_used` in seconds since 1970."""

    name: EntryName
    file: str
    size: int
    last_used: float
    pinned: bool


def held_entries(folder: Path) -> list[Held]:
    """All entries, the least recently used first. What is no entry of ours is not seen."""
    pinned = pins(folder)
    held = []
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for file in found:
            name = EntryName.parsed(file.name)
            with contextlib.suppress(OSError):  # gone meanwhile
                if name is not None:
                    facts = file.stat()
                    held.append(Held(name, file.name, facts.st_size, facts.st_mtime, name.fingerprint in pinned))
    return sorted(held, key=lambda entry: (entry.last_used, entry.file))


def pins(folder: Path) -> frozenset[str]:
    """The fingerprints that are pinned."""
    with contextlib.suppress(OSError):
        return frozenset(path.name for path in (folder / PINNED).iterdir() if not path.name.startswith("."))
    return frozenset()


def pin(folder: Path, text: str, pinned: bool = True) -> Held:
    """Pin the entry that `text` names, or let it go again. Raises as `find_entry`, and what the storage raises."""
    entry = find_entry(folder, text)
    path = f"{PINNED}/{entry.name.fingerprint}"
    if pinned:
        write_bytes_durably(LocalBackend(folder), path, b"")
    else:
        (folder / path).unlink(missing_ok=True)
    return entry


def prune(folder: Path, limit_bytes: int, spared: Collection[str] = frozenset(), dry_run: bool = False) -> list[Held]:
    """Remove the least recently used entries until the folder holds at most `limit_bytes`; returns what goes.

    Pinned and `spared` files stay, even where they alone are more than the limit.
    """
    held = held_entries(folder)
    excess = sum(entry.size for entry in held) - limit_bytes
    gone = []
    for entry in held:
        if excess <= 0:
            break
        if entry.pinned or entry.file in spared:
            continue
        if not dry_run:
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                (folder / entry.file).unlink()
        excess -= entry.size
        gone.append(entry)
    return gone


def find_entry(folder: Path, text: str) -> Held:
    """The entry that a text names: a file name, a path, or the beginning of a fingerprint (4 digits or more).

    Raises NotFound, and UsageError where several entries fit.
    """
    held = held_entries(folder)
    name = Path(text).name
    fitting = [e for e in held if e.file == name] or [
        e for e in held if len(text) >= 4 and e.name.fingerprint.startswith(text)
    ]
    if not fitting:
        raise NotFound(f"there is no entry {text!r} in {folder} ('unbroken cache list' shows {len(held)})")
    if len({entry.name.fingerprint for entry in fitting}) > 1:
        raise UsageError(
            f"{text!r} fits {len(fitting)} entries: {', '.join(entry.name.fingerprint[:12] for entry in fitting[:6])}"
        )
    return max(fitting, key=lambda entry: entry.name.steps or 0)


def show(folder: Path, text: str) -> EntryRecord:
    """What an entry says of itself. Raises as `find_entry` and `read_entry`."""
    return read_record(LocalBackend(folder), find_entry(folder, text).file)


def explain(folder: Path, first: str, second: str) -> list[Difference]:
    """Which inputs of two entries differ. Raises as `show`."""
    return differences(dict(show(folder, first).inputs), dict(show(folder, second).inputs))


@dataclass(frozen=True)
class Checked:
    """An entry after all of its bytes were read; `problem` is None for a good one."""

    file: str
    problem: str | None


def verify(folder: Path, text: str | None = None) -> list[Checked]:
    """Read every byte of one entry, or of all."""
    chosen = held_entries(folder) if text is None else [find_entry(folder, text)]
    return [Checked(entry.file, _problem(folder, entry.file)) for entry in chosen]


def _problem(folder: Path, file: str) -> str | None:
    try:
        verify_entry(LocalBackend(folder), file)
    except OtherFormat as error:
        return str(error)
    except DamagedFile as error:
        return pointer_hint(folder / file) or str(error)
    except (NotFound, OSError) as error:
        return f"cannot be read: {error}"
    return None
