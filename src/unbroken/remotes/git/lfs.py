"""Contents that Git LFS keeps: sent before the commit that needs them, fetched when they are asked for."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from unbroken.errors import MissingExtra, RemoteError
from unbroken.remotes.git.clone import Clone
from unbroken.remotes.git.environment import REMOTE
from unbroken.remotes.git.process import Answer
from unbroken.remotes.git.refusals import LFS_WAY_OUT
from unbroken.remotes.lfs_pointer import LfsPointer
from unbroken.remotes.transfer import open_source
from unbroken.store.backend import Writer

_CHUNK = 1 << 20
_PER_COMMAND = 200


class LargeFiles:
    """The LFS side of a clone. What it holds here is on its way: nothing stays once it has arrived."""

    def __init__(self, clone: Clone) -> None:
        self._clone = clone
        self._git = clone.git
        self._checked = False

    def require(self) -> None:
        """Raise MissingExtra where git-lfs is not installed."""
        if self._checked:
            return
        try:
            self._git.here("lfs", "version", folder=self._git.folders.workspace)
        except RemoteError:
            raise MissingExtra(
                f"git-lfs is not installed, which {self._git.address.shown} needs: {LFS_WAY_OUT}"
            ) from None
        self._checked = True

    def tidy(self) -> None:
        """Remove what killed processes left; half downloads stay, git-lfs goes on from them."""
        for name in ("objects", "tmp", "logs"):
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def upload(self, paths: Sequence[Path]) -> list[LfsPointer]:
        """Send the contents of files and return their pointers in the same order; what is there already is not sent again."""
        self.require()
        with self._clone.scratch() as folder:
            pointers = [self._take_in(path, folder / "content") for path in paths]
        oids = sorted({pointer.oid for pointer in pointers})
        try:
            for start in range(0, len(oids), _PER_COMMAND):
                self._send(oids[start : start + _PER_COMMAND])
        finally:
            self._drop(oids)
        return pointers

    def download(self, wanted: Iterable[LfsPointer]) -> str:
        """Fetch, all at once, the contents that are not here; returns what git-lfs says of those that it did not get."""
        missing = {pointer.oid: pointer for pointer in wanted if not self._is_here(pointer)}
        if not missing:
            return ""
        self.require()
        self._clone.ready_for_git()
        answer = self._transfer("fetch", "--include=", "--exclude=", REMOTE, self._commit_of(missing))
        return "" if all(self._is_here(pointer) for pointer in missing.values()) else answer.errors

    def bring(self, name: str, pointer: LfsPointer) -> None:
        """Have the content of the object `name` here, fetched if need be."""
        said = self.download([pointer])
        if self._is_here(pointer):
            return
        if "missing object" in said or "does not exist" in said or not said.strip():
            raise self._lost(name, pointer, "missing")
        if "invalid hash" in said or "expected OID" in said:
            raise self._lost(name, pointer, "damaged")
        shown, reason = self._git.address.shown, self._git.last_words(said)
        raise self._git.lfs_refusal(said) or RemoteError(f"{name}: git-lfs cannot fetch it from {shown}: {reason}")

    def pour(self, name: str, pointer: LfsPointer, writer: Writer) -> None:
        """Write a content that is here into `writer` and let go of it; RemoteError if its hash is wrong."""
        hasher = hashlib.sha256()
        # copied, not moved: on one file system git-lfs has linked it to the place's own file
        with self._path(pointer.oid).open("rb") as file:
            while chunk := file.read(_CHUNK):
                hasher.update(chunk)
                writer.write(chunk)
        self._drop([pointer.oid])
        if hasher.hexdigest() != pointer.oid:
            raise self._lost(name, pointer, "damaged")

    def _lost(self, name: str, pointer: LfsPointer, how: str) -> RemoteError:
        where = f"the LFS object {pointer.oid} is {how} at {self._git.address.shown}"
        return RemoteError(
            f"{name}: {where}: run `git lfs push --all origin` in a clone that has it, or remove the file there and put it again"
        )

    def _send(self, oids: Sequence[str]) -> None:
        answer = self._transfer("push", "--object-id", REMOTE, *oids)
        if answer.code == 0:
            return
        shown, reason = self._git.address.shown, self._git.last_words(answer.errors)
        raise self._git.lfs_refusal(answer.errors) or RemoteError(f"git-lfs cannot store objects at {shown}: {reason}")

    def _transfer(self, *words: str) -> Answer:
        try:
            return self._git.transfer("lfs", *words)
        finally:
            # it writes addresses with their passwords there
            shutil.rmtree(self._folder / "logs", ignore_errors=True)

    def _take_in(self, path: Path, aside: Path) -> LfsPointer:
        # copied, so that nothing that happens to the file reaches what is linked to the place's own file
        hasher = hashlib.sha256()
        with open_source(path.name, path) as source, aside.open("wb") as copy:
            while chunk := source.read(_CHUNK):
                hasher.update(chunk)
                copy.write(chunk)
            size = copy.tell()
        kept = self._path(hasher.hexdigest())
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.unlink(missing_ok=True)
        aside.rename(kept)
        return LfsPointer(kept.name, size)

    def _commit_of(self, pointers: dict[str, LfsPointer]) -> str:
        """A commit that holds just these pointers: git-lfs fetches what a commit needs, and no patterns come into it."""
        with self._clone.scratch() as folder:
            files = [folder / oid for oid in pointers]
            for file in files:
                file.write_bytes(pointers[file.name].text())
            blobs = self._clone.store(files)
        lines = "".join(f"100644 blob {blob}\t{oid}\n" for blob, oid in zip(blobs, pointers, strict=True))
        tree = self._git.here("mktree", given=lines.encode()).decode().strip()
        return self._git.here("commit-tree", "--no-gpg-sign", "-m", "Objects to fetch", tree).decode().strip()

    def _is_here(self, pointer: LfsPointer) -> bool:
        try:
            return self._path(pointer.oid).stat().st_size == pointer.size
        except OSError:
            return False

    def _drop(self, oids: Iterable[str]) -> None:
        for oid in oids:
            with contextlib.suppress(OSError):
                self._path(oid).unlink()

    def _path(self, oid: str) -> Path:
        return self._folder / "objects" / oid[:2] / oid[2:4] / oid

    @property
    def _folder(self) -> Path:
        return self._clone.path / "lfs"
