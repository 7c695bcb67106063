"""A commit on top of the branch's newest one, made in a private index: there is no work tree and nothing to check out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from unbroken.errors import RemoteError
from unbroken.remotes.git import attributes
from unbroken.remotes.git.attributes import Rule, top_folder
from unbroken.remotes.git.clone import Clone


class NewCommit:
    """The files of the clone's tip and those that are added. `index` is a file that does not exist yet."""

    def __init__(self, clone: Clone, index: Path) -> None:
        self._clone = clone
        self._index = index
        clone.ready_for_git()
        self._read_tip()

    def add(self, blobs: Mapping[str, str]) -> None:
        """Put blobs of the clone, given by their ids, under these names."""
        given = b"".join(f"100644 {oid}\t".encode() + os.fsencode(name) + b"\0" for name, oid in blobs.items())
        self._here("update-index", "-z", "--index-info", given=given)

    def rules(self, names: Iterable[str]) -> dict[str, Rule]:
        """What the repository's own `.gitattributes`, as they are in this commit, say of these names."""
        found: dict[str, dict[str, str]] = {name: {} for name in names}
        given = b"".join(os.fsencode(name) + b"\0" for name in found)
        said = self._here("check-attr", "--cached", "-z", "--stdin", "filter", "text", given=given)
        words = [os.fsdecode(word) for word in said.split(b"\0")]
        for name, attribute, value in zip(words[::3], words[1::3], words[2::3], strict=False):
            found[name][attribute] = value
        return {name: Rule(**values) for name, values in found.items()}

    def ensure_rules(self, names: Iterable[str], lfs: bool, scratch: Path) -> dict[str, Rule]:
        """Append to `.gitattributes` what is missing there for these names, and return what then holds.

        Before anything is added. Rules in a folder further down have the last word; nothing is appended that they overrule.
        """
        rules = self.rules(names)
        lacking = [name for name, rule in rules.items() if not rule.suffices(lfs)]
        if not lacking:
            return rules
        self._append_lines(lacking, lfs, scratch)
        ruled = self.rules(rules)
        helped = [name for name in lacking if ruled[name].suffices(lfs)]
        if len(helped) == len(lacking):
            return ruled
        self._read_tip()
        if helped:
            self._append_lines(helped, lfs, scratch)
        return self.rules(rules)

    def _append_lines(self, lacking: list[str], lfs: bool, scratch: Path) -> None:
        lines = attributes.lines_for(lacking, self._shared(map(top_folder, lacking), lfs), lfs)
        file = scratch / "attributes"
        file.write_bytes(attributes.appended(self._attributes(), lines))
        self.add({attributes.NAME: self._clone.store([file])[0]})

    def finish(self, message: str) -> str:
        """Make the commit and return its id; nothing points to it yet."""
        tree = self._here("write-tree", "--missing-ok").decode().strip()
        parent = ["-p", self._clone.tip] if self._clone.tip else []
        return self._here("commit-tree", "--no-gpg-sign", *parent, "-m", message, tree).decode().strip()

    def _read_tip(self) -> None:
        self._here("read-tree", self._clone.tip or "--empty")

    def _shared(self, folders: Iterable[str], lfs: bool) -> set[str]:
        """Those of the folders at the top that hold files for which other rules are in force."""
        tops = set(folders) - {""}
        there = [path for path in self._clone.tree().paths if top_folder(path) in tops]
        return {top_folder(path) for path, rule in self.rules(there).items() if not rule.suffices(lfs)}

    def _attributes(self) -> bytes:
        said = self._here("ls-files", "--stage", "-z", "--", attributes.NAME)
        if not said:
            return b""
        mode, oid, _ = said.decode().split(None, 2)
        if not mode.startswith("100"):
            raise RemoteError(
                f"{attributes.NAME} at {self._clone.git.address.shown} is not an ordinary file: make it one"
            )
        return self._clone.content(oid)

    def _here(self, *words: str, given: bytes = b"") -> bytes:
        return self._clone.git.here(*words, given=given, index=self._index)
