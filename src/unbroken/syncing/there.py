"""What a remote holds of a run: its records and the objects they name, each checked by hash on arrival.

Objects never change at a remote. One that is found damaged gets a note there, and whoever has its content puts a twin under
another name, `{hash}-2`, which counts for the same.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unbroken.errors import DamagedFile, NotFound, RemoteError, RemoteRefused, RemoteUnreachable
from unbroken.remotes.contract import Remote
from unbroken.remotes.transfer import not_listed, require_listed
from unbroken.store.checkpoint_writer import new_digest
from unbroken.syncing.documents import read_document
from unbroken.syncing.lines import warn
from unbroken.syncing.records import RECORD_BYTES, Part, Record, RecordName, part_of, read_name, read_record

ROOT = "runs/"
# names that are tried for one object before a place counts as one that keeps nothing
_TWINS = 4
_OBJECT = re.compile(r"([0-9a-f]{64})(?:-[0-9]+)?")
_CHUNK = 1 << 20


def is_content(path: Path, part: Part) -> bool:
    """Whether a file holds exactly this part."""
    if not path.is_file() or path.stat().st_size != part.size:
        return False
    digest = new_digest()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == part.digest


class There:
    """The run `name` at a remote, as it was listed when this was made. Methods raise what the remote raises."""

    def __init__(self, remote: Remote, name: str) -> None:
        self.remote = remote
        self.name = name
        self._prefix = f"{ROOT}{name}/"
        self._objects: dict[str, dict[str, int]] = defaultdict(dict)
        self._noted: set[str] = set()
        self._occupied: set[str] = set()
        self._oversized: set[str] = set()
        found: list[RecordName] = []
        for item in remote.items(self._prefix):
            kind, _, rest = item.name.removeprefix(self._prefix).partition("/")
            record = read_name(rest) if kind == "records" else None
            match = _OBJECT.fullmatch(rest)
            if record is not None:
                found.append(record)
                if item.size > RECORD_BYTES:
                    self._oversized.add(rest)
            elif match is not None and kind == "objects":
                self._objects[match[1]][rest] = item.size
            elif match is not None and kind == "damaged":
                self._noted.add(rest)
        self.records = sorted(found, key=lambda record: record.key, reverse=True)
        """Newest first."""

    @property
    def object_count(self) -> int:
        """Objects there, whether a record names them or not."""
        return len(self._objects)

    def has(self, part: Part) -> bool:
        """Whether the part is there whole, as far as its size and the notes of others tell."""
        return any(self._is_sound(name, part) for name in self._objects.get(part.digest, ()))

    def lacking(self, record: Record) -> int:
        """How many parts of a record are missing there, or of another size."""
        whole = (part.size in self._objects.get(part.digest, {}).values() for part in record.parts())
        return sum(not is_whole for is_whole in whole)

    def put(self, sources: Mapping[Part, Path], record: tuple[str, Path]) -> None:
        """Put parts that are not there whole, and then the record, whose name is without folder.

        The record is put once all parts are there: what was said to be there already is listed whole, or put under another name.
        """
        files = {self._free_name(part): path for part, path in sources.items()}
        name, path = f"{self._prefix}records/{record[0]}", record[1]
        if self.remote.sends_all:
            everything = {**files, name: path}
            require_listed(self.remote, self.remote.put(everything), everything)
            return
        left = dict(sources)
        while left:
            left = self._put_once(left)
        require_listed(self.remote, self.remote.put({name: path}), {name: path})

    def _put_once(self, sources: Mapping[Part, Path]) -> dict[Part, Path]:
        """Put parts; returns what is still to be put, under other names."""
        names = {self._free_name(part): part for part in sources}
        files = {name: sources[part] for name, part in names.items()}
        try:
            hidden = set(not_listed(self.remote, self.remote.put(files), files))
        except (RemoteUnreachable, RemoteRefused):
            raise
        except RemoteError as error:
            # a folder where an object would go: whatever says so names it
            hidden = {name for name in files if name in str(error)}
            if not hidden:
                raise
            self._occupied |= hidden
            return dict(sources)
        self._occupied |= hidden
        return {names[name]: files[name] for name in hidden}

    def _free_name(self, part: Part) -> str:
        """The name under which a part that is not there whole can be put. Raises RemoteError when too many are taken."""
        taken = self._objects.get(part.digest, {})
        names = (part.digest, *(f"{part.digest}-{number}" for number in range(2, len(taken) + _TWINS + 1)))
        for path in (f"{self._prefix}objects/{name}" for name in names if name not in taken):
            if path not in self._occupied:
                return path
        raise RemoteError(
            f"{self.remote.url} has something else where object {part.digest[:12]} would go, or does not list it: look what is "
            f"there in {self._prefix}objects/ and run the same command again"
        )

    def record(self, name: RecordName) -> Record:
        """A record, all of whose parts are listed. Raises DamagedFile with what is wrong."""
        if name.text in self._oversized:
            raise DamagedFile(f"record {name.text} is larger than any record")
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "record"
            try:
                self.remote.fetch(f"{self._prefix}records/{name.text}", target)
            except NotFound as error:
                raise DamagedFile(f"record {name.text} has gone") from error
            record = read_record(name, target.read_bytes())
        lacking = self.lacking(record)
        if lacking:
            raise DamagedFile(f"record {name.text}: {lacking} of its objects are missing or truncated there")
        return record

    def document(self, record: Record, path: str) -> dict[str, Any]:
        """What a document of the run holds there. Raises DamagedFile, also where the record has none."""
        return read_document(path, self._content(record.document_part(path)))

    def holds(self, content: bytes) -> bool:
        """Whether this content is there, which is fetched to find out."""
        part = part_of(content)
        if not self.has(part):
            return False
        try:
            return self._content(part) == content
        except (DamagedFile, RemoteError):
            return False

    def _content(self, part: Part) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "object"
            self.fetch(part, target)
            return target.read_bytes()

    def fetch(self, part: Part, target: Path) -> None:
        """Make `target` hold the part, going on from what an interrupted fetch left. Raises DamagedFile, with a note there."""
        copies = self._objects.get(part.digest, {})
        whole = [name for name, size in copies.items() if size == part.size]
        for name in sorted(whole, key=lambda name: (name in self._noted, name)):
            with contextlib.suppress(NotFound):
                if self._is_fetched(name, part, target):
                    return
                self._note(name)
        raise DamagedFile(f"object {part.digest[:12]} is damaged")

    def _is_sound(self, name: str, part: Part) -> bool:
        return name not in self._noted and self._objects[part.digest][name] == part.size

    def _is_fetched(self, name: str, part: Part, target: Path) -> bool:
        beginning = target.with_name(f".{target.name}.part")
        # a beginning that lies here may be the damaged one
        for _ in range(2 if beginning.exists() else 1):
            self.remote.fetch(f"{self._prefix}objects/{name}", target)
            if is_content(target, part):
                return True
            target.unlink()
        return False

    def _note(self, name: str) -> None:
        """Tell the others that this object is damaged: who has its content can put a twin."""
        if name in self._noted:
            return
        warn(
            f"object {name[:12]} of run {self.name} at {self.remote.url} is damaged: its content does not fit its name"
        )
        with tempfile.TemporaryDirectory() as folder:
            note = Path(folder) / "note"
            note.write_bytes(b"its content did not fit its name when it was fetched\n")
            # a place that may only be read keeps no notes
            with contextlib.suppress(RemoteError):
                self.remote.put({f"{self._prefix}damaged/{name}": note})
