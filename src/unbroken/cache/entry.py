"""An entry: one file with a result and the inputs that it was computed from, complete or absent, every byte hashed.

The file is the container of the checkpoints (`store.checkpoint_file`): plain JSON and raw arrays, nothing is ever unpickled. The
same inputs, context and steps give the same bytes, whenever they are computed. Format: docs/formats/cache.md.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unbroken.cache.inputs import FORMAT, Inputs, Kind, fingerprint_of, printable, shown
from unbroken.cache.result import Result, as_kept
from unbroken.capture.codec import decode, encode
from unbroken.errors import DamagedFile, NotFound
from unbroken.remotes.lfs_pointer import is_lfs_pointer
from unbroken.store.backend import FileBackend, name_of
from unbroken.store.checkpoint_file import CheckpointFile, CheckpointWriter, ForeignFile, NewerFormat, write_checkpoint

# no file name on some system, or read as something else than a letter by a terminal: control characters of ASCII and Latin-1, those
# that turn the direction of writing, line ends, halves of characters
_UNUSABLE = r'[/\\:*?"<>|\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]'  # see cache.md
_NAME = re.compile(
    r"(?P<scenario>.+)_(?P<short>[0-9a-f]{8})_(?P<kind>baseline|rl)_cache_"
    r"(?:(?P<steps>0|[1-9][0-9]*)_steps_)?(?P<rest>[0-9a-f]{24})\.zip"
)
_LONGEST_SCENARIO = (
    120  # bytes; what else is in the name of a file being written takes about 100, and file systems take 255
)
_ARRAYS, _END = "exact/arrays", "exact/end"


class OtherFormat(DamagedFile):
    """A sound entry of another version of the format; an older one is known to be sound, a newer one cannot be checked."""


@dataclass(frozen=True)
class EntryName:
    """What a file name says: `{scenario}_{hash8}_{kind}_cache_{steps}_steps_{rest of the fingerprint}.zip`."""

    scenario: str
    kind: Kind
    fingerprint: str
    steps: int | None

    @classmethod
    def of(cls, inputs: Inputs, steps: int | None) -> EntryName:
        """The name of an entry of these inputs."""
        return cls(scenario_in_names(inputs.scenario), inputs.kind, inputs.fingerprint, steps)

    @classmethod
    def parsed(cls, name: str) -> EntryName | None:
        """The parts of a file name; None for a file that is no entry."""
        match = _NAME.fullmatch(name)
        if match is None or name.startswith(".") or re.search(_UNUSABLE, name):
            return None
        kind: Kind = "rl" if match["kind"] == "rl" else "baseline"
        steps = None if match["steps"] is None else int(match["steps"])
        return cls(match["scenario"], kind, match["short"] + match["rest"], steps)

    def text(self) -> str:
        """The file name."""
        steps = "" if self.steps is None else f"{self.steps}_steps_"
        short, rest = self.fingerprint[:8], self.fingerprint[8:]
        return f"{self.scenario}_{short}_{self.kind}_cache_{steps}{rest}.zip"

    def serves(self, steps: int | None) -> bool:
        """Whether an entry of this name has what a request for so many steps needs."""
        return self.steps == steps or (self.steps is not None and steps is not None and self.steps >= steps > 0)


def scenario_in_names(scenario: str) -> str:
    """A scenario as file names on every system can have it, at most 120 bytes; the fingerprint tells apart what becomes equal."""
    text = re.sub(_UNUSABLE, "-", unicodedata.normalize("NFC", scenario))
    cut = text.encode("utf-8", "ignore")[:_LONGEST_SCENARIO].decode("utf-8", "ignore")
    return re.sub(r"^\.", "-", cut.strip()) or "scenario"


@dataclass(frozen=True)
class EntryRecord:
    """What an entry says of itself without its arrays."""

    name: EntryName
    inputs: Mapping[str, Any]  # see Inputs.record
    context: Mapping[str, str]
    facts: Mapping[str, Any]
    can_extend: bool

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "file": self.name.text(),
            "fingerprint": self.name.fingerprint,
            "steps": self.name.steps,
            "can_be_extended": self.can_extend,
            "facts": dict(self.facts),
            "context": dict(self.context),
            "inputs": dict(self.inputs),
        }


def write_entry(backend: FileBackend, inputs: Inputs, result: Result) -> str:
    """Write an entry durably; returns its file name.

    Raises what the storage raises, and TypeError or ValueError for what is not plain data.
    """
    name = EntryName.of(inputs, result.steps).text()

    def fill(writer: CheckpointWriter) -> dict[str, Any]:
        _write(writer, _ARRAYS, {name: as_kept(array) for name, array in result.arrays.items()})
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
    """An entry's record and result, every byte of the file checked. Raises DamagedFile, OtherFormat or NotFound."""
    with _opened(backend, name) as file:
        record = _verified(file)
        arrays = _read(file, _ARRAYS)
        end = _read(file, _END) if record.can_extend else None
    if not isinstance(arrays, dict) or not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise _damaged(name, "it holds something else than arrays by name")
    try:
        return record, Result(arrays, record.name.steps, end, record.facts, record.context)
    except (ValueError, TypeError) as error:
        raise _damaged(name, str(error)) from error


def read_record(backend: FileBackend, name: str) -> EntryRecord:
    """What an entry says of itself; its arrays are not read. Errors as `read_entry`."""
    with _opened(backend, name) as file:
        return _record(file)


def verify_entry(backend: FileBackend, name: str) -> EntryRecord:
    """Read every byte of an entry and compare it with its hashes and its name. Errors as `read_entry`."""
    with _opened(backend, name) as file:
        return _verified(file)


def _opened(backend: FileBackend, name: str) -> CheckpointFile:
    return CheckpointFile(backend, name, stored_only=True)


def _verified(file: CheckpointFile) -> EntryRecord:
    try:
        file.verify()
    except NewerFormat as error:
        raise OtherFormat(str(error)) from error
    return _record(file)


def _record(file: CheckpointFile) -> EntryRecord:
    name = name_of(file.path)
    try:
        manifest = file.manifest
    except NewerFormat as error:
        raise OtherFormat(str(error)) from error
    inputs = manifest.get("inputs")
    if manifest.get("kind") != "cache" or not isinstance(inputs, dict):
        raise _damaged(name, "it is a checkpoint, not an entry of the cache")
    if inputs.get("format") != FORMAT:
        found = inputs.get("format")
        way_out = (
            "upgrade unbroken to use it" if isinstance(found, int) and found > FORMAT else "it is of no use any more"
        )
        raise OtherFormat(f"{name} has cache format {shown(found)}, this version reads {FORMAT}: {way_out}")
    if compressed := file.compressed():
        raise _damaged(name, f"its member {shown(compressed[0])} is compressed, and entries are stored as they are")
    context, facts = manifest.get("context"), manifest.get("facts")
    if not isinstance(context, dict) or not isinstance(facts, dict):
        raise _damaged(name, "its commit record has a wrong form")
    return EntryRecord(_name(name, manifest), inputs, context, facts, f"{_END}.json" in manifest["members"])


def _name(name: str, manifest: Mapping[str, Any]) -> EntryName:
    """The name, if it is that of the content; raises DamagedFile."""
    parsed, inputs, steps = EntryName.parsed(name), manifest["inputs"], manifest.get("steps")
    try:
        fingerprint = fingerprint_of(inputs)
    except (TypeError, ValueError, RecursionError) as error:
        raise _damaged(name, f"its inputs are no plain data ({error})") from error
    of_content = (scenario_in_names(str(inputs.get("scenario"))), inputs.get("kind"), fingerprint, steps)
    if parsed is None or of_content != (
        unicodedata.normalize("NFC", parsed.scenario),
        parsed.kind,
        parsed.fingerprint,
        parsed.steps,
    ):
        raise _damaged(name, "its name is not that of what it holds")
    return parsed


def _damaged(name: str, what: str) -> DamagedFile:
    return DamagedFile(f"{name} is damaged: {what}")


def _write(writer: CheckpointWriter, member: str, description: Any) -> None:
    encoded = encode(description)
    writer.write_member(f"{member}.json", encoded.document)
    with writer.member(f"{member}.bin") as file:
        for piece in encoded.block():
            file.write(piece)


def _read(file: CheckpointFile, member: str) -> Any:
    try:
        return decode(file.read(f"{member}.json"), file.read(f"{member}.bin"))
    except NotFound as error:
        raise _damaged(name_of(file.path), f"it has no {member}") from error


def reason_of(error: DamagedFile, path: Path) -> str:
    """Why the entry at `path` cannot be used, without its name: what to do about a Git LFS pointer, else what is damaged."""
    if is_lfs_pointer(path):
        return "it is a Git LFS pointer, its content was never fetched ('git lfs pull' fetches it)"
    if isinstance(error, ForeignFile):
        return "it is no entry but a file of something else"
    return printable(str(error).partition("is damaged: ")[2] or str(error))
