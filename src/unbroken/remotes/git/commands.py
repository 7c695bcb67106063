"""git for one remote: commands in our clone, and commands that talk to the place."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from unbroken.errors import MissingExtra, RemoteError, UnbrokenError
from unbroken.remotes.git.address import Address
from unbroken.remotes.git.environment import Folders, git_environment
from unbroken.remotes.git.process import Answer, Place, StoodStill, run, stream
from unbroken.remotes.git.refusals import (
    GIT_WAY_OUT,
    CloneDamaged,
    damaged,
    last_words,
    lfs_refusal,
    refusal,
    silent,
    unreadable,
)
from unbroken.store.backend import Writer

_OLDEST = (2, 31)
# a transfer may pause while one side counts or packs
_STANDSTILL = 3
# s; a copy within this machine reports no progress, and hooks may take their time
_LOCAL_STANDSTILL = 3600.0


class Git:
    """Runs git; `timeout` in seconds. Used by one thread."""

    def __init__(self, address: Address, folders: Folders, timeout: float) -> None:
        self.address = address
        self.folders = folders
        self.timeout = timeout

    def here(self, *words: str, given: bytes = b"", index: Path | None = None, folder: Path | None = None) -> bytes:
        """The output of a command in our clone, or in another folder, with a private index if need be; raises CloneDamaged."""
        variables = self._variables | ({"GIT_INDEX_FILE": str(index)} if index else {})
        answer = self._run(words, Place(folder or self.folders.clone, variables), given)
        if answer.code != 0:
            raise damaged(answer.errors, self.address, self.folders.clone)
        return answer.output

    def pour(self, oid: str, writer: Writer) -> None:
        """Write the blob `oid` of our clone into `writer`."""
        if not self.folders.clone.is_dir() or not stream(["git", "cat-file", "blob", oid], self._clone, writer):
            raise CloneDamaged(
                f"the object {oid} cannot be read in {self.folders.clone}; remove that folder and try again"
            )

    def ask(self, *words: str) -> bytes:
        """The output of a short question to the place, outside of any repository; raises what it refuses with."""
        answer = self._watched(words, replace(self._clone, folder=self.folders.workspace), self.timeout)
        if answer.code != 0:
            raise self.refusal(answer.errors) or RemoteError(f"{self.address.shown}: {self.last_words(answer.errors)}")
        return answer.output

    def transfer(self, *words: str, given: bytes = b"") -> Answer:
        """What a command of our clone that moves objects says; only a standstill raises, RemoteUnreachable.

        A place on this machine may be silent for an hour.
        """
        quiet = max(self.timeout, _LOCAL_STANDSTILL) if self.address.is_local else self.timeout * _STANDSTILL
        return self._watched(words, self._clone, quiet, given)

    def refusal(self, said: str) -> UnbrokenError | None:
        """The error that a command's words stand for, if they are known."""
        return refusal(said, self.address, self.timeout)

    def lfs_refusal(self, said: str) -> UnbrokenError | None:
        """The same for words of git-lfs about a repository that has answered to git."""
        return lfs_refusal(said, self.address, self.timeout)

    def last_words(self, said: str) -> str:
        """The line of a command's words that tells most, without credentials."""
        return last_words(said, self.address)

    def _watched(self, words: tuple[str, ...], place: Place, quiet: float | None, given: bytes = b"") -> Answer:
        try:
            return self._run(words, place, given, quiet)
        except StoodStill:
            raise silent(self.address, quiet or 0.0) from None

    def _run(self, words: tuple[str, ...], place: Place, given: bytes, quiet: float | None = None) -> Answer:
        if not place.folder.is_dir():
            raise CloneDamaged(f"the folder {place.folder} has vanished: try again")
        return run(["git", *words], place, given, quiet)

    @property
    def _clone(self) -> Place:
        return Place(self.folders.clone, self._variables)

    @cached_property
    def _variables(self) -> dict[str, str]:
        self._check_installed()
        environment = git_environment(self.address, self.folders, self.timeout)
        self.address = self.address.knowing(environment.secrets)
        return environment.variables

    def _check_installed(self) -> None:
        if shutil.which("git") is None:
            raise MissingExtra(f"git is not installed, which {self.address.shown} needs: {GIT_WAY_OUT}")
        answer = run(["git", "version"], Place(self.folders.workspace, dict(os.environ)))
        if answer.code != 0:
            raise unreadable(answer.errors)
        found = re.search(rb"(\d+)\.(\d+)", answer.output)
        if not found or (int(found[1]), int(found[2])) < _OLDEST:
            raise MissingExtra(f"this git is too old for {self.address.shown}: {GIT_WAY_OUT}")
