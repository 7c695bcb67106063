"""The checkpoint container: an ordinary zip that cannot be mistaken for a complete one when it is not.

It is written as a stream, without seeking. Its last member is `exact/manifest.json`, the commit record, with the size
and hash of every other member; its zip comment holds the hash of every byte before the comment. Any missing, added or
altered byte is found by `verify`; `read` never returns altered content. Nothing is unpickled here.
"""

import contextlib
import hashlib
import json
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self

from unbroken.errors import DamagedFile
from unbroken.store.backend import Buffer, FileBackend, Writer
from unbroken.store.durable import write_durably

FORMAT = "unbroken-checkpoint"
VERSION = 1
MANIFEST = "exact/manifest.json"
MANIFEST_LIMIT = 16 * 1024 * 1024
# torch.load reads only files that have everything below one folder
PYTORCH_ROOT = "archive/"

COMMENT = re.compile(rb"unbroken-checkpoint 1 blake2b:([0-9a-f]{64})")
COMMENT_LENGTH = len(b"unbroken-checkpoint 1 blake2b:") + 64
_PLACEHOLDER = b"unbroken-checkpoint 1 blake2b:" + b"0" * 64
_RESERVED = ("format", "version", "members")
_BUFFER = 1024 * 1024


class ForeignFile(DamagedFile):
    """A readable zip that is not a checkpoint of ours, such as a plain Stable-Baselines3 one."""


class NewerFormat(ForeignFile):
    """A checkpoint whose format is newer than this version of the package understands."""


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint that has been committed: size in bytes and the hash of all bytes before the comment."""

    path: str
    size: int
    digest: str
    manifest: dict[str, Any]


def new_digest() -> hashlib.blake2b:
    """The hash used throughout: blake2b with 256 bits."""
    return hashlib.blake2b(digest_size=32)


class CheckpointWriter:
    """Writes members one after another into `sink`, then the commit record.

    Used as a context: leaving it without `finish` abandons the file, which then is no checkpoint. Memory needed beyond
    the caller's chunks is about 1 MiB. Not safe to use from several threads. `root` is put before the name of every member
    in the zip, and in the zip alone.
    """

    def __init__(self, sink: Writer, root: str = "") -> None:
        self._root = root
        self._stream = _HashingStream(sink)
        self._zip = zipfile.ZipFile(self._stream, "w", zipfile.ZIP_STORED)
        self._members: dict[str, dict[str, int | str]] = {}
        self._handle: IO[bytes] | None = None
        self.size = 0
        self.digest = ""

    def member(self, name: str, *, deflate: bool = False) -> "MemberWriter":
        """A file object for one member; close it, or leave its context, before opening the next.

        It has what `torch.save` and `numpy.save` need: `write` and `flush`. Raises ValueError for a name that is
        taken or reserved. Members whose name ends in `.pth` are read by Stable-Baselines3 as its own.
        """
        if name in self._members or name == MANIFEST or not name:
            raise ValueError(f"the checkpoint cannot take another member {name!r}")
        return MemberWriter(self._open(name, deflate), lambda facts: self._members.update({name: facts}))

    def write_member(self, name: str, content: Buffer, *, deflate: bool = False) -> None:
        """Write a whole member; errors as `member`."""
        with self.member(name, deflate=deflate) as file:
            file.write(content)

    def finish(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Write the commit record with `facts` and return it; the file is complete when this returns.

        `facts` are plain JSON data; TypeError if not, ValueError if they contain one of the record's own keys. NaN and
        infinities are written the way Python's json does.
        """
        if taken := [key for key in _RESERVED if key in facts]:
            raise ValueError(f"facts of a checkpoint cannot contain {taken}")
        manifest = {"format": FORMAT, "version": VERSION, **facts, "members": self._members}
        with MemberWriter(self._open(MANIFEST, deflate=False), lambda facts: None) as file:
            file.write(json.dumps(manifest, ensure_ascii=False, indent=1).encode("utf-8"))
        self._zip.comment = _PLACEHOLDER
        self._zip.close()
        self.digest = self._stream.finish()
        self.size = self._stream.size
        return manifest

    def abandon(self) -> None:
        """Write nothing more; harmless after `finish`."""
        self._stream.mute()
        if self._handle is not None:
            self._handle.close()
        self._zip.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.abandon()

    def _open(self, name: str, deflate: bool) -> IO[bytes]:
        # ZipInfo's fixed date makes equal content give equal bytes; a stream's size is unknown, hence zip64 always.
        info = zipfile.ZipInfo(self._root + name)
        info.compress_type = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
        info.external_attr = 0o644 << 16
        self._handle = self._zip.open(info, "w", force_zip64=True)
        return self._handle


class MemberWriter:
    """One member being written; hashes what passes through.

    Leaving its context closes it, but not after an exception: a half-written member keeps the checkpoint from being
    finished.
    """

    def __init__(self, handle: IO[bytes], done: Callable[[dict[str, int | str]], None]) -> None:
        self._handle = handle
        self._done = done
        self._digest = new_digest()
        self._size = 0

    def write(self, data: Buffer, /) -> int:
        """Append all of `data`, any contiguous buffer, and return its length in bytes."""
        view = memoryview(data).cast("B")
        self._size += len(view)
        with _hashing(self._digest, view):
            self._handle.write(view)
        return len(view)

    def flush(self) -> None:
        """Nothing: data is safe only after the whole checkpoint is committed."""

    def close(self) -> None:
        """End the member and enter it in the commit record."""
        if not self._handle.closed:
            self._handle.close()
            self._done({"size": self._size, "blake2b": self._digest.hexdigest()})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if error is None:
            self.close()


class _HashingStream:
    """What zipfile writes to: joins small writes, hashes all, and holds the comment back until the hash is known."""

    def __init__(self, sink: Writer) -> None:
        self._sink: Writer | None = sink
        self._pending = bytearray()
        self._digest = new_digest()
        self.size = 0

    def write(self, data: Buffer, /) -> int:
        view = memoryview(data).cast("B")
        if self._sink is None:
            return len(view)
        self.size += len(view)
        if len(self._pending) + len(view) > _BUFFER:
            self._emit(self._pending)
            self._pending = bytearray()
        if len(view) > _BUFFER:
            self._emit(view)
        else:
            self._pending += view
        return len(view)

    def flush(self) -> None:
        """Nothing: see `finish`."""

    def close(self) -> None:
        """Nothing: the sink belongs to someone else."""

    def mute(self) -> None:
        """Drop everything from now on, so that zipfile can be closed whatever happened to the sink."""
        self._sink = None

    def finish(self) -> str:
        """Write what is pending with the hash in place of the placeholder; returns the hash."""
        if self._pending[-COMMENT_LENGTH:] != _PLACEHOLDER:
            raise RuntimeError("the zip does not end in its comment")
        self._emit(self._pending[:-COMMENT_LENGTH])
        digest = self._digest.hexdigest()
        self._emit(_PLACEHOLDER[:-64] + digest.encode("ascii"))
        self._pending = bytearray()
        return digest

    def _emit(self, data: Buffer) -> None:
        if self._sink is not None and len(data):
            with _hashing(self._digest, data):
                self._sink.write(data)


@contextlib.contextmanager
def _hashing(digest: hashlib.blake2b, data: Buffer) -> Iterator[None]:
    """Hash `data` while the body writes it: hashing lets go of the interpreter lock, so large data take two threads."""
    if len(data) <= _BUFFER:
        digest.update(data)
        yield
        return
    thread = threading.Thread(target=digest.update, args=(data,))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def write_checkpoint(
    backend: FileBackend, path: str, fill: Callable[[CheckpointWriter], dict[str, Any]]
) -> CheckpointInfo:
    """Commit a checkpoint whose members `fill` writes; `fill` returns the facts for the commit record.

    Complete or absent, as `durable.write_durably` says; an exception from `fill` passes on and the old file stays. The
    members of a `.pt` lie where `torch.load` looks for them.
    """
    root = PYTORCH_ROOT if path.endswith(".pt") else ""
    committed: list[CheckpointInfo] = []

    def produce(sink: Writer) -> None:
        with CheckpointWriter(sink, root) as writer:
            manifest = writer.finish(fill(writer))
        committed.append(CheckpointInfo(path, writer.size, writer.digest, manifest))

    write_durably(backend, path, produce)
    return committed[0]
