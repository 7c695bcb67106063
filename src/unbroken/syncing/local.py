"""What a run folder offers to a remote, read while another process may be training there.

Whatever is to travel is staged in `.sync/out` of the run first, so that an object's bytes are those that its hash was taken
of. Finished zips never change in place and are linked; files that grow are copied up to the checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unbroken.errors import DamagedFile, NotFound
from unbroken.folder import BEST_SCORE, METADATA, RUN_FILE, RunFolder
from unbroken.locate import names_of, repository_of, scenario_of
from unbroken.metadata import metadata_content
from unbroken.store.backend import Writer, joined, parent_of
from unbroken.store.checkpoint_file import CheckpointFile, read_manifest
from unbroken.store.checkpoint_writer import new_digest
from unbroken.store.durable import LocalBackend, sync_content, write_durably, write_json_durably
from unbroken.store.repository import CheckpointRecord
from unbroken.store.segments import SegmentReader, folder_for, segments_of
from unbroken.syncing.branches import History, history_of
from unbroken.syncing.documents import TRACKERS
from unbroken.syncing.lines import warn
from unbroken.syncing.records import PART_BYTES, RUN_LOG, Part, Parts, Record, Training, grows, part_of, training_of

SYNC = ".sync"
LOG = "logs/sync.log"
OUT, IN = f"{SYNC}/out", f"{SYNC}/in"
_KNOWN = f"{SYNC}/known.json"
_CHUNK = 1 << 20
_ATTEMPTS = 20

Wanted = Callable[[Part], bool]


@dataclass(frozen=True)
class Here:
    """The newest checkpoint in a run folder whose commit record can be read; `complete`: nothing is left to be trained."""

    record: CheckpointRecord
    manifest: Mapping[str, Any]
    training: Training
    complete: bool

    @property
    def point(self) -> tuple[int, int]:
        """What is compared with records: step, and the counter of commits."""
        return self.record.step, self.record.sequence


def look(folder: RunFolder) -> Here | None:
    """What is here; reads commit records only. Raises UsageError for a checkpoint that belongs to no training."""
    for _ in range(_ATTEMPTS):
        record = next(reversed(_readable(folder)), None)
        if record is None:
            return None
        # rotated out in this moment, there is a newer one
        with contextlib.suppress(NotFound, DamagedFile):
            return _here(folder, record, read_manifest(folder.backend, record.path))
    return None


def _readable(folder: RunFolder) -> list[CheckpointRecord]:
    try:
        records = repository_of(folder).records()
    except NotFound:
        return []
    return [record for record in records if record.valid is not False and not record.unreadable and not record.foreign]


def _here(folder: RunFolder, record: CheckpointRecord, manifest: Mapping[str, Any]) -> Here:
    stored = folder.stored() or {}
    config = stored.get("config") or manifest.get("config") or {}
    reached = manifest.get("kind") == "end" and record.step >= int(config.get("total_timesteps") or 0)
    complete = reached or bool(manifest.get("ended_by_callback"))
    return Here(record, manifest, training_of(manifest, stored), complete)


class Known:
    """Hashes of files that were read before, so that gigabytes are not read again. A file counts as the same while its size,
    its time of change and its number in the file system are.
    """

    def __init__(self, folder: Path) -> None:
        self._backend = LocalBackend(folder)
        self._before = self._stored()
        self._now: dict[str, list[Any]] = {}

    def get(self, path: str, facts: os.stat_result) -> Part | None:
        """The file's part, if it was read in this state."""
        entry = self._now.get(path) or self._before.get(path)
        if entry is None or entry[:3] != _state(facts):
            return None
        self._now[path] = entry
        return Part(str(entry[3]), facts.st_size)

    def note(self, path: str, facts: os.stat_result, part: Part) -> None:
        """The file was read in this state."""
        self._now[path] = [*_state(facts), part.digest]

    def part(self, path: str) -> Part:
        """The part that a whole file is, read only if it has to be. Raises OSError."""
        local = self._backend.local_path(path)
        facts = local.stat()
        found = self.get(path, facts)
        if found is None:
            found = hashed(local)
            self.note(path, facts, found)
        return found

    def save(self) -> None:
        """Remember what was asked for or noted since this was made."""
        if self._now != self._before:
            # it only saves time
            with contextlib.suppress(OSError):
                write_json_durably(self._backend, _KNOWN, self._now)

    def _stored(self) -> dict[str, list[Any]]:
        try:
            loaded = json.loads(self._backend.local_path(_KNOWN).read_text(encoding="utf-8"))
            return {str(path): list(entry) for path, entry in loaded.items() if len(entry) == 4}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}


def _state(facts: os.stat_result) -> list[int]:
    return [facts.st_size, facts.st_mtime_ns, facts.st_ino]


def hashed(path: Path) -> Part:
    """The part that a whole file is."""
    digest, size = new_digest(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return Part(digest.hexdigest(), size)


def is_container(path: str) -> bool:
    """Whether a file is a zip of ours, which never changes in place."""
    return path.endswith((".zip", ".pt"))


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    with path.open("rb+") as file:
        sync_content(file.fileno())


def pieces(path: Path, end: int | None = None) -> Iterator[bytes]:
    """A file that grows, in the pieces that it travels in, up to `end`; without it up to the last whole line."""
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size if end is None else end
        while left > 0 and (piece := file.read(min(left, PART_BYTES))):
            left -= len(piece)
            if end is None and left <= 0:
                piece = piece[: piece.rfind(b"\n") + 1]
            if piece:
                yield piece


def link_or_copy(source: Path, target: Path) -> bool:
    """Another name for a file that never changes in place, or a copy where there can be none; returns whether it is a name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError:
        # FAT, exFAT and many network and FUSE file systems have no hard links
        shutil.copyfile(source, target)
        return False
    return True


def copy_durably(backend: LocalBackend, source: Path, target: str) -> None:
    """Copy a file; it has its name when all of it is there."""

    def produce(writer: Writer) -> None:
        with source.open("rb") as file:
            while chunk := file.read(_CHUNK):
                writer.write(chunk)

    write_durably(backend, target, produce)


def rename(backend: LocalBackend, old: str, new: str) -> None:
    """Give a file another name, in one step also where that lies on another disk, as behind a link."""
    try:
        backend.replace(old, new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy_durably(backend, backend.local_path(old), new)
        backend.remove(old)
    backend.sync_folder(parent_of(new))


@dataclass(frozen=True)
class Offer:
    """What a run can give: a record, where the parts lie that the remote wants, and how this state came about."""

    record: Record
    sources: Mapping[Part, Path]
    history: History | None

    def revised(self, revision: int) -> Record:
        """The record as the next of its checkpoint."""
        return replace(self.record, revision=revision)

    def agrees_with(self, record: Record) -> bool:
        """Whether the record has all that is here, logs and what follows from the checkpoint left out."""
        return all(record.files.get(path) == parts for path, parts in self.record.files.items() if _counts(path))


def _counts(path: str) -> bool:
    return path == RUN_FILE or path.startswith("checkpoints/") or is_final(path) or is_best(path)


def is_final(path: str) -> bool:
    """Whether it is the final model."""
    return "/" not in path and path.endswith(("_final.zip", "final_model.pt"))


def is_best(path: str) -> bool:
    """Whether it is the best model."""
    return path.startswith("best_model/") and path != BEST_SCORE


def make_offer(folder: RunFolder, known: Known, wanted: Wanted) -> Offer | None:
    """Stage the newest checkpoint that can be used with everything that belongs to it; None if there is none.

    Raises OSError where this disk fails.
    """
    failed: Counter[str] = Counter()
    for _ in range(_ATTEMPTS):
        record = next((one for one in reversed(_readable(folder)) if failed[one.name] < 2), None)
        if record is None:
            return None
        shutil.rmtree(folder.path / OUT, ignore_errors=True)
        try:
            return _Stage(folder, known, wanted).offer(record)
        except (NotFound, FileNotFoundError, DamagedFile) as error:
            # most likely rotated out meanwhile: then there is a newer one
            failed[record.name] += 1
            if failed[record.name] > 1:
                warn(f"{record.path} cannot be pushed: {error}")
    return None


class _Stage:
    """Collects one offer in `.sync/out`."""

    def __init__(self, folder: RunFolder, known: Known, wanted: Wanted) -> None:
        self._folder = folder
        self._known = known
        self._wanted = wanted
        self._files = folder.path / OUT / "files"
        self._parts = folder.path / OUT / "parts"
        self._sources: dict[Part, Path] = {}

    def offer(self, record: CheckpointRecord) -> Offer:
        """Everything of the run at this checkpoint. Raises FileNotFoundError or DamagedFile if it cannot be had."""
        files = {record.path: self._container(record.path)}
        manifest = read_manifest(self._backend_of(record.path), record.path)
        here = _here(self._folder, record, manifest)
        files |= self._segments(record.path, manifest)
        files |= self._grown(manifest.get("logs") or {})
        files |= self._models(manifest)
        # one of the same step may have taken its place since
        files |= self._documents(replace(record, kind=str(manifest.get("kind"))), manifest)
        machine = str(manifest["legs"][-1].get("machine"))
        point = int(manifest["step"]), int(manifest.get("sequence", manifest["step"]))
        offered = Record(here.training, *point, 0, record.path, here.complete, machine, files)
        return Offer(offered, self._sources, history_of(manifest))

    def _backend_of(self, path: str) -> LocalBackend:
        """Where a container can be read whatever happens in the run: what is staged stays."""
        return LocalBackend(self._files) if (self._files / path).exists() else self._folder.backend

    def _container(self, path: str) -> Parts:
        """A zip of ours, read and verified unless all of it is at the remote."""
        local, staged = self._folder.path / path, self._files / path
        before = local.stat()
        part = self._known.get(path, before)
        if part is not None and not self._wanted(part):
            return (part,)
        # what is put is read now: a disk may have changed it since without a trace
        is_same = link_or_copy(local, staged)
        facts = staged.stat() if is_same else before
        with CheckpointFile(LocalBackend(self._files), path) as file:
            file.verify()
        part = hashed(staged)
        if is_same or _state(local.stat()) == _state(before):
            self._known.note(path, facts, part)
        if self._wanted(part):
            self._sources[part] = staged
        return (part,)

    def _segments(self, checkpoint: str, manifest: Mapping[str, Any]) -> dict[str, Parts]:
        place = folder_for(checkpoint)
        found = {}
        for segment in segments_of(manifest):
            if not segment.inside:
                with SegmentReader(self._folder.backend, place, segment):
                    found[joined(place, segment.file)] = self._container(joined(place, segment.file))
        return found

    def _grown(self, positions: Mapping[str, Any]) -> dict[str, Parts]:
        """Curves up to the checkpoint, and the log of all legs."""
        inside = {name: int(end) for name, end in positions.items() if grows(name) and end}
        ends: dict[str, int | None] = {**inside, RUN_LOG: None}
        return {name: self._grown_file(name, end) for name, end in ends.items() if (self._folder.path / name).is_file()}

    def _grown_file(self, name: str, end: int | None) -> Parts:
        return tuple(self._content(piece) for piece in pieces(self._folder.path / name, end))

    def _models(self, manifest: Mapping[str, Any]) -> dict[str, Parts]:
        """Best and final model; one that cannot be used stays here."""
        config = manifest.get("config") or {}
        names = names_of(self._folder, scenario_of(self._folder), config.get("algo"))
        found: dict[str, Parts] = {}
        for path in (names.best, names.final):
            try:
                found[path] = self._container(path)
            except FileNotFoundError:
                continue
            except DamagedFile as error:
                warn(f"{path} is not pushed: {error}")
                continue
            if path == names.best:
                found |= self._score(path)
        return found

    def _score(self, best: str) -> dict[str, Parts]:
        """The score as the model itself has it: the file beside it is written after it."""
        facts = read_manifest(self._backend_of(best), best)
        if "score" not in facts:
            return {}
        return {BEST_SCORE: self._json({"score": facts["score"], "step": facts["step"]})}

    def _documents(self, record: CheckpointRecord, manifest: Mapping[str, Any]) -> dict[str, Parts]:
        found: dict[str, Parts] = {}
        for name in (RUN_FILE, TRACKERS):
            with contextlib.suppress(FileNotFoundError):
                found[name] = (self._content((self._folder.path / name).read_bytes()),)
        # from the checkpoint itself: the file on disk is written after it
        with contextlib.suppress(KeyError, TypeError):
            found[METADATA] = self._json(metadata_content(record, manifest))
        return found

    def _json(self, value: Any) -> Parts:
        # as `write_json_durably` writes it
        return (self._content((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()),)

    def _content(self, content: bytes) -> Part:
        part = part_of(content)
        if self._wanted(part) and part not in self._sources:
            self._parts.mkdir(parents=True, exist_ok=True)
            place = self._parts / part.digest
            place.write_bytes(content)
            self._sources[part] = place
        return part
