"""An entry: one file with a result and the inputs that it was computed from, complete or absent, every byte hashed.

The file is the container of the checkpoints (`store.checkpoint_file`): plain JSON and raw arrays, nothing is ever unpickled. The
same inputs and steps give the same bytes, whenever they are computed. Format: docs/formats/cache.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbroken.cache.inputs import FORMAT, Inputs, Kind, fingerprint_of
from unbroken.cache.result import Result
from unbroken.capture.codec import decode, encode
from unbroken.errors import DamagedFile
from unbroken.remotes.lfs_pointer import is_lfs_pointer
from unbroken.store.backend import FileBackend
from unbroken.store.checkpoint_file import CheckpointFile, CheckpointWriter, write_checkpoint

_NAME = re.compile(
    r"(?P<scenario>.+)_(?P<short>[0-9a-f]{8})_(?P<kind>baseline|rl)_cache_(?:(?P<steps>\d+)_steps_)?(?P<rest>[0-9a-f]{24})\.zip"
)
_ARRAYS, _END = "exact/arrays", "exact/end"


class OtherFormat(DamagedFile):
    """A sound entry that another version of the package has written."""


@dataclass(frozen=True)
class EntryName:
    """What a file name says: `{scenario}_{hash8}_{kind}_cache_{steps}_steps_{rest of the fingerprint}.zip`."""

    scenario: str
    kind: Kind
    fingerprint: str
    steps: int | None

    @classmethod
    def of(cls, inputs: Inputs, steps: int | None) -> EntryName:
        scenario = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "-", inputs.scenario)
        return cls(scenario, inputs.kind, inputs.fingerprint, steps)

    @classmethod
    def parsed(cls, name: str) -> EntryName | None:
        """The parts of a file name; None for a file that is no entry."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        kind: Kind = "rl" if match["kind"] == "rl" else "baseline"
        steps = None if match["steps"] is None else int(match["steps"])
        return cls(match["scenario"], kind, match["short"] + match["rest"], steps)

    def text(self) -> str:
        """The file name."""
        steps = "" if self.steps is None else f"{self.steps}_steps_"
        short, rest = self.fingerprint[:8], self.fingerprint[8:]
        return f"{self.scenario}_{short}_{self.kind}_cache_{steps}{rest}.zip"


@dataclass(frozen=True)
class EntryRecord:
    """What an entry says of itself without its arrays."""

    name: EntryName
    inputs: Mapping[str, Any]  # see Inputs.record
    context: Mapping[str, str]
    facts: Mapping[str, Any]
    can_extend: bool


def write_entry(backend: FileBackend, inputs: Inputs, result: Result) -> str:
    """Write an entry durably; returns its file name. Raises what the storage raises, and TypeError for what is not plain data."""
    name = EntryName.of(inputs, result.steps).text()

    def fill(writer: CheckpointWriter) -> dict[str, Any]:
        _write(writer, _ARRAYS, dict(result.arrays))
        if result.end is not None:
            _write(writer, _END, result.end)
        return {
            "kind": "cache",
            "inputs": inputs.record,
            "fingerprint": inputs.fingerprint,
            "steps": result.steps,
            "context": dict(result.context or inputs.context),
            "facts": dict(result.facts),
        }

    write_checkpoint(backend, name, fill)
    return name


def read_entry(backend: FileBackend, name: str) -> tuple[EntryRecord, Result]:
    """An entry's record and result, every byte of both checked. Raises DamagedFile, OtherFormat or NotFound."""
    with CheckpointFile(backend, name) as file:
        record = _record(name, file.manifest)
        members = file.names()
        arrays = _read(file, _ARRAYS)
        end = _read(file, _END) if f"{_END}.json" in members else None
    if not isinstance(arrays, dict):
        raise DamagedFile(f"{name} is damaged: its arrays have no names")
    return record, Result(arrays, record.name.steps, end, record.facts, record.context)


def read_record(backend: FileBackend, name: str) -> EntryRecord:
    """What an entry says of itself; its arrays are not read. Errors as `read_entry`."""
    with CheckpointFile(backend, name) as file:
        return _record(name, file.manifest)


def verify_entry(backend: FileBackend, name: str) -> EntryRecord:
    """Read every byte of an entry and compare it with its hashes and its name. Errors as `read_entry`."""
    with CheckpointFile(backend, name) as file:
        file.verify()
        return _record(name, file.manifest)


def _record(name: str, manifest: Mapping[str, Any]) -> EntryRecord:
    inputs = manifest.get("inputs")
    if manifest.get("kind") != "cache" or not isinstance(inputs, dict):
        raise DamagedFile(f"{name} is damaged: it is a checkpoint, not an entry of the cache")
    if inputs.get("format") != FORMAT:
        raise OtherFormat(
            f"{name} has cache format {inputs.get('format')}, this version reads {FORMAT}: it stays and is not used"
        )
    parsed = EntryName.parsed(name)
    fingerprint = fingerprint_of(inputs)
    if parsed is None or (fingerprint, manifest.get("steps")) != (parsed.fingerprint, parsed.steps):
        raise DamagedFile(f"{name} is damaged: its name is not that of what it holds")
    context, facts = manifest.get("context") or {}, manifest.get("facts") or {}
    return EntryRecord(parsed, inputs, context, facts, f"{_END}.json" in manifest["members"])


def _write(writer: CheckpointWriter, member: str, description: Any) -> None:
    encoded = encode(description)
    writer.write_member(f"{member}.json", encoded.document)
    with writer.member(f"{member}.bin") as file:
        for piece in encoded.block():
            file.write(piece)


def _read(file: CheckpointFile, member: str) -> Any:
    return decode(file.read(f"{member}.json"), file.read(f"{member}.bin"))


def pointer_hint(path: Path) -> str | None:
    """What to do about a file that is a Git LFS pointer; None where it is none."""
    if not is_lfs_pointer(path):
        return None
    return "it is a Git LFS pointer, its content was never fetched ('git lfs pull' fetches it)"
