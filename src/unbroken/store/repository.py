"""The checkpoints of one run in one folder: names, order, saving, and finding the newest valid one.

Order is that of the commits, a counter in each commit record; neither file times nor the clock matter. Files of other
prefixes are not seen at all; foreign files under our names are reported and never touched.
"""

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from unbroken.errors import DamagedFile, NotFound, UsageError
from unbroken.store.backend import Entry, FileBackend, checked_path, joined, name_of
from unbroken.store.checkpoint_file import CheckpointFile, CheckpointWriter, ForeignFile, write_checkpoint
from unbroken.store.checkpoint_file import read_manifest as read_manifest_of
from unbroken.store.durable import move_aside, remove_leftovers
from unbroken.store.segments import SegmentStore, folder_for, segments_of, verify_segments

# added to the next sequence while one in the folder cannot be read: the new one sorts after whatever that is
_BEYOND_UNREADABLE = 1_000_000

Fill = Callable[[CheckpointWriter], dict[str, Any]]


@dataclass(frozen=True)
class CheckpointRecord:
    """What is known of one checkpoint without reading all of it.

    `created` is in seconds since 1970 and informative only. `score` is None when there is none. `valid` is None until
    every byte was read, also, with a `problem`, where the storage cannot deliver it now; False means that `problem` says
    why the file cannot be used, and `foreign` that it is somebody else's file under our name. `kind` is the word under
    which it was saved; `tiers` are the reasons it is kept for; `segments` are the names of the shared files that it
    needs, None where that is not known.
    """

    name: str
    path: str
    step: int
    sequence: int
    size: int
    created: float
    tiers: frozenset[str] = frozenset()
    score: float | None = None
    kind: str = "rolling"
    valid: bool | None = None
    problem: str | None = None
    foreign: bool = False
    segments: tuple[str, ...] | None = None

    @property
    def unreadable(self) -> bool:
        """Whether the storage failed to deliver it just now: nothing is known of it, it may be the newest and good."""
        return self.valid is None and self.problem is not None


class CheckpointRepository:
    """Checkpoints `{prefix}_{steps}{ending}` in `folder` of a backend.

    With `scenario` or `run` given, new checkpoints carry them and others' count as foreign. One process writes at a
    time (see `lock`); within it, one thread.
    """

    def __init__(
        self,
        backend: FileBackend,
        prefix: str,
        folder: str = "checkpoints",
        *,
        scenario: str | None = None,
        run: str | None = None,
        quarantine: str = "quarantine",
        ending: str = "_steps.zip",
    ) -> None:
        if not prefix or "/" in prefix:
            raise UsageError(f"{prefix!r} cannot begin the name of a file")
        self.backend = backend
        self.prefix = checked_path(prefix)
        self.folder = checked_path(folder)
        self.quarantine = checked_path(quarantine)
        self._expected = {key: value for key, value in (("scenario", scenario), ("run", run)) if value is not None}
        self._highest = 0
        self._verified_segments: set[str] = set()
        self.segments = SegmentStore(backend, prefix, folder_for(joined(self.folder, prefix)))
        self._ending = ending
        self._pattern = re.compile(re.escape(prefix) + r"_(0|[1-9][0-9]*)" + re.escape(ending))

    def path_for(self, step: int) -> str:
        """Where the checkpoint of `step` lies, relative to the backend's root."""
        if step < 0:
            raise UsageError(f"a checkpoint cannot have {step} steps")
        return joined(self.folder, f"{self.prefix}_{step}{self._ending}")

    def save(self, step: int, fill: Fill) -> CheckpointRecord:
        """Commit what `fill` writes, durably; a checkpoint of the same step is replaced in one step.

        The facts that `fill` returns are completed with `step`, `created`, and, unless given, `sequence`, `scenario`
        and `run`. Raises whatever `fill` or the storage raises; the checkpoints there stay as they are.
        """
        path = self.path_for(step)
        number = self.next_sequence()

        def complete(writer: CheckpointWriter) -> dict[str, Any]:
            return {**self._expected, "sequence": number, "created": time.time(), **fill(writer), "step": step}

        info = write_checkpoint(self.backend, path, complete)
        nothing_known = CheckpointRecord(name_of(path), path, step, step, info.size, 0.0)
        record = _with_facts(nothing_known, info.manifest)
        self._highest = max(self._highest, record.sequence)
        return record

    def make_way(self, step: int) -> str | None:
        """Move somebody else's file from where the checkpoint of `step` goes; returns its new path, None if there is none.

        Raises what the storage raises.
        """
        path = self.path_for(step)
        found = next((record for record in self.records() if record.path == path and record.foreign), None)
        return None if found is None else move_aside(self.backend, path, self.quarantine)

    def next_sequence(self) -> int:
        """More than any sequence in the folder now, or seen there before by this object, readable or not."""
        found = self.records()
        known = [record.sequence for record in found if record.valid is not False and not record.unreadable]
        self._highest = max([self._highest, *known])
        if any(record.unreadable for record in found):
            self._highest += _BEYOND_UNREADABLE
        return 1 + self._highest

    def records(self) -> list[CheckpointRecord]:
        """All checkpoints of this prefix, oldest commit first; reads the commit records only.

        Files without a usable one are included, with their step in place of the sequence, the problem, and `valid=False`,
        or None if the storage failed to deliver it; those come last.
        """
        found = (self._describe(entry) for entry in self.backend.entries(self.folder) if self._is_ours(entry))
        return sorted((record for record in found if record), key=_age)

    def latest_valid(self, on_skip: Callable[[str, str], None]) -> CheckpointRecord | None:
        """The newest checkpoint of which every byte is right, or None.

        Whatever is newer and cannot be used is passed to `on_skip` with its name and the reason. What is damaged is
        moved to the quarantine folder, if the storage allows it; what is foreign or cannot be read now stays.
        """
        return self.search(on_skip)[0]

    def search(self, on_skip: Callable[[str, str], None]) -> tuple[CheckpointRecord | None, list[CheckpointRecord]]:
        """`latest_valid`, and the records that were skipped on the way to it, newest first."""
        skipped: list[CheckpointRecord] = []
        # what could not be read a moment ago is tried once more: its place among the others is only known then
        found = [self.verified(record) if record.unreadable else record for record in self.records()]
        for record in sorted(found, key=_age, reverse=True):
            checked = self.verified(record)
            if checked.valid:
                return checked, skipped
            on_skip(record.name, self._set_aside(checked))
            skipped.append(checked)
        return None, skipped

    def verified(self, record: CheckpointRecord) -> CheckpointRecord:
        """The record with `valid` decided by reading every byte; None where the storage failed to deliver them.

        A file that is another run's or scenario's is not valid here, and not read.
        """
        if record.foreign:
            return record
        try:
            with CheckpointFile(self.backend, record.path) as file:
                file.verify()
                verify_segments(file, self._verified_segments)
                return self._known(record, file.manifest, valid=True)
        except DamagedFile as error:
            return replace(record, valid=False, problem=str(error), foreign=isinstance(error, ForeignFile))
        except OSError as error:
            return replace(record, valid=None, problem=f"{record.path} cannot be read: {error}")

    def remove(self, record: CheckpointRecord) -> None:
        """Remove a checkpoint for good; raises NotFound if it is gone already, else what the storage raises."""
        try:
            self.backend.remove(record.path)
        except FileNotFoundError as error:
            raise NotFound(f"there is no checkpoint {record.path}") from error

    def collect_segments(self) -> list[str]:
        """Remove the segments that no checkpoint needs any more; returns their names.

        Nothing is removed while there is a file under our names of which it is not known what it needs.
        """
        found = self.records()
        if any(record.segments is None for record in found):
            return []
        # a removed checkpoint that a power loss brings back must find its segments
        self.backend.sync_folder(self.folder)
        return self.segments.remove_unnamed({name for record in found for name in record.segments or ()})

    def remove_leftovers(self) -> list[str]:
        """Remove temporary files that killed saves of this prefix left; returns their names."""
        return remove_leftovers(self.backend, self.folder, lambda name: self._pattern.fullmatch(name) is not None)

    def _is_ours(self, entry: Entry) -> bool:
        return not entry.is_folder and self._pattern.fullmatch(entry.name) is not None

    def _describe(self, entry: Entry) -> CheckpointRecord | None:
        match = self._pattern.fullmatch(entry.name)
        if match is None:
            return None
        path, step = joined(self.folder, entry.name), int(match[1])
        nothing_known = CheckpointRecord(entry.name, path, step, step, entry.size, entry.modified)
        try:
            return self._known(nothing_known, read_manifest_of(self.backend, path), valid=None)
        except NotFound:
            return None
        except DamagedFile as error:
            # one of a newer version may need segments, somebody else's file needs none
            needed = () if type(error) is ForeignFile else None
            foreign = isinstance(error, ForeignFile)
            return replace(nothing_known, valid=False, problem=str(error), foreign=foreign, segments=needed)
        except OSError as error:
            return replace(nothing_known, problem=f"{path} cannot be read: {error}")

    def _known(self, record: CheckpointRecord, manifest: dict[str, Any], valid: bool | None) -> CheckpointRecord:
        """The record with what its manifest says; foreign, if that is not what we expect."""
        known = _with_facts(record, manifest)
        for key, expected in self._expected.items():
            if manifest.get(key) != expected:
                problem = f"{record.path} belongs to {key} {manifest.get(key)}, not {expected}"
                return replace(known, valid=False, problem=problem, foreign=True)
        return replace(known, valid=valid, problem=None)

    def _set_aside(self, record: CheckpointRecord) -> str:
        """Move a damaged file away; returns the reason for skipping it and what became of the file."""
        reason = record.problem or "it cannot be used"
        if record.foreign:
            return f"{reason}; left where it is"
        if record.valid is None:
            return reason
        try:
            return f"{reason}; moved to {move_aside(self.backend, record.path, self.quarantine)}"
        except OSError as error:
            return f"{reason}; cannot be moved to {self.quarantine}: {error}"


def _age(record: CheckpointRecord) -> tuple[bool, int, int]:
    """Sorts by commit; what cannot be read may be the newest."""
    return record.unreadable, record.sequence, record.step


def _with_facts(record: CheckpointRecord, manifest: dict[str, Any]) -> CheckpointRecord:
    tiers = manifest.get("tiers")
    return replace(
        record,
        sequence=_whole(manifest.get("sequence"), record.step),
        created=_number(manifest.get("created"), record.created),
        tiers=frozenset(str(tier) for tier in tiers) if isinstance(tiers, list | tuple) else frozenset(),
        score=_score(manifest.get("score")),
        kind=str(manifest.get("kind", "rolling")),
        segments=_segment_names(manifest),
    )


def _segment_names(manifest: dict[str, Any]) -> tuple[str, ...]:
    return tuple(segment.file for segment in segments_of(manifest) if not segment.inside)


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise


def _number(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) else otherwise


def _score(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
