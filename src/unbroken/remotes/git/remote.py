"""The contract of a remote on a branch of a git repository."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from unbroken.errors import NotFound, RemoteError, RunLocked, StorageError, UnbrokenError, UsageError
from unbroken.logs import LOGGER
from unbroken.remotes.contract import TIMEOUT, Item, Put
from unbroken.remotes.git.address import parse_address
from unbroken.remotes.git.clone import Clone, folders_of, is_object_name
from unbroken.remotes.git.commands import Git
from unbroken.remotes.git.commit import NewCommit
from unbroken.remotes.git.environment import Folders
from unbroken.remotes.git.lfs import LargeFiles
from unbroken.remotes.git.refusals import CloneDamaged
from unbroken.remotes.lfs_pointer import LfsPointer, is_lfs_pointer, parse_lfs_pointer
from unbroken.remotes.transfer import open_source
from unbroken.store.backend import checked_path
from unbroken.store.durable import LocalBackend, write_durably
from unbroken.store.lock import ExclusiveLock

# s that another process of this machine may work in the same workspace before a call gives up
LOCK_PATIENCE = 120.0

_TRIES = 10
# tries that fail though the branch stays as it is: another machine holds its lock for moments only
_TRIES_UNMOVED = 4
_LONGEST_WAIT = 4.0
# the process's own generator belongs to the training
_random = random.SystemRandom()

_Result = TypeVar("_Result")


class GitRemote:
    """Objects as ordinary files of a branch; each `put` is one commit, pushed without force.

    `url` is `git:PLACE` or `git+lfs:PLACE`, with `#BRANCH` for another branch than the repository's default one. `lfs` decides
    where new objects go unless the repository's own `.gitattributes` already do; what lies there is read either way.
    `workspace` is a folder of this machine for our own clone, which processes share by taking turns; it may vanish at any
    time. Credentials are git's business: it is never allowed to ask for them. `timeout` in seconds; a transfer that has begun may
    pause for three times as long. Raises UsageError for an address that cannot be one, MissingExtra where git, or git-lfs
    where it is needed, is not installed.
    """

    sends_all = False

    def __init__(self, url: str, workspace: Path, lfs: bool = False, timeout: float = TIMEOUT) -> None:
        self._address = parse_address(url)
        self._lfs = lfs
        # git compares real paths when it looks for the end of its search for a repository
        self._folders = Folders(Path(workspace).resolve())
        self._clone = Clone(Git(self._address, self._folders, timeout))
        self._large_files = LargeFiles(self._clone)
        self._begun = False
        self._overruled_said = False

    @property
    def url(self) -> str:
        """What the user typed, without user and password."""
        return self._address.shown

    def items(self, prefix: str = "") -> list[Item]:
        """See `Remote`; a content that is in LFS counts with its own size, whether or not it is still there."""
        return self._in_turn(lambda: self._items(prefix))

    def put(self, files: Mapping[str, Path]) -> Put:
        """See `Remote`; all names become visible at once. A file that is an LFS pointer itself is refused."""
        for name in files:
            _check_name(name)
        return self._in_turn(lambda: self._put(files)) if files else Put()

    def fetch(self, name: str, target: Path) -> None:
        """See `Remote`; the place is asked only for what is not here yet. git-lfs keeps its own half downloads."""
        _check_name(name)
        self._in_turn(lambda: self._fetch(name, target))

    def prefetch(self, names: Iterable[str]) -> None:
        """Bring many objects here in one go, so that the following calls of `fetch` need no network; a name may be missing.

        An object that the place lacks is no error here: the `fetch` that asks for it says so.
        """
        wanted = list(names)
        self._in_turn(lambda: self._prefetch(wanted))

    def _items(self, prefix: str) -> list[Item]:
        self._clone.refresh()
        blobs = {name: oid for name, oid in self._clone.tree().blobs.items() if name.startswith(prefix)}
        sizes = self._clone.sizes(blobs.values())
        pointers = self._pointers(blobs.values())
        return [
            Item(name, pointers[oid].size if oid in pointers else sizes[oid]) for name, oid in sorted(blobs.items())
        ]

    def _put(self, files: Mapping[str, Path]) -> Put:
        for name, path in files.items():
            _check_content(name, path)
        stored: dict[tuple[str, bool], str] = {}
        refused: UnbrokenError | None = None
        seen: str | None = None
        unmoved = 0
        for number in range(_TRIES):
            self._clone.refresh()
            unmoved = unmoved + 1 if self._clone.tip == seen else 0
            if refused is not None and unmoved >= _TRIES_UNMOVED:
                raise refused
            seen = self._clone.tip
            absent = self._absent(files)
            if not absent:
                return Put((), tuple(files))
            refused = self._clone.push(self._committed({name: files[name] for name in absent}, stored))
            if refused is None:
                return Put(tuple(absent), tuple(name for name in files if name not in absent))
            time.sleep(_random.uniform(0.0, min(_LONGEST_WAIT, 0.1 * 2**number)))
        raise RemoteError(
            f"other machines were faster at {self.url} {_TRIES} times in a row: run the same command again"
        )

    def _absent(self, files: Mapping[str, Path]) -> list[str]:
        tree = self._clone.tree()
        absent = [name for name in files if name not in tree.paths]
        for name in absent:
            if tree.hinders(name) or any(folder in files for folder in folders_of(name)):
                raise RemoteError(f"{name} cannot be put to {self.url}: a name is a file and a folder at once there")
        return absent

    def _committed(self, files: dict[str, Path], stored: dict[tuple[str, bool], str]) -> str:
        """A commit with these files; `stored` remembers the ids of contents from one attempt to the next."""
        with self._clone.scratch() as scratch:
            commit = NewCommit(self._clone, scratch / "index")
            rules = commit.ensure_rules(files, self._lfs, scratch)
            self._say_overruled([name for name in files if not rules[name].suffices(self._lfs)])
            for lfs in (False, True):
                new = [name for name in files if rules[name].is_lfs is lfs and (name, lfs) not in stored]
                oids = self._stored([files[name] for name in new], lfs, scratch)
                stored.update(((name, lfs), oid) for name, oid in zip(new, oids, strict=True))
            commit.add({name: stored[name, rules[name].is_lfs] for name in files})
            first, *others = files
            return commit.finish(f"Add {first}" + (f" and {len(others)} more" if others else ""))

    def _say_overruled(self, names: list[str]) -> None:
        if not names or self._overruled_said:
            return
        self._overruled_said = True
        which = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        what = "kept out of Git LFS" if self._lfs else "open to conversion of newlines in clones"
        LOGGER.warning("[REMOTE] WARNING: %s: %s is %s by a .gitattributes of the repository", self.url, which, what)

    def _stored(self, paths: list[Path], lfs: bool, scratch: Path) -> list[str]:
        if not lfs or not paths:
            return self._clone.store(paths)
        texts = []
        for number, pointer in enumerate(self._large_files.upload(paths)):
            texts.append(scratch / f"pointer-{number}")
            # git-lfs itself keeps nothing for an empty file
            texts[-1].write_bytes(pointer.text() if pointer.size else b"")
        return self._clone.store(texts)

    def _fetch(self, name: str, target: Path) -> None:
        oid = self._found(name)
        pointer = self._pointers([oid]).get(oid)
        if pointer is None:
            produce = partial(self._clone.git.pour, oid)
        else:
            self._large_files.bring(name, pointer)
            produce = partial(self._large_files.pour, name, pointer)
        write_durably(LocalBackend(target.parent), target.name, produce)
        # another kind of remote may have left it; here nothing goes on from it
        (target.parent / f".{target.name}.part").unlink(missing_ok=True)

    def _found(self, name: str) -> str:
        # names are never given away: what was seen once need not be looked for again
        if name not in self._clone.tree().blobs:
            self._clone.refresh()
        try:
            return self._clone.tree().blobs[name]
        except KeyError:
            raise NotFound(f"there is no {name} at {self.url}") from None

    def _prefetch(self, names: list[str]) -> None:
        if not all(name in self._clone.tree().blobs for name in names):
            self._clone.refresh()
        blobs = self._clone.tree().blobs
        self._large_files.download(self._pointers([blobs[name] for name in names if name in blobs]).values())

    def _pointers(self, oids: Iterable[str]) -> dict[str, LfsPointer]:
        contents = self._clone.small_contents(oids)
        found = ((oid, parse_lfs_pointer(content)) for oid, content in contents.items())
        return {oid: pointer for oid, pointer in found if pointer is not None}

    def _in_turn(self, work: Callable[[], _Result]) -> _Result:
        """Do `work` while no other process is here, again after each repair of the clone that it turns out to need."""
        with self._turn():
            self._begin()
            for repair in (self._clone.unlock, self._clone.renew):
                with contextlib.suppress(CloneDamaged):
                    return work()
                repair()
            return work()

    def _begin(self) -> None:
        if self._begun:
            return
        self._clone.tidy()
        self._large_files.tidy()
        if self._lfs:
            self._large_files.require()
        self._begun = True

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        lock = ExclusiveLock(self._folders.lock)
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                lock.acquire()
                break
            except RunLocked:
                if time.monotonic() > deadline:
                    raise RemoteError(
                        f"another process has been at {self.url} for {LOCK_PATIENCE:g} s, in {self._folders.workspace}:"
                        " wait for it or stop it"
                    ) from None
                time.sleep(_random.uniform(0.02, 0.2))
            except StorageError as error:
                raise RemoteError(f"{self.url} needs a folder of this machine to work in: {error}") from error
        try:
            yield
        finally:
            lock.release()


def _check_name(name: str) -> None:
    if not checked_path(name) or not is_object_name(name):
        raise UsageError(f"{name!r} cannot be an object of a git repository: names that begin with .git are git's own")


def _check_content(name: str, path: Path) -> None:
    open_source(name, path).close()
    if is_lfs_pointer(path):
        raise RemoteError(f"{path} is an LFS pointer without its content: run `git lfs pull` where it lies, then again")
