"""Our own bare clone of one branch: its newest commit without history and, where the place can, without contents.

It holds nothing that the place does not hold, so that a damaged one is made again. The caller keeps other processes away.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from unbroken.errors import RemoteError, UnbrokenError, UsageError
from unbroken.remotes.git.commands import Git
from unbroken.remotes.git.environment import REMOTE
from unbroken.remotes.git.process import Answer
from unbroken.remotes.git.refusals import damaged
from unbroken.remotes.lfs_pointer import MAX_SIZE
from unbroken.store.backend import checked_path
from unbroken.store.durable import LocalBackend

_TIP = "refs/heads/tip"
_SHA1_LENGTH = 40
# contents in one fetch: what an interruption may cost
_PER_FETCH = 64
_FILES = ("100644", "100755")
_READ_BY_GIT = (".gitattributes", ".lfsconfig")
_NO_TAGS = ("--no-tags", "--no-write-fetch-head", "--progress")
_ORPHAN_GRACE = 2.0
_OVERTAKEN = (
    "failed to update ref",
    "cannot lock ref",
    "incorrect old value",
    "but expected",
    "reference already exists",
)
_OTHER_FORMAT = re.compile(r"hash algorithm|mismatched algorithms|unexpected capabilities\^\{\}")


@dataclass(frozen=True)
class Tree:
    """The files of one commit: `blobs` are the objects' names with the ids of their contents, `paths` everything there is.

    `read_by_git` are the ids of what git itself looks into: attributes and the settings of LFS.
    """

    blobs: dict[str, str]
    paths: frozenset[str] = frozenset()
    read_by_git: tuple[str, ...] = ()

    def hinders(self, name: str) -> bool:
        """Whether `name` cannot be made, because it or a part of it would have to be a file and a folder at once."""
        return name in self._folders or not self.paths.isdisjoint(folders_of(name))

    @cached_property
    def _folders(self) -> frozenset[str]:
        return frozenset(folder for path in self.paths for folder in folders_of(path))


class Clone:
    """`tip` is the branch's newest commit as of the last `refresh`, or nothing where the branch does not exist yet."""

    def __init__(self, git: Git) -> None:
        self.git = git
        self.path = git.folders.clone
        self.branch = ""
        self.tip = ""
        self._filter = "--filter=blob:none"
        self._format = "sha1"
        self._sizes: dict[str, int] = {}
        self._trees: dict[str, Tree] = {}

    def tidy(self) -> None:
        """Remove what killed processes left of files that nobody can go on with."""
        for pattern in ("objects/pack/tmp_*", "objects/??/tmp_*"):
            for path in self.path.glob(pattern):
                with contextlib.suppress(OSError):
                    path.unlink()
        _remove(self.git.folders.scratch)

    def unlock(self) -> None:
        """Remove the lock files of killed commands, once their last children have had time to end."""
        time.sleep(_ORPHAN_GRACE if any(self.path.rglob("*.lock")) else 0.0)
        for path in self.path.rglob("*.lock"):
            with contextlib.suppress(OSError):
                path.unlink()
        self._forget()

    def renew(self) -> None:
        """Remove the clone; the next `refresh` makes it again."""
        _remove(self.path)
        if self.path.exists():
            raise RemoteError(f"the clone {self.path} is damaged and cannot be removed: remove it and try again")
        self._forget()

    def refresh(self) -> None:
        """Bring the branch's newest commit here."""
        there = self._references()
        self.branch = self._branch(there)
        newest = there.get(f"refs/heads/{self.branch}", "")
        self._make(newest)
        if newest and self._held() != newest:
            self._receive_tip()
        self.tip = self._held() if newest else ""

    def tree(self) -> Tree:
        """What the newest commit holds."""
        if not self.tip:
            return Tree({})
        if self.tip not in self._trees:
            self._trees = {self.tip: self._read_tree()}
        return self._trees[self.tip]

    def sizes(self, oids: Iterable[str]) -> dict[str, int]:
        """The sizes of these blobs in bytes; those that are not here yet are fetched, many at once.

        An interruption loses only those that were on their way.
        """
        wanted = set(oids)
        if not wanted <= self._sizes.keys():
            self._count()
        missing = sorted(wanted - self._sizes.keys())
        for start in range(0, len(missing), _PER_FETCH):
            given = "".join(f"{oid}\n" for oid in missing[start : start + _PER_FETCH]).encode()
            # without any negotiation: the place would think that we hold the contents of every commit that we have
            settings = ("-c", "fetch.negotiationAlgorithm=noop")
            self._fetch(*settings, "fetch", *_NO_TAGS, self._filter, "--stdin", REMOTE, given=given)
        if missing:
            self._count()
        if missing := sorted(wanted - self._sizes.keys()):
            raise damaged(f"error: the place did not send {missing[0]}", self.git.address, self.path)
        return {oid: self._sizes[oid] for oid in wanted}

    def ready_for_git(self) -> None:
        """Have everything here that git, or git-lfs, reads on its own account while it works on the newest commit."""
        self.sizes(self.tree().read_by_git)

    def small_contents(self, oids: Iterable[str]) -> dict[str, bytes]:
        """The contents of those blobs that are small enough for a pointer; all are fetched if need be."""
        small = sorted(oid for oid, size in self.sizes(oids).items() if size <= MAX_SIZE)
        given = "".join(f"{oid}\n" for oid in small).encode()
        said = self.git.here("cat-file", "--batch", given=given) if small else b""
        contents, position = {}, 0
        for oid in small:
            start = said.index(b"\n", position) + 1
            contents[oid] = said[start : start + self._sizes[oid]]
            position = start + self._sizes[oid] + 1
        return contents

    def content(self, oid: str) -> bytes:
        """The whole content of one blob."""
        self.sizes([oid])
        return self.git.here("cat-file", "blob", oid)

    def store(self, paths: Iterable[Path]) -> list[str]:
        """Put files into the clone, byte for byte, and return the ids of their contents in the same order."""
        given = b"".join(os.fsencode(path.absolute()) + b"\n" for path in paths)
        if not given:
            return []
        return self.git.here("hash-object", "-w", "--no-filters", "--stdin-paths", given=given).decode().split()

    def push(self, commit: str) -> UnbrokenError | None:
        """Make `commit`, a child of the tip, the newest one there, never by force.

        Returns why that failed where another machine may have been faster: the next `refresh` tells.
        """
        words = ("push", "--porcelain", "--progress", "--no-verify", "--no-follow-tags", REMOTE)
        answer = self.git.transfer(*words, f"{commit}:refs/heads/{self.branch}")
        if answer.code == 0:
            self.tip = commit
            with contextlib.suppress(RemoteError):
                self.git.here("update-ref", _TIP, commit)
            return None
        if not _lost_the_race(answer):
            raise self._failure(answer)
        text = _said(answer)
        last = self.git.last_words(text)
        return self.git.refusal(text) or RemoteError(f"{self.git.address.shown} refuses the commit: {last}")

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for as long as the context is open."""
        self.git.folders.scratch.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.git.folders.scratch, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def _forget(self) -> None:
        self.tip = ""
        self._sizes.clear()
        self._trees.clear()

    def _references(self) -> dict[str, str]:
        """The commits of branches by full name; `HEAD` has the name of its branch, if it has one."""
        names = {"HEAD", "refs/heads/main", *([f"refs/heads/{self._chosen}"] if self._chosen else [])}
        said = self.git.ask("ls-remote", "--symref", REMOTE, *sorted(names)).decode("utf-8", "replace")
        there: dict[str, str] = {}
        for value, _, name in (line.partition("\t") for line in said.splitlines()):
            # HEAD comes twice: with the branch that it names, then with that branch's commit
            there[there.get(name, name)] = value.removeprefix("ref: ")
        return there

    @property
    def _chosen(self) -> str:
        return self.git.address.branch

    def _branch(self, there: dict[str, str]) -> str:
        # each attempt of one put goes to the same branch, whatever becomes the default one meanwhile
        if self._chosen or self.branch:
            return self._chosen or self.branch
        return _named(there.get("HEAD", "")) or ("main" if "refs/heads/main" in there else self._default_of_empty())

    def _default_of_empty(self) -> str:
        """The branch that clones of an empty repository are going to show; only a clone is told."""
        if self.git.address.holds_credentials:
            # git writes the address into the settings of what it clones
            return "main"
        with self.scratch() as folder:
            words = ("--bare", "--depth=1", "--single-branch", "--no-tags", "--template=", "--origin=empty")
            self.git.ask("clone", "--quiet", *words, self.git.address.location, str(folder / "empty"))
            head = (folder / "empty" / "HEAD").read_text(encoding="utf-8").strip()
        return _named(head.removeprefix("ref: ")) or "main"

    def _make(self, newest: str) -> None:
        if self.path.exists():
            return
        if newest:
            self._format = "sha1" if len(newest) == _SHA1_LENGTH else "sha256"
        with self.scratch() as folder:
            made = folder / "clone"
            words = ("init", "--quiet", "--bare", "--template=", "--initial-branch=tip")
            self.git.here(*words, f"--object-format={self._format}", str(made), folder=self.path.parent)
            LocalBackend(self.path.parent).replace(made.relative_to(self.path.parent).as_posix(), self.path.name)

    def _held(self) -> str:
        return self.git.here("for-each-ref", "--format=%(objectname)", _TIP).decode().strip()

    def _receive_tip(self) -> None:
        source = f"+refs/heads/{self.branch}:{_TIP}"
        self._fetch("fetch", *_NO_TAGS, "--depth=1", self._filter, REMOTE, source)
        with contextlib.suppress(RemoteError):
            self.git.here("gc", "--auto", "--quiet")

    def _fetch(self, *words: str, given: bytes = b"") -> None:
        answer = self.git.transfer(*words, given=given)
        if answer.code != 0:
            raise self._failure(answer)

    def _failure(self, answer: Answer) -> Exception:
        text = _said(answer)
        if _OTHER_FORMAT.search(text):
            # the place told nothing of it as long as it had no commit: the next clone has the other one
            held = self.git.here("rev-parse", "--show-object-format").decode().strip()
            self._format = "sha1" if held == "sha256" else "sha256"
            return damaged(text, self.git.address, self.path)
        if "unadvertised object" in text or "not our ref" in text:
            # the place leaves contents out and does not send them on request: the next clone has them all
            self._filter = "--no-filter"
        return self.git.refusal(text) or damaged(text, self.git.address, self.path)

    def _read_tree(self) -> Tree:
        said = self.git.here("ls-tree", "-r", "-z", "--full-tree", self.tip)
        entries = [_entry(line) for line in said.split(b"\0") if line]
        blobs = {path: oid for mode, oid, path in entries if mode in _FILES and is_object_name(path)}
        read_by_git = tuple(oid for _, oid, path in entries if path.rpartition("/")[2] in _READ_BY_GIT)
        return Tree(blobs, frozenset(path for _, _, path in entries), read_by_git)

    def _count(self) -> None:
        words = ("cat-file", "--batch-all-objects", "--unordered", "--batch-check=%(objectname) %(objectsize)")
        lines = (line.split() for line in self.git.here(*words).splitlines())
        self._sizes = {oid.decode(): int(size) for oid, size in lines}


def folders_of(path: str) -> list[str]:
    """The folders above `path`, from the top."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def is_object_name(path: str) -> bool:
    """Whether a path can be an object's: git's own files, `.gitattributes` and the like, are none."""
    try:
        return bool(checked_path(path)) and not any(part.lower().startswith(".git") for part in path.split("/"))
    except UsageError:
        return False


def _entry(line: bytes) -> tuple[str, str, str]:
    facts, _, path = line.partition(b"\t")
    mode, _, oid = facts.decode().split()
    return mode, oid, os.fsdecode(path)


def _named(reference: str) -> str:
    """The branch that a full name stands for; nothing for anything else, such as a commit."""
    return reference.removeprefix("refs/heads/") if reference.startswith("refs/heads/") else ""


def _said(answer: Answer) -> str:
    return answer.errors + answer.output.decode("utf-8", "replace")


def _lost_the_race(answer: Answer) -> bool:
    if "exists; cannot create" in answer.errors:
        return False
    refused = [line for line in answer.output.decode("utf-8", "replace").splitlines() if line.startswith("!")]
    return any("[rejected]" in line or any(words in line for words in _OVERTAKEN) for line in refused)


def _remove(folder: Path) -> None:
    if sys.platform == "win32":
        # git's objects are read-only, which keeps them from being removed there
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                path.chmod(stat.S_IWRITE)
    shutil.rmtree(folder, ignore_errors=True)
