"""What a record names comes into the run folder: fetched and checked aside, then given its names in an order that a kill may end.

Until the checkpoint has its name the run resumes from its old state, from then on from the new one; a pull that was killed in
between is finished by the next. Nothing is lost: what is here, would be replaced and is not at the remote goes to `archive/`.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unbroken import logs
from unbroken.errors import DamagedFile, NotFound, StorageError
from unbroken.exports import Score
from unbroken.folder import BEST_SCORE, JOURNAL, METADATA, RUN_FILE, RunFolder
from unbroken.locate import repository_of
from unbroken.store.backend import joined, name_of, parent_of
from unbroken.store.checkpoint_file import CheckpointFile, CheckpointWriter, read_manifest, write_checkpoint
from unbroken.store.durable import LocalBackend, make_folder_durably, sync_content, write_bytes_durably
from unbroken.store.repository import CheckpointRecord
from unbroken.store.segments import FACT, Segment, SegmentReader, folder_for, segments_of
from unbroken.syncing.keeping import Keeping
from unbroken.syncing.lines import objects, say, warn
from unbroken.syncing.local import IN, SYNC, Known, is_best, is_container, link_or_copy, pieces, sync_file
from unbroken.syncing.records import PART_BYTES, RUN_LOG, TRACKERS, Part, Parts, Record, part_of, size_of, training_of
from unbroken.syncing.there import There, is_content
from unbroken.trust import code_named

_MARKER = f"{SYNC}/installing"
_NEW, _OBJECTS, _RENAMED = f"{IN}/new", f"{IN}/objects", f"{IN}/renamed"
_LAST = (RUN_FILE, METADATA, TRACKERS, RUN_LOG)
_CHUNK = 1 << 20
_ROOM_BYTES = 20_000_000
_LARGE_BYTES = 10_000_000


@dataclass(frozen=True)
class Arrived:
    """What a pull moved: objects and their bytes; `present` parts were here already."""

    objects: int
    size: int
    present: int


def is_unfinished(folder: RunFolder) -> bool:
    """Whether a pull was killed while it gave names: what is here is partly old and partly new."""
    return folder.backend.exists(_MARKER)


def forget_unfinished(folder: RunFolder) -> None:
    """The run has gone on since: what is here is its own."""
    with contextlib.suppress(FileNotFoundError):
        folder.backend.remove(_MARKER)


class Pull:
    """Brings the state of one record into a run folder. The caller holds the run's lock; used once."""

    def __init__(self, folder: RunFolder, there: There, record: Record, known: Known) -> None:
        self._folder = folder
        self._backend = folder.backend
        self._there = there
        self._record = record
        self._known = known
        self._had_checkpoint = bool(_own_records(folder))
        self._staged: dict[str, str] = {}
        self._fetched: set[Part] = set()
        self._was_unfinished = is_unfinished(folder)
        self._keeping = Keeping(folder, there, known)

    def carry_out(self) -> Arrived:
        """Fetch, check and install. Raises DamagedFile for what cannot be used there, StorageError where there is no room here,
        and what the remote raises; in all these cases the run is as it was.
        """
        shutil.rmtree(self._path(_NEW), ignore_errors=True)
        shutil.rmtree(self._path(_RENAMED), ignore_errors=True)
        for path in self._wanted():
            self._stage(path)
        self._check()
        self._install()
        shutil.rmtree(self._path(IN), ignore_errors=True)
        count = len(self._fetched)
        return Arrived(count, sum(part.size for part in self._fetched), len(self._record.parts()) - count)

    # what has to come

    def _wanted(self) -> list[str]:
        """The files that differ from those here, in the order in which they get their names."""
        files = dict(self._record.files)
        if self._keeps_best():
            files = {path: parts for path, parts in files.items() if not path.startswith("best_model/")}
        wanted = [path for path, parts in files.items() if not self._is_here(path, parts)]
        if RUN_FILE in wanted and not self._is_trusted():
            wanted.remove(RUN_FILE)
        self._require_room([part for path in wanted for part in files[path]])
        return sorted(wanted, key=self._rank)

    def _rank(self, path: str) -> int:
        """Segments and curves are of no effect without their checkpoint. A best model may be ahead of it, not behind."""
        if path.startswith("replay/"):
            return 0
        if path in _LAST:
            return 10 + _LAST.index(path)
        if _grows(path):
            return 1
        if path == self._record.checkpoint:
            return 4
        # where nothing was, a kill may leave nothing, or a checkpoint, but no best model of a training that begins at step 0
        model = 3 if path == BEST_SCORE else 2
        return model if self._had_checkpoint else model + 3

    def _is_here(self, path: str, parts: Parts) -> bool:
        local = self._folder.path / path
        if not local.is_file() or local.stat().st_size != size_of(parts):
            return False
        if is_container(path):
            return (self._known.part(path),) == parts
        return tuple(map(part_of, pieces(local, size_of(parts)))) == parts

    def _keeps_best(self) -> bool:
        """Whether the best model here is better than the one there."""
        files = self._record.files
        best = next((path for path in files if is_best(path)), None)
        if best is None or BEST_SCORE not in files or self._is_here(best, files[best]):
            return False
        try:
            manifest = read_manifest(self._backend, best)
            here = Score(float(manifest["score"]), int(manifest["step"]))
            facts = json.loads(self._small(BEST_SCORE))
            there = Score(float(facts["score"]), int(facts["step"]))
        except (NotFound, DamagedFile, LookupError, TypeError, ValueError):
            return False
        if not here.beats(there):
            return False
        say(f"The best model here ({here.value:.2f} at step {here.step:,}) stays: it is better than the one there")
        return True

    def _is_trusted(self) -> bool:
        """A file from anywhere does not name code to be run here, unless the run here names the same."""
        try:
            loaded = yaml.safe_load(self._small(RUN_FILE))
            named = code_named(loaded["config"])
        except (yaml.YAMLError, UnicodeDecodeError, LookupError, TypeError) as error:
            raise DamagedFile(f"{RUN_FILE} there cannot be read: {error}") from error
        said = code_named((self._folder.stored() or {}).get("config") or {})
        unsaid = {place: text for place, text in named.items() if said.get(place) != text}
        if not unsaid:
            return True
        place, text = next(iter(unsaid.items()))
        warn(
            f"{RUN_FILE} was left there, as it names code to run ({place}: {text}); give the command that names it here too, and "
            "it goes on from the checkpoint"
        )
        return False

    def _small(self, path: str) -> bytes:
        parts = self._record.files[path]
        if len(parts) != 1:
            raise DamagedFile(f"{path} there is not in one part, as it has to be")
        return self._object(parts[0]).read_bytes()

    def _require_room(self, parts: list[Part]) -> None:
        size = sum(part.size for part in parts)
        free = self._backend.free_bytes()
        if size + _ROOM_BYTES > free:
            raise StorageError(
                f"only {logs.human_size(free)} are free for {self._folder.path}, and {logs.human_size(size)} are to come: "
                "make room and run the same command again"
            )
        if size > _LARGE_BYTES:
            say(f"Pulling up to {objects(len(parts), size)} of run {self._folder.name} from {self._there.remote.url}")

    # what comes

    def _stage(self, path: str) -> None:
        """Put a file together in `.sync/in/new`."""
        parts = self._record.files[path]
        here = self._pieces_here(path)
        target = f"{_NEW}/{path}"
        make_folder_durably(self._backend, parent_of(target))
        self._staged[path] = target
        if len(parts) == 1 and parts[0] not in here and is_container(path):
            if not link_or_copy(self._object(parts[0]), self._path(target)):
                sync_file(self._path(target))
            return
        with self._path(target).open("wb") as file:
            for part in parts:
                if part in here:
                    file.write(here[part].read())
                else:
                    _copy(self._object(part), file)
            file.flush()
            sync_content(file.fileno())

    def _pieces_here(self, path: str) -> Mapping[Part, _Piece]:
        local = self._folder.path / path
        if not _grows(path) or not local.is_file():
            return {}
        found = {}
        for number, piece in enumerate(pieces(local, local.stat().st_size)):
            part = part_of(piece)
            found[part] = _Piece(local, number * PART_BYTES, part)
        return found

    def _object(self, part: Part) -> Path:
        """An object in `.sync/in/objects`, where an interrupted pull has left what it had."""
        place = self._path(f"{_OBJECTS}/{part.digest}")
        if not is_content(place, part):
            place.parent.mkdir(parents=True, exist_ok=True)
            self._there.fetch(part, place)
            self._fetched.add(part)
        return place

    def _path(self, path: str) -> Path:
        return self._backend.local_path(path)

    # what it is worth

    def _check(self) -> None:
        """Read every byte of what came that is a checkpoint, a segment or a model. Raises DamagedFile."""
        root = LocalBackend(self._path(_NEW))
        for path in filter(is_container, self._staged):
            with CheckpointFile(root, path) as file:
                file.verify()
        if self._record.checkpoint in self._staged:
            with CheckpointFile(root, self._record.checkpoint) as file:
                self._require_as_recorded(file.manifest)
                self._check_segments(file)

    def _require_as_recorded(self, manifest: Mapping[str, Any]) -> None:
        training = self._record.training
        begun = None if training.parent is None else {"run": training.parent[0], "step": training.parent[1]}
        step = manifest.get("step")
        found = training_of(manifest, {"parent": begun}), step, manifest.get("sequence", step)
        if found != (training, self._record.step, self._record.sequence):
            raise DamagedFile(f"{self._record.checkpoint} is not the checkpoint that its record says it is")

    def _check_segments(self, file: CheckpointFile) -> None:
        place = folder_for(self._record.checkpoint)
        for segment in segments_of(file.manifest):
            if not segment.inside:
                staged = joined(place, segment.file) in self._staged
                with SegmentReader(file.backend if staged else self._backend, place, segment):
                    pass

    # how it gets its names

    def _install(self) -> None:
        write_bytes_durably(self._backend, _MARKER, self._record.name().encode())
        self._rename_segments()
        if self._was_unfinished and self._record.checkpoint not in self._staged:
            self._put_aside_what_is_later()
        for path, staged in self._staged.items():
            self._give_name(path, staged)
            if path == self._record.checkpoint:
                self._put_aside_what_is_later()
        self._backend.remove(_MARKER)

    def _give_name(self, path: str, staged: str) -> None:
        if path == self._record.checkpoint:
            self._keeping.copy_checkpoint(path)
        else:
            self._keeping.copy(path, self._path(staged))
        make_folder_durably(self._backend, parent_of(path))
        self._backend.replace(staged, path)
        self._backend.sync_folder(parent_of(path))
        if is_container(path) and staged == f"{_NEW}/{path}":
            self._known.note(path, self._path(path).stat(), self._record.files[path][0])

    def _rename_segments(self) -> None:
        """Give new names to segments whose names are taken here by others, which older checkpoints need."""
        taken = [path for path in self._staged if path.startswith("replay/") and self._backend.exists(path)]
        checkpoint = self._record.checkpoint
        if not taken or checkpoint not in self._staged:
            return
        root, renamed = LocalBackend(self._path(_NEW)), {}
        with CheckpointFile(root, checkpoint) as file:
            for segment in segments_of(file.manifest):
                path = joined(folder_for(checkpoint), segment.file)
                if path in taken:
                    renamed[segment.file] = self._free_segment(path, segment)
            write_checkpoint(
                LocalBackend(self._path(_RENAMED)), checkpoint, lambda writer: _rewritten(file, writer, renamed)
            )
        order = {f"replay/{new}": self._staged[f"replay/{old}"] for old, new in renamed.items()}
        rest = {path: staged for path, staged in self._staged.items() if path not in taken}
        self._staged = {**order, **rest, checkpoint: f"{_RENAMED}/{checkpoint}"}

    def _free_segment(self, path: str, segment: Segment) -> str:
        stem = f"{name_of(path).rpartition(f'_{segment.first}-{segment.end}')[0]}_{segment.first}-{segment.end}"
        names = (f"{stem}_{number}.zip" for number in range(1, 10_000))
        place = parent_of(path)
        return next(
            name
            for name in names
            if not self._backend.exists(joined(place, name)) and joined(place, name) not in self._record.files
        )

    def _put_aside_what_is_later(self) -> None:
        """Checkpoints of other legs that were committed later would be resumed from instead; the last one of them goes last."""
        for record in _own_records(self._folder):
            if record.path != self._record.checkpoint and record.sequence >= self._record.sequence:
                self._keeping.copy_checkpoint(record.path)
                self._keeping.move(record.path)
        if self._has_others_journal():
            self._keeping.move(JOURNAL)

    def _has_others_journal(self) -> bool:
        names = [entry.name for entry in self._backend.entries(JOURNAL)]
        continues = read_manifest(self._backend, self._record.checkpoint).get("journal")
        return bool(names) and not any(f"-{continues}." in name for name in names)


@dataclass(frozen=True)
class _Piece:
    """A part that is in a file here."""

    path: Path
    offset: int
    part: Part

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.part.size)


def _own_records(folder: RunFolder) -> list[CheckpointRecord]:
    """Checkpoints here whose commit records can be read, oldest first."""
    try:
        found = repository_of(folder).records()
    except NotFound:
        return []
    return [record for record in found if record.valid is not False and not record.unreadable]


def _rewritten(file: CheckpointFile, writer: CheckpointWriter, renamed: Mapping[str, str]) -> dict[str, Any]:
    for name in file.names():
        writer.write_member(name, file.read(name))
    segments = [{**one.plain(), "file": renamed.get(one.file, one.file)} for one in segments_of(file.manifest)]
    own = ("format", "version", "members")
    return {**{key: value for key, value in file.manifest.items() if key not in own}, FACT: segments}


def _grows(path: str) -> bool:
    return path.startswith(("logs/", "tensorboard/"))


def _copy(source: Path, file: Any) -> None:
    for chunk in _chunks(source):
        file.write(chunk)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
