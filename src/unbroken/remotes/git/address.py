"""What the user types as the address of a git repository, and what may be shown of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from unbroken.errors import UsageError
from unbroken.remotes.addresses import expanded, secrets_in, text_without_secrets, without_secrets

_PREFIX = re.compile(r"git(\+lfs)?:(?!//)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::?//|[A-Za-z][A-Za-z0-9+.-]+::")
# as git itself tells host:path from a path; one letter before the colon is a drive of Windows
_SSH_SHORT = re.compile(r"(?:[^/\\:@]+@)?(?:\[[^\]]+\]|[^/\\:@]{2,}):")
_AUTHORITY = re.compile(r"://([^/?#]*)(.*)", re.DOTALL)
_HOST = re.compile(r"(?:[^@]*@)*(?:\[[^\]]*\]|[^:\[\]@]*)(?::\d*)?")
# as git-lfs prints a URL by mistake
_STRUCTURE = re.compile(r"Userinfo=&\{.*?(?: (?:true|false)\}|$)", re.MULTILINE)
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
        return without_secrets(self.location) != self.location

    def knowing(self, secrets: Iterable[str]) -> Address:
        """The same address with more words that `scrubbed` removes."""
        return replace(self, secrets=tuple(sorted({*self.secrets, *secrets}, key=len, reverse=True)))

    def scrubbed(self, text: str) -> str:
        """`text` without credentials."""
        text = _STRUCTURE.sub("Userinfo=***", text)
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text_without_secrets(text)


def parse_address(typed: str) -> Address:
    """Understand `git:PLACE#BRANCH` or `git+lfs:PLACE#BRANCH`; raises UsageError.

    PLACE is anything that git takes. A path may be relative to the current folder. `#BRANCH` may be left out.
    """
    match = _PREFIX.match(typed)
    prefix = match[0] if match else ""
    place = typed[len(prefix) :]
    is_url = bool(_SCHEME.match(place) or _SSH_SHORT.match(place))
    if is_url and _is_cut_short(place):
        raise UsageError("a / in the user or password of an address is written %2F, a ? %3F and a # %23")
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
    return Address(place if is_url else _absolute(place), shown, branch, is_local, secrets_in(place) if is_url else ())


def _split(place: str, is_url: bool) -> tuple[str, str]:
    # a folder may have a # in its name
    if "#" not in place or (not is_url and expanded(place).exists()):
        return place, ""
    place, _, branch = place.rpartition("#")
    return place, branch


def _absolute(place: str) -> str:
    return expanded(place).absolute().as_posix()


def _is_cut_short(url: str) -> bool:
    """Whether the host ends where no host can, with a later `@`."""
    match = _AUTHORITY.search(url)
    return match is not None and "@" in match[2] and not _HOST.fullmatch(match[1])
