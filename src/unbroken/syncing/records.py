"""What a remote knows of a run: records, each of which names every file of the run at one checkpoint, in parts named by hash.

A record is put last and names only what is there. Its name holds what records are chosen by, and the hash of its content, so
that one that is damaged cannot pass for whole. `docs/formats/sync.md` describes both.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unbroken.config import NAME_LIMIT_BYTES
from unbroken.errors import DamagedFile, UsageError
from unbroken.folder import file_names
from unbroken.store.backend import checked_path
from unbroken.store.checkpoint_writer import NewerFormat, new_digest
from unbroken.syncing.documents import DOCUMENT_BYTES, DOCUMENTS, reading

FORMAT = "unbroken-run-record"
VERSION = 1
PART_BYTES = 256_000
"""Files that only grow are cut into parts of this size, so that only the last one travels again."""
RECORD_BYTES = 16_000_000
"""More than any record has: it would name terabytes of curves."""
RUN_LOG = "logs/run.log"

_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(
    r"(?P<step>[0-9]{12,18})-(?P<sequence>[0-9]{6,18})-(?P<revision>[0-9]{3,9})"
    r"-(?P<training>[0-9a-f]{8})-(?P<digest>[0-9a-f]{12})\.json"
)
_FOLDERS = ("checkpoints", "replay", "best_model", "logs", "tensorboard")
_PYTORCH_FINAL = file_names("", "ppo_torch").final
_CHECKPOINT = r"checkpoints/.+_{step}(?:_steps\.zip|\.pt)"
# what no file system of every operating system takes in a name; lengths as for names of runs, with room for steps and numbers
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f:*?"<>|\ud800-\udfff]')
_LONGEST = NAME_LIMIT_BYTES + 75
_LARGEST_BYTES = 1 << 40


@dataclass(frozen=True)
class Part:
    """A piece of a file, or all of it: `digest` names the object that holds it, `size` in bytes."""

    digest: str
    size: int


Parts = tuple[Part, ...]


def size_of(parts: Parts) -> int:
    """Bytes of a file."""
    return sum(part.size for part in parts)


def part_of(content: bytes) -> Part:
    """The part that holds this content."""
    digest = new_digest()
    digest.update(content)
    return Part(digest.hexdigest(), len(content))


@dataclass(frozen=True)
class Training:
    """What identifies a training: its first leg, and for a fork where it began. Another start is another training."""

    started: str
    machine: str
    pid: int
    parent: tuple[str, int] | None = None

    @property
    def key(self) -> str:
        """Eight digits that stand for it in names."""
        return hashlib.blake2b(json.dumps(self.plain()).encode(), digest_size=4).hexdigest()

    def plain(self) -> dict[str, Any]:
        """JSON-ready form."""
        parent = None if self.parent is None else list(self.parent)
        return {"started": self.started, "machine": self.machine, "pid": self.pid, "parent": parent}

    def __str__(self) -> str:
        fork = "" if self.parent is None else f", a fork of {self.parent[0]}@{self.parent[1]}"
        return f"begun at {self.started} on {self.machine}{fork}"


def training_of(manifest: Mapping[str, Any], stored: Mapping[str, Any]) -> Training:
    """The training that a checkpoint belongs to; `stored` is the run's `run.yaml`. Raises UsageError if it does not say."""
    try:
        first = manifest["legs"][0]
        parent = stored.get("parent") or manifest.get("parent")
        begun = None if not parent else (str(parent["run"]), int(parent["step"]))
        return Training(str(first["started"]), str(first["machine"]), int(first["pid"]), begun)
    except (LookupError, TypeError, ValueError) as error:
        raise UsageError(
            f"the checkpoint of step {manifest.get('step')} does not say which training it belongs to: only runs of "
            "unbroken travel; 'unbroken runs import' takes others in"
        ) from error


@dataclass(frozen=True)
class RecordName:
    """The name of a record. `key` orders records of one training; the newest is the largest."""

    text: str
    step: int
    sequence: int
    revision: int
    training: str
    digest: str

    @property
    def point(self) -> tuple[int, int]:
        """The checkpoint that it tells of: step, and the counter of commits."""
        return self.step, self.sequence

    @property
    def key(self) -> tuple[int, int, int, str]:
        """What records are sorted by."""
        return self.step, self.sequence, self.revision, self.digest


def read_name(text: str) -> RecordName | None:
    """What the name of a record says, None for one of another form."""
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    step, sequence, revision = (int(match[name]) for name in ("step", "sequence", "revision"))
    return RecordName(text, step, sequence, revision, match["training"], match["digest"])


@dataclass(frozen=True)
class Record:
    """Every file of a run at one checkpoint, by path in the run folder.

    `revision` counts what was pushed of the same checkpoint: a run's configuration or models change without a new one.
    `complete`: the target was reached there. `machine` made the checkpoint.
    """

    training: Training
    step: int
    sequence: int
    revision: int
    checkpoint: str
    complete: bool
    machine: str
    files: Mapping[str, Parts]

    @property
    def point(self) -> tuple[int, int]:
        """The checkpoint that it tells of: step, and the counter of commits."""
        return self.step, self.sequence

    def parts(self) -> set[Part]:
        """Everything that has to be at the remote."""
        return {part for parts in self.files.values() for part in parts}

    def document_part(self, path: str) -> Part:
        """The only part of a small document. Raises DamagedFile where it has none, or one that is too large."""
        parts = self.files.get(path, ())
        if len(parts) != 1 or parts[0].size > DOCUMENT_BYTES:
            raise DamagedFile(f"{path} there is not in one part, as it has to be")
        return parts[0]

    def content(self) -> bytes:
        """The record as it travels; equal records have equal bytes."""
        files = {path: [[part.digest, part.size] for part in parts] for path, parts in sorted(self.files.items())}
        facts = {
            "format": FORMAT,
            "version": VERSION,
            "training": self.training.plain(),
            "step": self.step,
            "sequence": self.sequence,
            "revision": self.revision,
            "checkpoint": self.checkpoint,
            "complete": self.complete,
            "machine": self.machine,
            "files": files,
        }
        return (json.dumps(facts, ensure_ascii=False, separators=(",", ":")) + "\n").encode()

    def name(self) -> str:
        """The name of the object without its folder."""
        counters = f"{self.step:012d}-{self.sequence:06d}-{self.revision:03d}"
        return f"{counters}-{self.training.key}-{_digest(self.content())}.json"


def read_record(name: RecordName, content: bytes) -> Record:
    """The record of this name. Raises DamagedFile with what is wrong with it, NewerFormat if this version cannot know."""
    if len(content) > RECORD_BYTES or _digest(content) != name.digest:
        raise DamagedFile(f"record {name.text} is damaged: its content does not fit its name")
    with reading(f"record {name.text} has a wrong form"):
        facts = json.loads(content)
        if facts.get("format") == FORMAT and int(facts["version"]) > VERSION:
            raise NewerFormat(f"record {name.text} was made by a newer version: upgrade unbroken")
        record = _record(facts)
        if record.name() != name.text:
            raise DamagedFile(f"record {name.text} is not what its name says")
        return record


def _record(facts: Mapping[str, Any]) -> Record:
    if facts.get("format") != FORMAT:
        raise ValueError(f"it is no {FORMAT}")
    first = facts["training"]
    parent = None if first["parent"] is None else (str(first["parent"][0]), int(first["parent"][1]))
    record = Record(
        Training(str(first["started"]), str(first["machine"]), int(first["pid"]), parent),
        int(facts["step"]),
        int(facts["sequence"]),
        int(facts["revision"]),
        str(facts["checkpoint"]),
        bool(facts["complete"]),
        str(facts["machine"]),
        {_allowed(path): tuple(_part(entry) for entry in parts) for path, parts in facts["files"].items()},
    )
    _require_sound(record)
    return record


def _require_sound(record: Record) -> None:
    """Raise ValueError for a checkpoint that no run would look for, and for sizes that no file of a run has."""
    is_checkpoint = re.fullmatch(_CHECKPOINT.format(step=record.step), record.checkpoint)
    if not is_checkpoint or record.checkpoint not in record.files:
        raise ValueError(f"{record.checkpoint!r} is no checkpoint of step {record.step}")
    for path, parts in record.files.items():
        if grows(path) and any(part.size > PART_BYTES for part in parts):
            raise ValueError(f"{path!r} has parts of more than {PART_BYTES} bytes")
    if sum(map(size_of, record.files.values())) > _LARGEST_BYTES:
        raise ValueError("its files would be larger than any run")


def grows(path: str) -> bool:
    """Whether a file only grows, so that it travels in parts: curves and logs."""
    return path.startswith(("logs/", "tensorboard/"))


def _part(entry: Any) -> Part:
    digest, size = entry
    if not isinstance(digest, str) or not _HASH.fullmatch(digest) or not isinstance(size, int) or size < 0:
        raise ValueError(f"{entry!r} is no part of a file")
    return Part(digest, size)


def _allowed(path: str) -> str:
    """The path, if a file of a run may have it: nothing that is fetched gets any other name here."""
    parts = checked_path(path).split("/")
    is_file = len(parts) == 2 and parts[0] in _FOLDERS
    is_final = len(parts) == 1 and (path.endswith("_final.zip") or path == _PYTORCH_FINAL)
    is_name = not _FORBIDDEN.search(path) and max(len(part.encode()) for part in parts) <= _LONGEST
    if not is_name or any(part.startswith(".") for part in parts) or not (is_file or is_final or path in DOCUMENTS):
        raise ValueError(f"{path[:100]!r} is no file of a run")
    return path


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=6).hexdigest()
