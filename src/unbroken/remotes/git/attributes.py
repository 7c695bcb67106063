"""The lines of `.gitattributes` that keep git from converting newlines in objects, or put them into LFS.

What the repository says already is left alone and obeyed; lines are only ever appended, and only where its own rules lack them.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass

NAME = ".gitattributes"

_PLAIN = "-text"
_LFS = "filter=lfs diff=lfs merge=lfs -text"


@dataclass(frozen=True)
class Rule:
    """What a repository says of one path: the values of its attributes `filter` and `text`."""

    filter: str = "unspecified"
    text: str = "unspecified"

    @property
    def is_lfs(self) -> bool:
        """Whether git hands the file to git-lfs."""
        return self.filter == "lfs"

    def suffices(self, lfs: bool) -> bool:
        """Whether bytes stay as they are, and LFS holds them if it is wanted."""
        return self.is_lfs if lfs else self.is_lfs or self.text == "unset"


def top_folder(name: str) -> str:
    """The first folder of a name; nothing for a name outside of folders."""
    folder, slash, _ = name.partition("/")
    return folder if slash else ""


def lines_for(names: Iterable[str], shared: Container[str], lfs: bool) -> list[str]:
    """The lines to append for these objects: one for each folder at the top that is theirs alone, otherwise one for each object.

    `shared` are the folders where other files would change their meaning.
    """
    tops = ((name, top_folder(name)) for name in names)
    patterns = [f"{_literal(top)}/**" if top and top not in shared else _literal(name) for name, top in tops]
    return [f"{_quoted(pattern)} {_LFS if lfs else _PLAIN}" for pattern in dict.fromkeys(patterns)]


def appended(content: bytes, lines: Iterable[str]) -> bytes:
    """`content` and then the lines."""
    gap = b"" if not content or content.endswith(b"\n") else b"\n"
    return content + gap + "".join(f"{line}\n" for line in lines).encode()


def _literal(path: str) -> str:
    return "/" + re.sub(r"([\\*?\[\]])", r"\\\1", path)


def _quoted(pattern: str) -> str:
    if not re.search(r'[\s"]', pattern):
        return pattern
    escapes = (("\\", "\\\\"), ('"', '\\"'), ("\t", "\\t"), ("\n", "\\n"))
    for character, escape in escapes:
        pattern = pattern.replace(character, escape)
    return f'"{pattern}"'
