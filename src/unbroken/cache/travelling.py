"""Entries on their way to a remote and back: only what is missing travels, and nothing gets a name here unchecked.

At a remote an entry is the object `cache/{file name}`. Objects never change there, so one that is damaged gets a twin under a
variant of its name, which `pull` understands. What arrives lies in the hidden folder `.arriving` until all of its bytes have been
compared with its hashes; what an interruption leaves there is gone on from. Any number of machines may do both at once; of one
folder and remote, one process at a time does. Pins and times of use stay as they are; what arrives counts as used now.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unbroken import logs
from unbroken.cache.alone import alone
from unbroken.cache.entry import EntryName, read_record
from unbroken.cache.result_cache import QUARANTINE
from unbroken.cache.upkeep import Checked, Held, checked, held_entries
from unbroken.errors import DamagedFile, NotFound, RemoteError, RemoteRefused, RemoteUnreachable
from unbroken.remotes.contract import Put, Remote
from unbroken.remotes.transfer import require_listed
from unbroken.store.durable import LocalBackend, move_aside, write_bytes_durably

PREFIX = "cache/"  # of this format; a later one goes below it, where this version does not look
ARRIVING = ".arriving"
_VARIANT = re.compile(r"(?P<entry>.+)\.again-[0-9a-f]{16}(?:-[0-9]+)?\.zip")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Travelled:
    """What a push or a pull did; `size` in bytes. `present` entries needed no travel; `problems` says what could not and why."""

    verb: str
    files: tuple[str, ...]
    size: int
    present: int
    problems: tuple[str, ...]

    def text(self) -> str:
        """One line for people."""
        count = len(self.files)
        problems = f", {len(self.problems)} could not be {self.verb.lower()}" if self.problems else ""
        place = "there" if self.verb == "Pushed" else "here"
        return (
            f"{self.verb} {count} {'entry' if count == 1 else 'entries'} ({logs.human_size(self.size)}), "
            f"{self.present} {'was' if self.present == 1 else 'were'} {place} already{problems}"
        )

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        facts = {"files": list(self.files), "size": self.size, "present": self.present}
        return {**facts, "problems": list(self.problems)}


def log(message: str) -> None:
    """One greppable log line."""
    logs.LOGGER.info("[CACHE] %s", message)


def push(folder: Path, remote: Remote, say: Say = log) -> Travelled:
    """Copy the longest entry of each fingerprint that the remote lacks, all in one `put`.

    Damaged entries stay here and are named. Where the remote has an entry in another size, it is fetched and checked; a damaged one
    gets a twin. Raises what the remote raises, and StorageError where the folder cannot be read; what got there by then stays
    there, and the same call goes on.
    """
    with _travel(folder, remote, say) as travel:
        leaving: dict[str, Held] = {}
        own = _longest(held_entries(folder))
        for entry in own:
            name = travel.missing_name(entry)
            if name is not None and travel.may_leave(entry):
                leaving[PREFIX + name] = entry
        kept = len(travel.problems) + travel.n_passed_over
        if leaving:
            say(f"Pushing {len(leaving)} of {len(own)} entries ({_size(leaving.values())}) to {remote.url}")
            if not travel.there:
                say(f"{remote.url} held no entries yet")
        put = _put_all(remote, {name: folder / entry.file for name, entry in leaving.items()})
        require_listed(remote, put)
        written = [leaving[name] for name in put.written]
        present = len(own) - len(written) - kept
        return _said(say, travel, "Pushed", [entry.file for entry in written], sum(e.size for e in written), present)


def pull(folder: Path, remote: Remote, say: Say = log) -> Travelled:
    """Fetch the longest sound entry of each fingerprint that is longer than what is here, or in place of what is damaged here.

    What is here is read whole for that (milliseconds each). Shorter entries that the longer one makes useless go, unless pinned.
    What belongs to another version of the package, or cannot be read, keeps its name and is said. What arrives damaged is named and
    not taken. Raises what the remote raises where it does not answer or refuses, and OSError where this disk fails; what arrived by
    then stays, and the same call goes on.
    """
    with _travel(folder, remote, say) as travel:
        here = _by_fingerprint(held_entries(folder))
        wanted = {
            fingerprint: missing
            for fingerprint, objects in travel.there.items()
            if (missing := travel.missing(objects, here.get(fingerprint, [])))
        }
        if not travel.there:
            say(f"{remote.url} holds no entries")
        if wanted:
            say(f"Pulling {len(wanted)} of {len(travel.there)} entries from {remote.url}")
        taken = [one for missing in wanted.values() if (one := travel.take_first(missing)) is not None]
        for one in taken:
            travel.remove_shorter(one, here.get(one.name.fingerprint, []))
        travel.tidy()
        files, size = [one.name.text() for one in taken], sum(one.size for one in taken)
        present = len(travel.there) - len(wanted) - travel.n_passed_over
        return _said(say, travel, "Pulled", files, size, present)


@dataclass(frozen=True)
class _Object:
    """An entry at the remote, under its own name or a variant of it; `file` is without the prefix."""

    file: str
    name: EntryName
    size: int

    @property
    def key(self) -> str:
        """A short name for files about it."""
        return hashlib.sha256(self.file.encode("utf-8", "surrogateescape")).hexdigest()[:16]


@dataclass
class _Travel:
    """What both directions need: what is at the remote, the longest first, and the way in."""

    folder: Path
    remote: Remote
    say: Say
    arriving: str
    there: Mapping[str, list[_Object]]
    problems: list[str] = field(default_factory=list)
    n_passed_over: int = 0  # entries that do not travel and are not there either
    _interrupted: set[str] = field(default_factory=set)

    @property
    def backend(self) -> LocalBackend:
        """This machine's folder."""
        return LocalBackend(self.folder)

    def missing_name(self, entry: Held) -> str | None:
        """Under which name the remote needs the entry; None if it has it, or a longer one."""
        objects = self.there.get(entry.name.fingerprint, [])
        twins = [one for one in objects if one.name.serves(entry.name.steps) and not self._is_marked(one)]
        if any(one.size == entry.size or one.name.steps != entry.name.steps for one in twins):
            return None
        for one in twins:
            found = self._arrived(one)
            self._discard(one)
            if found.word == "other":
                self.say(f"WARNING: {one.file} stays at {self.remote.url} and gets no twin: {found.problem}")
            if not found.is_lost:
                return None  # that of another machine
            self.say(
                f"WARNING: {one.file} is damaged at {self.remote.url}: {found.problem}; pushed again under another name"
            )
        try:
            return _free_name(self.folder / entry.file, {one.file for one in objects})
        except FileNotFoundError:  # evicted meanwhile
            self.n_passed_over += 1
            return None

    def may_leave(self, entry: Held) -> bool:
        """Whether the entry is sound; a damaged one is a problem."""
        found = checked(self.folder, entry.file)
        if found.is_damaged:
            self._problem(f"{entry.file} is damaged here: {found.problem}; not pushed, its next use computes it again")
        elif found.is_lost:
            self._problem(f"{entry.file} is not pushed: {found.problem}")
        elif found.problem is not None:
            self.n_passed_over += 1
        return found.problem is None

    def missing(self, objects: list[_Object], held: list[Held]) -> list[_Object]:
        """The objects that this machine has neither sound, whole or as a part, nor something in place of that must stay."""
        useful = [entry for entry in held if any(entry.name.serves(one.name.steps) for one in objects)]
        found = {entry.name: checked(self.folder, entry.file) for entry in useful}
        sound = [name for name, here in found.items() if here.problem is None]
        left = [one for one in objects if not any(name.serves(one.name.steps) for name in sound)]
        staying = {one.name for one in left if one.name in found and not _may_go(found[one.name])}
        for name in staying:
            self._say_staying(found[name])
        rest = [one for one in left if one.name not in staying]
        if not rest and any(found[name].is_lost for name in staying):
            self.n_passed_over += 1
        return rest

    def take_first(self, objects: list[_Object]) -> _Object | None:
        """Fetch the first of the objects that is sound, and give it its name here; None if none is, which is a problem."""
        lines = []
        for one in objects:
            problem = self._arrived(one).problem
            if problem is None:
                return one if self._is_placed(one) else None
            self._discard(one)
            lines.append(f"{one.file} is not taken from {self.remote.url}: {problem}")
            self.say(f"WARNING: {lines[-1]}")
        self.problems += lines[:1]
        return None

    def remove_shorter(self, one: _Object, held: list[Held]) -> None:
        """Remove entries of which the object that arrived has all, unless pinned."""
        for entry in held:
            few, many = entry.name.steps or 0, one.name.steps or 0
            if 0 < few < many and not entry.pinned and self._has_all_of(one.name.text(), entry.file):
                with contextlib.suppress(OSError):
                    self.backend.remove(entry.file)
                    self.say(f"Removed {entry.file}: the longer one that arrived has all of it")

    def _has_all_of(self, longer: str, shorter: str) -> bool:
        try:
            one, other = (read_record(self.backend, name) for name in (longer, shorter))
        except (DamagedFile, OSError):
            return False
        # rows of another context may differ in the last bit, and nobody here goes on from their end
        return one.context == other.context and (one.can_extend or not other.can_extend)

    def tidy(self) -> None:
        """Remove what earlier interruptions left of objects that nobody wants any more."""
        for path in self._entries(self.arriving):
            if path.is_dir() and path.name not in self._interrupted:
                shutil.rmtree(path, ignore_errors=True)
        for folder in (self.arriving, ARRIVING):
            with contextlib.suppress(OSError):
                self.backend.local_path(folder).rmdir()

    def _problem(self, text: str) -> None:
        self.problems.append(text)
        self.say(f"WARNING: {text}")

    def _say_staying(self, found: Checked) -> None:
        stays = f"{found.file} stays here and is not taken from {self.remote.url}: {found.problem}"
        if found.is_lost:
            self._problem(stays)
        else:
            self.say(f"WARNING: {stays}")

    def _path(self, one: _Object) -> str:
        return f"{self.arriving}/{one.key}/{one.name.text()}"

    def _mark(self, one: _Object) -> Path:
        """Remembers that an object is damaged at the remote, by its size there."""
        return self.backend.local_path(f"{self.arriving}/{one.key}.damaged")

    def _is_marked(self, one: _Object) -> bool:
        try:
            return self._mark(one).read_bytes() == str(one.size).encode()
        except OSError:
            return False

    def _arrived(self, one: _Object) -> Checked:
        """Fetch an object to its place on arrival and check it. Raises as `pull`."""
        begun = bool(self._entries(f"{self.arriving}/{one.key}"))
        try:
            found = self._fetched(one)
            if found.is_lost and begun:
                # the beginning that lay here may be to blame
                self._discard(one)
                found = self._fetched(one)
        except (RemoteUnreachable, RemoteRefused):
            raise
        except (RemoteError, NotFound) as error:
            self._interrupted.add(one.key)
            return Checked(one.file, str(error), "UNREAD")
        if found.is_damaged:
            write_bytes_durably(self.backend, f"{self.arriving}/{one.key}.damaged", str(one.size).encode())
        elif not found.is_lost:
            self._mark(one).unlink(missing_ok=True)
        return found

    def _fetched(self, one: _Object) -> Checked:
        path = self.backend.local_path(self._path(one))
        path.parent.mkdir(parents=True, exist_ok=True)
        self.remote.fetch(PREFIX + one.file, path)
        return checked(self.folder, self._path(one))

    def _is_placed(self, one: _Object) -> bool:
        """Give what arrived its name, or leave there what has the name and may have come meanwhile; whether it is sound."""
        name = one.name.text()
        if not self.backend.exists(name):
            # needs no lock, which whoever computes the same may hold for hours: that one would be replaced by its equal
            return self._put(one)
        with alone(self.folder, one.name.fingerprint, self._say_waiting):
            found = checked(self.folder, name)
            if found.problem is None:
                self._discard(one)
                return True
            if not _may_go(found):
                self._discard(one)
                self._say_staying(found)
                return False
            self._put_aside(name)
            return self._put(one)

    def _put(self, one: _Object) -> bool:
        self.backend.replace(self._path(one), one.name.text())
        self.backend.sync_folder("")
        self._discard(one)
        return True

    def _put_aside(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # evicted meanwhile
            place = move_aside(self.backend, name, QUARANTINE)
            self.say(f"WARNING: {name} was damaged here: moved to {place}, the one of {self.remote.url} taken instead")

    def _say_waiting(self, owner: str) -> None:
        self.say(f"Waiting for {owner}, which computes what arrived")

    def _discard(self, one: _Object) -> None:
        if one.key not in self._interrupted:
            shutil.rmtree(self.backend.local_path(f"{self.arriving}/{one.key}"), ignore_errors=True)

    def _entries(self, folder: str) -> list[Path]:
        try:
            return list(self.backend.local_path(folder).iterdir())
        except OSError:
            return []


@contextlib.contextmanager
def _travel(folder: Path, remote: Remote, say: Say) -> Iterator[_Travel]:
    place = hashlib.sha256(remote.url.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    with alone(folder, f"arriving-{place}", lambda owner: say(f"Waiting for {owner}, which travels the same way")):
        yield _Travel(folder, remote, say, f"{ARRIVING}/{place}", _at(remote))


def _at(remote: Remote) -> dict[str, list[_Object]]:
    """Entries at the remote by fingerprint, the longest first and own names before variants."""
    found = defaultdict(list)
    for item in remote.items(PREFIX):
        file = item.name.removeprefix(PREFIX)
        variant = _VARIANT.fullmatch(file)
        name = EntryName.parsed(f"{variant['entry']}.zip" if variant else file)
        if name is not None:
            found[name.fingerprint].append(_Object(file, name, item.size))
    for objects in found.values():
        objects.sort(key=lambda one: (-(one.name.steps or 0), one.file != one.name.text(), one.file))
    return dict(found)


def _may_go(found: Checked) -> bool:
    """Whether what was found here may be put aside: what another version wrote, or nobody could look at, may not."""
    return found.word in ("DAMAGED", "gone")


def _free_name(path: Path, taken: set[str]) -> str:
    """The entry's own name at the remote, or where something has that one, a variant with the hash of its content."""
    if path.name not in taken:
        return path.name
    digest = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    variants = (f"{path.stem}.again-{digest}{number}.zip" for number in itertools.chain([""], _numbers()))
    return next(name for name in variants if name not in taken)


def _numbers() -> Iterable[str]:
    return (f"-{number}" for number in itertools.count(2))


def _put_all(remote: Remote, files: dict[str, Path]) -> Put:
    """Put those of the files that are there: another process may evict or extend entries at any time."""
    while files:
        try:
            return remote.put(files)
        except NotFound:
            left = {name: path for name, path in files.items() if path.is_file()}
            if len(left) == len(files):
                raise
            files = left
    return Put()


def _longest(held: Iterable[Held]) -> list[Held]:
    return [max(entries, key=lambda entry: entry.name.steps or 0) for entries in _by_fingerprint(held).values()]


def _by_fingerprint(held: Iterable[Held]) -> dict[str, list[Held]]:
    found: dict[str, list[Held]] = defaultdict(list)
    for entry in held:
        found[entry.name.fingerprint].append(entry)
    return found


def _size(entries: Iterable[Held]) -> str:
    return logs.human_size(sum(entry.size for entry in entries))


def _said(say: Say, travel: _Travel, verb: str, files: list[str], size: int, present: int) -> Travelled:
    done = Travelled(verb, tuple(files), size, present, tuple(travel.problems))
    say(done.text())
    return done
