"""A run here and at a remote are brought to the same state, whichever is further: by step, then by the counter of commits."""

from __future__ import annotations

import contextlib
import difflib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unbroken.errors import DamagedFile, IncompatibleRun, NotFound, RemoteError, RunLocked, UnbrokenError
from unbroken.folder import METADATA, RunFolder
from unbroken.importing.report import REPORT
from unbroken.remotes.contract import Remote
from unbroken.store.checkpoint_writer import NewerFormat
from unbroken.store.durable import make_folder_durably, remove_leftovers, write_bytes_durably
from unbroken.store.lock import ExclusiveLock
from unbroken.syncing.branches import History, metadata_history
from unbroken.syncing.lines import objects, say, warn
from unbroken.syncing.local import IN, OUT, SYNC, Here, Known, Offer, look, make_offer
from unbroken.syncing.pulling import Pull, forget_unfinished, is_unfinished
from unbroken.syncing.records import Record, RecordName, Training, training_of
from unbroken.syncing.there import ROOT, There

_LARGE_BYTES = 10_000_000
_RECORD = f"{OUT}/record.json"


@dataclass(frozen=True)
class Pair:
    """A run folder and the name that the run has at a remote."""

    folder: RunFolder
    remote: Remote
    name: str


@dataclass(frozen=True)
class Synced:
    """What a sync did: `size` in bytes of the objects that travelled; `present` objects were where they had to be already."""

    action: Literal["pushed", "pulled", "equal"]
    step: int
    objects: int = 0
    size: int = 0
    present: int = 0


class RemoteAhead(IncompatibleRun):
    """Nothing may be pulled, and the remote is further than what is here, or holds another branch as its newest state."""


class _Changed(Exception):
    """The run went on while the remote was asked: everything has to be looked at again."""


def sync(pair: Pair, *, may_pull: bool = True) -> Synced:
    """Push or pull, whatever brings both to the further state; only what is missing travels.

    Without `may_pull` the run is only read, and RemoteAhead is raised where it would be replaced.

    Raises NotFound if there is nothing to sync on either side, IncompatibleRun if the remote holds another training under this
    name, RunLocked if the run would have to be replaced while a process trains it, DamagedFile if nothing there can be used and
    there is nothing here, StorageError without room, and what the remote raises. All of them leave the run as it was.
    """
    there = There(pair.remote, pair.name)
    if not pair.folder.path.is_dir() and not (there.records and may_pull):
        raise _nothing(pair, there)
    made = [] if pair.folder.path.is_dir() else pair.folder.prepare()
    try:
        with _alone(pair.folder):
            return _until_settled(pair, there, may_pull=may_pull)
    except UnbrokenError:
        if made:
            _take_away(pair.folder, made)
        raise


def _until_settled(pair: Pair, there: There, *, may_pull: bool) -> Synced:
    while True:
        try:
            return _Round(pair, there, may_pull=may_pull).carry_out()
        except _Changed:
            there = There(pair.remote, pair.name)


def _take_away(folder: RunFolder, made: list[Path]) -> None:
    """Remove a folder into which nothing came, unless somebody uses it by now."""
    with contextlib.suppress(UnbrokenError), ExclusiveLock(folder.lock_path, folder.name):
        if not any(path.is_file() for path in (folder.path / IN).rglob("*")):
            shutil.rmtree(folder.path / SYNC, ignore_errors=True)
        with folder.removed_if_refused(made):
            raise NotFound("nothing came")


@contextlib.contextmanager
def _alone(folder: RunFolder) -> Iterator[None]:
    """One sync of a run at a time on this machine. What it staged is gone afterwards; what arrived stays until all of it did."""
    make_folder_durably(folder.backend, SYNC)
    lock = ExclusiveLock(folder.path / SYNC / "lock", folder.name)
    try:
        lock.acquire()
    except RunLocked as error:
        raise RunLocked(f"another sync of run {folder.name} is under way here; wait for it or stop it") from error
    remove_leftovers(folder.backend, SYNC)
    try:
        yield
    finally:
        shutil.rmtree(folder.path / OUT, ignore_errors=True)
        lock.release()


class _Round:
    """One comparison of both sides and what follows from it."""

    def __init__(self, pair: Pair, there: There, *, may_pull: bool) -> None:
        self._folder = pair.folder
        self._may_pull = may_pull
        self._there = there
        self._url = pair.remote.url
        self._known = Known(pair.folder.path)
        self._here = look(pair.folder)
        self._mine = self._records()
        self._refused: set[RecordName] = set()

    def carry_out(self) -> Synced:
        """Pull the newest state that can be used, if it is further than what is here; else push what is here."""
        here = _point(self._here)
        pulled = self._pulled_beyond(here)
        if pulled is not None:
            return pulled
        offer = make_offer(self._folder, self._known, lambda part: not self._there.has(part))
        self._known.save()
        if offer is None or offer.record.point != here:
            # the newest one here turned out to be damaged, or there is a newer one
            pulled = self._pulled_beyond(None if offer is None else offer.record.point)
        if pulled is not None:
            return pulled
        if offer is None:
            raise self._nothing_usable()
        return self._pushed(offer)

    def _pulled_beyond(self, here: tuple[int, int] | None) -> Synced | None:
        """Pull the newest state there that can be used and is further than this; None if there is none.

        Raises NewerFormat for one that this version cannot know: what is before it may be far behind.
        """
        for name in self._mine:
            is_open = name.point == here and is_unfinished(self._folder)
            if here is not None and name.point <= here and not is_open:
                break
            if name in self._refused:
                continue
            with self._refusing(name):
                return self._pulled(name, self._there.record(name))
        return None

    @contextlib.contextmanager
    def _refusing(self, name: RecordName) -> Iterator[None]:
        """Within this a record that cannot be used is noted and said."""
        try:
            yield
        except NewerFormat:
            raise
        except DamagedFile as error:
            self._refused.add(name)
            warn(f"{error}; what is before it at {self._url} is used instead")

    def _nothing_usable(self) -> UnbrokenError:
        if self._refused:
            return DamagedFile(
                f"no state of run {self._there.name} at {self._url} can be used: sync once more from a machine that has the run"
            )
        return NotFound(f"run {self._folder.name} has no checkpoint that can be used yet: there is nothing to sync")

    # whose records count

    def _records(self) -> list[RecordName]:
        """The records of this training, newest first. Raises IncompatibleRun if there are only others'."""
        training = self._training()
        found = self._there.records
        if not found:
            if self._there.object_count:
                warn(f"{self._url} has {self._there.object_count} objects of a push that did not come to its end")
            return []
        key = found[0].training if training is None else training.key
        others = [name for name in found if name.training != key]
        if len(others) == len(found):
            assert training is not None
            raise self._another(training, others[0])
        if others:
            warn(f"{self._url} also holds another training as run {self._there.name}; it is left alone")
        return [name for name in found if name.training == key]

    def _training(self) -> Training | None:
        """The training that is here, None where nothing was saved yet."""
        if self._here is not None:
            return self._here.training
        stored, metadata = self._folder.stored() or {}, self._folder.metadata()
        if self._there.records and self._folder.backend.exists(REPORT) and not metadata:
            raise IncompatibleRun(
                f"run {self._folder.name} here is an import of files without a training, and {self._url} holds a training under "
                f"the name {self._there.name}: 'unbroken sync NEW-NAME REMOTE --as {self._there.name}' brings that one here"
            )
        if metadata.get("legs"):
            # its checkpoints are gone or damaged
            return training_of(metadata, stored)
        if stored.get("fresh") and self._there.records:
            raise IncompatibleRun(
                f"run {self._folder.name} was begun anew here (--fresh) and has no checkpoint yet; {self._url} holds an earlier "
                f"training under the name {self._there.name}: give this one another name there with --as NAME"
            )
        return None

    def _another(self, training: Training, name: RecordName) -> IncompatibleRun:
        try:
            theirs = f" ({self._there.record(name).training}, at step {name.step:,})"
        except NewerFormat:
            raise
        except DamagedFile:
            theirs = ""
        return IncompatibleRun(
            f"{self._url} holds another training under the name {self._there.name}{theirs}; the one here was {training}. "
            f"--as NAME gives this one another name there; 'unbroken sync NEW-NAME REMOTE --as {self._there.name}' brings the "
            "other one here"
        )

    # pull

    def _pulled(self, name: RecordName, record: Record) -> Synced:
        if not self._may_pull:
            self._require_as_named(record)
            raise RemoteAhead(
                f"{self._url} is at step {name.step:,} of run {self._there.name}, made on {record.machine}: what is trained here "
                "is not being saved there; --as NAME saves it under another name"
            )
        with ExclusiveLock(self._folder.lock_path, self._folder.name):
            if _point(look(self._folder)) != _point(self._here):
                raise _Changed
            arrived = Pull(self._folder, self._there, record, self._known).carry_out()
            self._known.save()
        say(
            f"Pulled run {self._folder.name} at step {name.step:,} from {self._url}: "
            f"{objects(arrived.objects, arrived.size)} travelled, {arrived.present} were here"
        )
        return Synced("pulled", name.step, arrived.objects, arrived.size, arrived.present)

    def _require_as_named(self, record: Record) -> None:
        """Raise DamagedFile where the metadata tell something else than their record."""
        history = metadata_history(self._there.document(record, METADATA))
        if history is None or history.step != record.step:
            raise DamagedFile(f"record {record.name()} does not fit its metadata")

    # push

    def _pushed(self, offer: Offer) -> Synced:
        forget_unfinished(self._folder)
        same = [name for name in self._mine if name.point == offer.record.point]
        whole = self._whole(same)
        agreeing = [offer.agrees_with(record) for _, record in whole]
        if agreeing and agreeing[0]:
            return self._equal(offer.record.step)
        if any(agreeing):
            # what is here was pushed before, and somebody has changed it there
            with self._refusing(whole[0][0]):
                return self._pulled(*whole[0])
        self._say_apart(offer)
        revision = 1 + max(name.revision for name in same) if same else 0
        return self._put(offer, offer.revised(revision))

    def _say_apart(self, offer: Offer) -> None:
        """Say so where the newest state there is none that this one came from: others will get the one that is pushed."""
        found = self._newest_there() if self._mine and offer.history is not None else None
        if found is None or offer.history is None:
            return
        record, theirs = found
        if not theirs.leads_to(offer.history):
            warn(
                f"run {self._folder.name} here and at {self._url} went apart at step {theirs.parting(offer.history):,}: what was "
                f"there, at step {record.step:,} from {record.machine}, is not the newest any more, and goes to archive/ on the "
                "machine that has it when that syncs. To have both there, give one of them another name with --as NAME"
            )

    def _newest_there(self) -> tuple[Record, History] | None:
        try:
            record = self._there.record(self._mine[0])
            history = metadata_history(self._there.document(record, METADATA))
        except NewerFormat:
            raise
        except (DamagedFile, RemoteError):
            # this is for a line only
            return None
        return None if history is None else (record, history)

    def _whole(self, names: list[RecordName]) -> list[tuple[RecordName, Record]]:
        found = []
        for name in names:
            try:
                record = self._there.record(name)
                if all(map(self._there.has, record.parts())):
                    found.append((name, record))
                else:
                    warn(f"record {name.text}: objects of it were found damaged; what is here is pushed again")
            except NewerFormat:
                raise
            except DamagedFile as error:
                warn(f"{error}; what is here is pushed again")
        return found

    def _equal(self, step: int) -> Synced:
        shutil.rmtree(self._folder.path / IN, ignore_errors=True)
        say(f"Run {self._folder.name} and {self._url} are both at step {step:,}: nothing to do")
        return Synced("equal", step)

    def _put(self, offer: Offer, record: Record) -> Synced:
        count, size = len(offer.sources), sum(part.size for part in offer.sources)
        if size > _LARGE_BYTES:
            say(f"Pushing {objects(count, size)} of run {self._folder.name} to {self._url}")
        write_bytes_durably(self._folder.backend, _RECORD, record.content())
        if not self._there.records and not self._there.object_count:
            say(f"{self._url} held nothing of run {self._there.name} yet")
        self._there.put(offer.sources, (record.name(), self._folder.path / _RECORD))
        shutil.rmtree(self._folder.path / IN, ignore_errors=True)
        present = len(record.parts()) - count
        say(
            f"Pushed run {self._folder.name} at step {record.step:,} to {self._url}: {objects(count, size)} travelled, "
            f"{present} were there"
        )
        return Synced("pushed", record.step, count, size, present)


def _point(here: Here | None) -> tuple[int, int] | None:
    return None if here is None else here.point


def _nothing(pair: Pair, there: There) -> NotFound:
    """What to say where the run is nowhere, with the nearest name."""
    runs_dir, url = pair.folder.runs_dir, pair.remote.url
    names = {item.name.removeprefix(ROOT).partition("/")[0] for item in pair.remote.items(ROOT)} - {pair.name}
    names |= {path.name for path in runs_dir.iterdir() if path.is_dir()} if runs_dir.is_dir() else set()
    near = difflib.get_close_matches(pair.name, sorted(names), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if there.object_count:
        hint = f": {there.object_count} objects of it are there, of a push that did not come to its end"
    return NotFound(f"there is no run {pair.folder.name!r} in {runs_dir} and no {pair.name!r} at {url}{hint}")
