"""Reading and verifying the checkpoint container that `checkpoint_writer` writes.

Whatever is wrong with a file is raised as DamagedFile that names it; a file that is sound but not ours as its subclass
ForeignFile. A failing disk (OSError) is told apart from damage. Nothing is unpickled.
"""

import contextlib
import errno
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, BinaryIO, Self

from unbroken.errors import DamagedFile, NotFound
from unbroken.store.backend import FileBackend
from unbroken.store.checkpoint_writer import (
    COMMENT,
    COMMENT_LENGTH,
    FORMAT,
    MANIFEST,
    MANIFEST_LIMIT,
    PYTORCH_ROOT,
    VERSION,
    ForeignFile,
    NewerFormat,
    new_digest,
)

_CHUNK = 4 * 1024 * 1024
_HASH = re.compile("[0-9a-f]{64}")
# every way in which zipfile stumbles over altered bytes, beside OSError with EINVAL
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)


class CheckpointFile:
    """A checkpoint open for reading; used as a context, by one thread.

    Entering raises NotFound if there is no file and nothing else about its content: that is read when it is asked for. With
    `stored_only` no compressed member is read but the commit record: no read then takes much more memory than the file has bytes.
    """

    def __init__(self, backend: FileBackend, path: str, *, stored_only: bool = False) -> None:
        self.path = path
        self.backend = backend
        self._stored_only = stored_only
        self._opened: BinaryIO | None = None
        self._archive: zipfile.ZipFile | None = None
        self._manifest: dict[str, Any] | None = None

    def __enter__(self) -> Self:
        try:
            self._opened = self.backend.open(self.path)
        except FileNotFoundError as error:
            raise NotFound(f"there is no checkpoint {self.path}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._archive is not None:
            self._archive.close()
        self._file.close()

    @property
    def manifest(self) -> dict[str, Any]:
        """The commit record, checked for its form; raises DamagedFile, ForeignFile or NewerFormat."""
        if self._manifest is None:
            self._manifest = self._read_manifest()
        return self._manifest

    @property
    def digest(self) -> str:
        """The hash of all bytes before the comment, as the file says; `verify` checks it. Raises DamagedFile."""
        comment = COMMENT.fullmatch(self._tail(self._size()))
        if comment is None:
            raise self._without_commit()
        return comment[1].decode("ascii")

    def names(self) -> list[str]:
        """Names of the members in the order they were written, without the commit record."""
        return list(self.manifest["members"])

    def compressed(self) -> list[str]:
        """Names of the members in the zip that are not stored byte for byte."""
        return [info.filename for info in self._zip().infolist() if _is_compressed(info)]

    def read(self, member: str) -> bytes:
        """The content of a member, whose size and hash have been checked against the commit record.

        Raises NotFound for a name that the record does not have and DamagedFile for content that differs from it.
        """
        expected = self.manifest["members"].get(member)
        if expected is None:
            raise NotFound(f"checkpoint {self.path} has no member {member}")
        content = self._content(member, expected["size"])
        digest = new_digest()
        digest.update(content)
        if len(content) != expected["size"] or digest.hexdigest() != expected["blake2b"]:
            raise self._damaged(f"the content of member {member} is altered")
        return content

    def verify(self) -> None:
        """Re-read every byte; raises DamagedFile that names what is wrong, ForeignFile if the file is not ours."""
        size = self._size()
        if size == 0:
            raise self._damaged("the file is empty (zero bytes)")
        comment = COMMENT.fullmatch(self._tail(size))
        if comment is None:
            raise self._without_commit()
        if self._digest(size - COMMENT_LENGTH) != comment[1].decode("ascii"):
            raise self._damaged(self._culprit())
        self._compare_directory()

    @property
    def _file(self) -> BinaryIO:
        if self._opened is None:
            raise ValueError(f"checkpoint {self.path} is not open: use it in a with statement")
        return self._opened

    def _damaged(self, what: str) -> DamagedFile:
        return DamagedFile(f"checkpoint {self.path} is damaged: {what}")

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Turn every way in which zipfile stumbles over altered bytes into DamagedFile."""
        try:
            yield
        except DamagedFile:
            raise
        except UNREADABLE as error:
            raise self._damaged(f"{what} ({error})") from error
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise self._damaged(what) from error

    def _zip(self) -> zipfile.ZipFile:
        if self._archive is None:
            if self._size() == 0:
                raise self._damaged("the file is empty (zero bytes)")
            self._file.seek(0)
            begins = self._file.read(4) == b"PK\x03\x04"
            with self._reading("it is truncated or was never finished" if begins else "it is not a zip file"):
                self._archive = zipfile.ZipFile(self._file)
        return self._archive

    def _info(self, member: str) -> zipfile.ZipInfo | None:
        return self._zip().NameToInfo.get(self._root() + member)

    def _root(self) -> str:
        """What stands before the names of all members: of a `.pt` the folder that torch looks into."""
        return PYTORCH_ROOT if PYTORCH_ROOT + MANIFEST in self._zip().NameToInfo else ""

    def _content(self, member: str, size: int) -> bytes:
        info = self._info(member)
        if info is None or info.file_size != size:
            raise self._damaged(f"member {member} is missing or has another size than the commit record says")
        if self._stored_only and member != MANIFEST and _is_compressed(info):
            raise self._damaged(f"member {member} is compressed")
        with self._reading(f"member {member} cannot be read"), self._zip().open(info) as handle:
            return handle.read(size + 1)

    def _read_manifest(self) -> dict[str, Any]:
        info = self._info(MANIFEST)
        if info is None and self._has_comment():
            raise self._damaged("its commit record is gone")
        if info is None and all(member.header_offset for member in self._zip().infolist()):
            # members of a truncated checkpoint are zips too (torch's), and the last of them passes for the whole file
            raise self._damaged("it is truncated or was never finished")
        if info is None:
            raise ForeignFile(f"{self.path} is not a checkpoint of unbroken: it has no {MANIFEST} (a plain SB3 zip?)")
        if info.file_size > MANIFEST_LIMIT:
            raise self._damaged(f"its commit record is larger than {MANIFEST_LIMIT} bytes")
        with self._reading("its commit record cannot be read"):
            return self._checked(json.loads(self._content(MANIFEST, info.file_size)))

    def _checked(self, manifest: Any) -> dict[str, Any]:
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ForeignFile(f"{self.path} has a manifest of another format than {FORMAT}")
        version = manifest.get("version")
        if isinstance(version, int) and version > VERSION:
            raise NewerFormat(
                f"{self.path} has format {version}, newer than {VERSION} that this version reads: upgrade unbroken"
            )
        members = manifest.get("members")
        if version != VERSION or not isinstance(members, dict) or not all(map(_is_member, members.values())):
            raise self._damaged("its commit record has a wrong form")
        return manifest

    def _has_comment(self) -> bool:
        return COMMENT.fullmatch(self._tail(self._size())) is not None

    def _without_commit(self) -> DamagedFile:
        """What to say about a file that does not end in our comment."""
        try:
            self._read_manifest()
        except DamagedFile as error:
            return error
        return self._damaged("its end is truncated, altered or has something after it")

    def _culprit(self) -> str:
        """Where the altered bytes are, as far as can be told."""
        try:
            for member in self.names():
                self.read(member)
        except DamagedFile as error:
            return str(error).partition("is damaged: ")[2] or str(error)
        return "bytes between the members are altered"

    def _compare_directory(self) -> None:
        members = self.manifest["members"]
        root = self._root()
        found = {info.filename: info.file_size for info in self._zip().infolist() if info.filename != root + MANIFEST}
        if found != {root + name: facts["size"] for name, facts in members.items()}:
            raise self._damaged("its members are not those of the commit record")

    def _size(self) -> int:
        return self._file.seek(0, os.SEEK_END)

    def _tail(self, size: int) -> bytes:
        self._file.seek(max(0, size - COMMENT_LENGTH))
        return self._file.read(COMMENT_LENGTH)

    def _digest(self, size: int) -> str:
        digest = new_digest()
        self._file.seek(0)
        while size > 0 and (chunk := self._file.read(min(size, _CHUNK))):
            digest.update(chunk)
            size -= len(chunk)
        return digest.hexdigest()


def read_manifest(backend: FileBackend, path: str) -> dict[str, Any]:
    """The commit record alone, without verifying the rest; errors as `CheckpointFile.manifest`."""
    with CheckpointFile(backend, path) as file:
        return file.manifest


def _is_compressed(info: zipfile.ZipInfo) -> bool:
    return info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size


def _is_member(facts: Any) -> bool:
    if not isinstance(facts, dict):
        return False
    size, digest = facts.get("size"), facts.get("blake2b")
    return isinstance(size, int) and size >= 0 and isinstance(digest, str) and _HASH.fullmatch(digest) is not None
