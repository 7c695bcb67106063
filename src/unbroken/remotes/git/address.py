"""What the user types as the address of a git repository, and what may be shown of it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from unbroken.errors import UsageError
from unbroken.remotes.addresses import without_secrets

_PREFIX = re.compile(r"git(\+lfs)?:(?!//)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::?//|[A-Za-z][A-Za-z0-9+.-]+::")
# as git itself tells host:path from a path; one letter before the colon is a drive of Windows
_SSH_SHORT = re.compile(r"(?:[^/\\:@]+@)?(?:\[[^\]]+\]|[^/\\:@]{2,}):")
_USERINFO = re.compile(r"(?<=://)[^/\s]*@")
_BAD_BRANCH = re.compile(r"^[-/.]|\.\.|@\{|//|[\s~^:?*\[\\\x00-\x1f\x7f]|(?:\.lock|[/.])$|/\.|\.lock/")


@dataclass(frozen=True)
class Address:
    """Where a repository is: `location` is for git only and may hold a password, `shown` is for messages.

    `branch` is empty for the repository's default branch.
    """

    location: str = field(repr=False)
    shown: str
    branch: str
    is_local: bool
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def path(self) -> str:
        """The path of a local repository, as it is written in a command."""
        return shlex.quote(self.location.removeprefix("file://"))

    @property
    def on_another_branch(self) -> str:
        """What the user may type instead to have a branch that nobody works on."""
        return self.shown.partition("#")[0] + "#cache"

    @property
    def holds_credentials(self) -> bool:
        """Whether `location` may not be written anywhere."""
        return bool(_USERINFO.search(self.location))

    def scrubbed(self, text: str) -> str:
        """`text` without credentials."""
        text = _USERINFO.sub("", text)
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def parse_address(typed: str) -> Address:
    """Understand `git:PLACE#BRANCH` or `git+lfs:PLACE#BRANCH`; raises UsageError.

    PLACE is anything that git takes. A path may be relative to the current folder. `#BRANCH` may be left out.
    """
    match = _PREFIX.match(typed)
    prefix = match[0] if match else ""
    place = typed[len(prefix) :]
    is_url = bool(_SCHEME.match(place) or _SSH_SHORT.match(place))
    place, branch = _split(place, is_url)
    if not place:
        raise UsageError(f"{typed!r} names no repository: write git:PATH or git:URL, with #BRANCH if you like")
    if is_url and "@" in branch:
        raise UsageError(
            "the text after # in the address is not the name of a branch; a # in a password is written %23"
        )
    if _BAD_BRANCH.search(branch):
        raise UsageError(f"{branch!r} is not the name of a branch: the text after # in the address has to be one")
    shown = prefix + without_secrets(place) + (f"#{branch}" if branch else "")
    is_local = not is_url or place.startswith("file://")
    return Address(place if is_url else _absolute(place), shown, branch, is_local, _secrets(place) if is_url else ())


def _split(place: str, is_url: bool) -> tuple[str, str]:
    # a folder may have a # in its name
    if "#" not in place or (not is_url and Path(place).expanduser().exists()):
        return place, ""
    place, _, branch = place.rpartition("#")
    return place, branch


def _absolute(place: str) -> str:
    return Path(place).expanduser().absolute().as_posix()


def _secrets(place: str) -> tuple[str, ...]:
    match = _USERINFO.search(place)
    words = match[0][:-1].split(":", 1) if match else []
    # elsewhere than in web addresses the first word is a name, which paths have in them as well
    secret = words if place.startswith("http") else words[1:]
    forms = {form for word in secret for form in (word, unquote(word)) if len(form) > 3}
    return tuple(sorted(forms, key=len, reverse=True))
