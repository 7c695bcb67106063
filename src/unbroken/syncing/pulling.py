"""What a record names comes into the run folder: fetched and checked aside, then given its names in an order that a kill may end.

Until the checkpoint has its name the run resumes from its old state, from then on from the new one; a pull that was killed in
between is finished by the next. Nothing is lost: a state here that the new one did not come from goes to `archive/` as a whole,
and so does what else is here, would be replaced and is not at the remote.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbroken import logs
from unbroken.errors import DamagedFile, NotFound, StorageError
from unbroken.exports import Score
from unbroken.folder import BEST_SCORE, JOURNAL, METADATA, RUN_FILE, RunFolder
from unbroken.store.backend import joined, name_of, parent_of
from unbroken.store.checkpoint_file import CheckpointFile, CheckpointWriter, read_manifest, write_checkpoint
from unbroken.store.durable import LocalBackend, make_folder_durably, sync_content, write_bytes_durably
from unbroken.store.segments import FACT, Segment, SegmentReader, folder_for, segments_of
from unbroken.syncing.branches import History, State, history_of, metadata_history, own_records, states_here
from unbroken.syncing.documents import DOCUMENTS, TRACKERS, read_document, reading
from unbroken.syncing.keeping import Keeping
from unbroken.syncing.lines import objects, say, warn
from unbroken.syncing.local import (
    IN,
    SYNC,
    Known,
    is_best,
    is_container,
    is_final,
    link_or_copy,
    pieces,
    rename,
    sync_file,
)
from unbroken.syncing.records import (
    PART_BYTES,
    RUN_LOG,
    Part,
    Parts,
    Record,
    grows,
    part_of,
    size_of,
    training_of,
)
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
        self._states = states_here(folder)
        self._was_unfinished = is_unfinished(folder)
        self._staged: dict[str, str] = {}
        self._fetched: set[Part] = set()
        self._renamed: dict[str, str] = {}
        self._keeping = Keeping(folder)
        # of the other branch, when all of it was kept
        self._kept: list[str] = []

    def carry_out(self) -> Arrived:
        """Fetch, check and install. Raises DamagedFile for what cannot be used there, StorageError where there is no room here,
        and what the remote raises; in all these cases the run is as it was.
        """
        shutil.rmtree(self._path(_NEW), ignore_errors=True)
        shutil.rmtree(self._path(_RENAMED), ignore_errors=True)
        wanted = self._differing()
        checkpoint = self._record.checkpoint
        if checkpoint in wanted or not self._is_sound(checkpoint):
            self._stage(checkpoint)
        new = history_of(self._checked_manifest())
        here = self._history_here()
        # the newest one here may be damaged and further
        is_same_branch = (
            here is None
            or not self._backend.entries("checkpoints")
            or (new is not None and (here.leads_to(new) or new.leads_to(here)))
        )
        for path in self._chosen(wanted - {checkpoint}, is_same_branch=is_same_branch):
            self._stage(path)
        self._check()
        others = [state.path for state in self._states if not self._stays(state, new)]
        if is_same_branch:
            self._keep(others, here)
        else:
            self._keep_branch(here, new)
        self._install(others)
        shutil.rmtree(self._path(IN), ignore_errors=True)
        count = len(self._fetched)
        return Arrived(count, sum(part.size for part in self._fetched), len(self._record.parts()) - count)

    def _history_here(self) -> History | None:
        """How the state here came about; None where nothing is here that a training has made."""
        newest = self._states[-1].history if self._states else metadata_history(self._folder.metadata())
        if newest is not None or not self._has_made_something():
            return newest
        # of unknown origin: it leads nowhere
        return History(0, ({},))

    def _has_made_something(self) -> bool:
        if self._states or self._was_unfinished:
            return bool(self._states)
        return any(self._backend.exists(path) for path in self._record.files if path not in DOCUMENTS)

    def _stays(self, state: State, new: History | None) -> bool:
        """Whether a checkpoint here may be resumed from when the new one turns out damaged."""
        if state.path == self._record.checkpoint:
            return True
        if state.sequence >= self._record.sequence:
            return False
        return state.history is not None and new is not None and state.history.leads_to(new)

    # what has to come

    def _differing(self) -> set[str]:
        """The files that differ from those here."""
        files = self._record.files
        wanted = {path for path, parts in files.items() if not self._is_here(path, parts)}
        self._require_room([part for path in wanted for part in files[path]])
        return wanted

    def _chosen(self, wanted: Iterable[str], *, is_same_branch: bool) -> list[str]:
        """Those that are to come, without a best model that is no better and without code that nobody has named here."""
        chosen = set(wanted)
        if RUN_FILE in chosen and not self._is_trusted():
            chosen.remove(RUN_FILE)
        if is_same_branch and self._keeps_best():
            chosen = {path for path in chosen if not path.startswith("best_model/")}
        return sorted(chosen, key=self._rank)

    def _rank(self, path: str) -> int:
        """Segments and curves are of no effect without their checkpoint. A best model may be ahead of it, not behind."""
        if path.startswith("replay/"):
            return 0
        if path in _LAST:
            return 10 + _LAST.index(path)
        if grows(path):
            return 1
        if path == self._record.checkpoint:
            return 4
        # where nothing was, a kill may leave nothing, or a checkpoint, but no best model of a training that begins at step 0
        model = 3 if path == BEST_SCORE else 2
        return model if self._states else model + 3

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
        with reading(f"{BEST_SCORE} there cannot be used"):
            facts = self._document(BEST_SCORE)
            there = Score(float(facts["score"]), int(facts["step"]))
        try:
            manifest = read_manifest(self._backend, best)
            here = Score(float(manifest["score"]), int(manifest["step"]))
        except (NotFound, DamagedFile, LookupError, TypeError, ValueError):
            return False
        if not here.beats(there):
            return False
        say(f"The best model here ({here.value:.2f} at step {here.step:,}) stays: it is better than the one there")
        return True

    def _is_trusted(self) -> bool:
        """A file from anywhere does not name code to be run here, unless the run here names the same."""
        named = code_named(self._document(RUN_FILE)["config"])
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

    def _document(self, path: str) -> dict[str, Any]:
        return read_document(path, self._object(self._record.document_part(path)).read_bytes())

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
        if not grows(path) or not local.is_file():
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

    def _checked_manifest(self) -> dict[str, Any]:
        """The commit record of the checkpoint, which came or is here. Raises DamagedFile if it is not what its record says."""
        checkpoint = self._record.checkpoint
        with CheckpointFile(self._root_of(checkpoint), checkpoint) as file:
            file.verify()
            with reading(f"{checkpoint} there cannot be used"):
                self._require_as_recorded(file.manifest)
            return file.manifest

    def _is_sound(self, path: str) -> bool:
        try:
            with CheckpointFile(self._backend, path) as file:
                file.verify()
        except (NotFound, DamagedFile):
            return False
        return True

    def _root_of(self, path: str) -> LocalBackend:
        return LocalBackend(self._path(_NEW)) if path in self._staged else self._backend

    def _check(self) -> None:
        """Read every byte of what came that is a segment or a model, and all documents. Raises DamagedFile."""
        root = LocalBackend(self._path(_NEW))
        for path in self._staged:
            if path in DOCUMENTS:
                self._document(path)
            elif is_container(path) and path != self._record.checkpoint:
                with CheckpointFile(root, path) as file:
                    file.verify()
        place = folder_for(self._record.checkpoint)
        manifest = read_manifest(self._root_of(self._record.checkpoint), self._record.checkpoint)
        with reading(f"{self._record.checkpoint} there cannot be used"):
            for segment in segments_of(manifest):
                if not segment.inside:
                    with SegmentReader(self._root_of(joined(place, segment.file)), place, segment):
                        pass

    def _require_as_recorded(self, manifest: Mapping[str, Any]) -> None:
        training = self._record.training
        begun = None if training.parent is None else {"run": training.parent[0], "step": training.parent[1]}
        step = manifest.get("step")
        found = training_of(manifest, {"parent": begun}), step, manifest.get("sequence", step)
        if found != (training, self._record.step, self._record.sequence):
            raise DamagedFile(f"{self._record.checkpoint} is not the checkpoint that its record says it is")

    # what is kept

    def _keep(self, others: list[str], here: History | None) -> None:
        """Keep what was here and cannot be had from what comes, or from the remote."""
        for path in others:
            if self._keeping.copy_checkpoint(path):
                self._keeping.say(path)
        for path in self._staged:
            if path == self._record.checkpoint:
                is_kept = self._keeping.copy_checkpoint(path)
            else:
                is_kept = not self._is_superseded(path, here) and self._keeping.copy(path)
            if is_kept:
                self._keeping.say(path)

    def _keep_branch(self, here: History | None, new: History | None) -> None:
        """Keep all of the run: the new state belongs to another branch of it, whatever the remote may hold of this one."""
        self._kept = self._keeping.copy_run()
        for path in self._staged:
            self._keeping.copy(path)
        name, url, place = self._folder.name, self._there.remote.url, self._folder.path / self._keeping.place
        went, reached = "have nothing in common that could be found", ""
        if here is not None and new is not None and any("from_step" in leg for leg in here.legs):
            went, reached = f"went apart at step {here.parting(new):,}", f" up to step {here.step:,}"
        warn(
            f"run {name} here and at {url} {went}: what was trained here{reached} is kept as {place}. To go on with both, copy "
            f"that folder to {self._folder.runs_dir / 'NAME'}, which makes it a run, and sync that with --as NAME"
        )

    def _is_superseded(self, path: str, here: History | None) -> bool:
        """Whether nothing is lost with the file here, as when the training itself had gone on here."""
        local = self._folder.path / path
        if not local.is_file() or path.startswith("replay/"):
            return True
        if is_container(path):
            with contextlib.suppress(NotFound, DamagedFile, LookupError, TypeError, ValueError):
                facts = read_manifest(self._backend, path)
                is_earlier = facts["kind"] in ("best", "final") and here is not None and int(facts["step"]) <= here.step
                # what lies there is not looked at: the training itself would have replaced it here without a copy
                return is_earlier and self._there.has(self._known.part(path))
            return False
        if grows(path):
            return _begins_with(self._path(self._staged[path]), local)
        return self._there.holds(local.read_bytes())

    # how it gets its names

    def _install(self, others: list[str]) -> None:
        write_bytes_durably(self._backend, _MARKER, self._record.name().encode())
        self._rename_segments()
        if self._record.checkpoint not in self._staged:
            self._put_aside(others)
        for path in sorted(self._staged, key=self._rank):
            self._give_name(path, self._staged[path])
            if path == self._record.checkpoint:
                self._put_aside(others)
        self._take_back_names()
        self._backend.remove(_MARKER)

    def _give_name(self, path: str, staged: str) -> None:
        make_folder_durably(self._backend, parent_of(path))
        rename(self._backend, staged, path)
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
        self._renamed = {f"replay/{new}": f"replay/{old}" for old, new in renamed.items()}
        order = {new: self._staged[old] for new, old in self._renamed.items()}
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

    def _take_back_names(self) -> None:
        """Give renamed segments their own names, now that no checkpoint here needs what had them."""
        records = own_records(self._folder)
        needed = {name for one in records if one.path != self._record.checkpoint for name in one.segments or ()}
        if not self._renamed or any(name_of(old) in needed for old in self._renamed.values()):
            return
        for new, old in self._renamed.items():
            if not link_or_copy(self._path(new), self._path(f"{_RENAMED}/{old}")):
                sync_file(self._path(f"{_RENAMED}/{old}"))
            self._keeping.copy(old)
            self._give_name(old, f"{_RENAMED}/{old}")
        self._give_name(self._record.checkpoint, f"{_NEW}/{self._record.checkpoint}")
        for new in self._renamed:
            self._backend.remove(new)

    def _put_aside(self, others: list[str]) -> None:
        """Take away the checkpoints of another branch and what else belongs to it; the newest checkpoint goes last.

        They would be resumed from instead, or when the new one turns out damaged.
        """
        for path in others:
            self._keeping.move(path)
        for path in self._kept:
            is_model = is_final(path) or path.startswith("best_model/")
            if is_model and path not in self._record.files:
                self._keeping.move(path)
        if self._has_others_journal():
            self._keeping.move(JOURNAL)
            if not self._kept:
                self._keeping.say(JOURNAL)

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


def _rewritten(file: CheckpointFile, writer: CheckpointWriter, renamed: Mapping[str, str]) -> dict[str, Any]:
    for name in file.names():
        writer.write_member(name, file.read(name))
    segments = [{**one.plain(), "file": renamed.get(one.file, one.file)} for one in segments_of(file.manifest)]
    own = ("format", "version", "members")
    return {**{key: value for key, value in file.manifest.items() if key not in own}, FACT: segments}


def _begins_with(whole: Path, beginning: Path) -> bool:
    with whole.open("rb") as one, beginning.open("rb") as other:
        return all(one.read(len(chunk)) == chunk for chunk in iter(lambda: other.read(_CHUNK), b""))


def _copy(source: Path, file: Any) -> None:
    for chunk in _chunks(source):
        file.write(chunk)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
