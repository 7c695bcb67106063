"""What git, git-lfs, ssh and servers say when something fails, as errors with one line and the way out."""

from __future__ import annotations

import re
from pathlib import Path

from unbroken.errors import RemoteError, RemoteRefused, RemoteUnreachable, UnbrokenError, UsageError
from unbroken.remotes.addresses import text_without_secrets
from unbroken.remotes.git.address import Address

LFS_WAY_OUT = "install it (apt install git-lfs, brew install git-lfs or https://git-lfs.com)"
GIT_WAY_OUT = "install it, 2.31 or newer (apt install git, brew install git or https://git-scm.com)"

_LONGEST = 240
_SPEAKER = re.compile(r"^(?:fatal|error|ERROR|remote|ssh|batch response|LFS): +(?=\S)")
_IDLE = re.compile(
    r"^(?:Could not read from remote repository|failed to (?:push some refs|fetch some objects)|.*\d% \(|fetch: "
    r"|warning: |hint: |Please make sure|and the repository exists|the remote end hung up)"
)

_TIMED_OUT = re.compile(r"i/o timeout|Operation too slow|timed out|context deadline exceeded|TLS handshake timeout")
_UNREACHABLE = re.compile(
    r"Could not resolve (?:host|proxy)|Temporary failure in name|no such host|No route to host|Network is unreachable"
    r"|Failed to connect|Couldn't connect|unable to connect|connect: connection|Connection (?:refused|reset)"
    r"|early EOF|unexpected disconnect|remote end hung up|Broken pipe|Empty reply|transfer closed"
    r"|kex_exchange_identification"
)
_CREDENTIALS = re.compile(
    r"could not read (?:Username|Password)|terminal prompts disabled|Authentication failed|Permission denied"
    r"|returned error: 40[13]|Authorization error|authentication required|Git credentials for .* not found"
    r"|Access denied|Invalid username or (?:password|token)|Permission to .* denied|could not be authenticated"
    r"|insufficient permission"
)
_TOO_LARGE = re.compile(
    r"GH001|Large files detected|exceeds GitHub's file size limit|exceeds? the \S+ ?limit|file size limit"
    r"|larger than the maximum"
)
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|not enough space")
_NOT_FOUND = re.compile(r"[Rr]epository .*not found|Repository or object not found|returned error: 404", re.DOTALL)


_LFS_OUT_OF_ORDER = re.compile(r"(?:Fatal error: Server error.*)?from HTTP (5\d\d)|Fatal error: Server error")
_LFS_MISSING = re.compile(r"Repository or object not found: \S*/objects/batch")
_NO_NAME = re.compile(r"consists only of disallowed characters|empty ident name")


class CloneDamaged(RemoteError):
    """Something fails that may be the fault of our own clone, which can be made again."""


def silent(address: Address, seconds: float) -> RemoteUnreachable:
    """Nothing has come for `seconds`."""
    check = "its hooks" if address.is_local else "the address and the network"
    return RemoteUnreachable(f"nothing answers at {address.shown} within {seconds:g} s: check {check}")


def refusal(text: str, address: Address, seconds: float) -> UnbrokenError | None:
    """The error that `text`, what a command has said, stands for; None if it means nothing to us.

    `seconds` is how long a connection may be silent.
    """
    text = address.scrubbed(text)
    causes = (_of_the_place, _of_content, _of_access, _of_the_branch, _of_a_rule_there)
    found = next((error for cause in causes if (error := cause(text, address))), None)
    return found or (silent(address, seconds) if _TIMED_OUT.search(text) else _of_the_network(text, address))


def unreadable(text: str) -> UsageError:
    """Git does nothing at all, because of the user's own settings."""
    said = "; ".join(line.strip() for line in text_without_secrets(text).splitlines() if line.strip())
    return UsageError(_short(f"git cannot read its settings: {said}"))


def lfs_refusal(text: str, address: Address, seconds: float) -> UnbrokenError | None:
    """As `refusal`, for what git-lfs says of a repository that git itself has found."""
    shown = address.shown
    if match := _LFS_OUT_OF_ORDER.search(text):
        status = match[1] or "500"
        return RemoteError(f"the LFS service of {shown} answers with {status}: run the same command again later")
    if _LFS_MISSING.search(text):
        instead = shown.replace("git+lfs:", "git:", 1)
        other = f", or use {instead} for new objects, which needs none" if instead != shown else ""
        return RemoteRefused(
            f"the repository at {shown} has no LFS service, or does not show it to the credentials that git has:"
            f" turn it on there{other}"
        )
    return refusal(text, address, seconds)


def damaged(text: str, address: Address, clone: Path) -> UnbrokenError:
    """The error for a failure of our own clone: CloneDamaged, unless a new one would not help."""
    if _NO_NAME.search(text):
        return UsageError(f"git takes no such author of commits ({last_words(text, address)}): set user.name in git")
    if _NO_SPACE.search(text):
        return RemoteError(f"no space left for the clone {clone}")
    return CloneDamaged(f"{address.shown}: {last_words(text, address)}; if it stays so, remove {clone}")


def last_words(text: str, address: Address) -> str:
    """What `text` says that tells most, without credentials."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", address.scrubbed(text)) if line.strip()]
    said = [(_SPEAKER.match(line), _SPEAKER.sub("", line)) for line in lines]
    telling = [line for speaker, line in said if speaker and not _IDLE.match(line)]
    others = [line for _, line in said if not _IDLE.match(line)]
    return _short((telling or others or lines or ["it ended without a word"])[0])


def _of_the_place(text: str, address: Address) -> UnbrokenError | None:
    shown = address.shown
    if "dubious ownership" in text:
        return RemoteRefused(
            f"git does not trust {shown}, which belongs to another user: allow it with"
            f" `git config --global --add safe.directory {address.path}`"
        )
    if "does not appear to be a git repository" in text:
        if address.is_local:
            return UsageError(f"there is no git repository at {shown}: make one with `git init --bare {address.path}`")
        return RemoteRefused(f"there is no git repository at {shown}, or this user may not see it: check the address")
    if match := re.search(r"remote-(\S+)' is not a git command|transport '(\S+)' not allowed", text):
        return UsageError(f"git has no way to {shown}: it knows no {match[1] or match[2]} addresses")
    return None


def _of_access(text: str, address: Address) -> UnbrokenError | None:
    shown = address.shown
    if "Host key verification failed" in text:
        return RemoteRefused(f"ssh does not know the host of {shown} yet: connect once by hand to accept its key")
    if _CREDENTIALS.search(text) and address.is_local:
        return RemoteRefused(f"this user lacks rights at {shown}: {last_words(text, address)}")
    if _CREDENTIALS.search(text):
        return RemoteRefused(
            f"{shown} wants other credentials or forbids this: give them to git (a credential helper, a key in ssh-agent),"
            f" try `git ls-remote` by hand, then run this again ({last_words(text, address)})"
        )
    if _NOT_FOUND.search(text):
        return RemoteRefused(f"there is no repository at {shown}, or the credentials that git has do not show it")
    return None


def _of_the_branch(text: str, address: Address) -> UnbrokenError | None:
    shown = address.shown
    if match := re.search(
        r"^remote:.* 'refs/heads/(\S+)' exists; cannot create 'refs/heads/(\S+)'", text, re.MULTILINE
    ):
        return RemoteRefused(
            f"{shown} cannot have a branch {match[2]} beside its branch {match[1]}, whose name is a part of the other:"
            " choose another name"
        )
    if match := re.search(r"^remote:.* Unable to create '(.*\.lock)': File exists", text, re.MULTILINE):
        lock = match[1].replace("/./", "/")
        return RemoteError(
            f"{shown} keeps the branch locked: if no git command is at work there, remove the file {lock} there"
        )
    return None


def _of_a_rule_there(text: str, address: Address) -> UnbrokenError | None:
    reason = re.search(r"\[remote rejected\] \((?P<reason>.*)\)$", text, re.MULTILINE)
    if reason is None:
        return None
    says = re.findall(r"^remote:\s*(?:error:\s*)?(.*\S)\s*$", text, re.MULTILINE)
    return RemoteRefused(_short(f"{address.shown} refuses the commit: {'; '.join((reason['reason'], *says))}"))


def _of_the_network(text: str, address: Address) -> UnbrokenError | None:
    if match := re.search(r"returned error: (5\d\d)", text):
        return RemoteError(f"{address.shown} answers with {match[1]}: run the same command again later")
    if not _UNREACHABLE.search(text):
        return None
    return RemoteUnreachable(
        f"{address.shown} does not answer: {last_words(text, address)}; check the address and the network"
    )


def _of_content(text: str, address: Address) -> UnbrokenError | None:
    shown = address.shown
    if "refusing to update checked out branch" in text or "branch is currently checked out" in text:
        return RemoteRefused(
            f"the branch is checked out at {shown}, and git does not change it under its user: use a bare repository"
            f" (`git init --bare`) or another branch ({address.on_another_branch})"
        )
    if _TOO_LARGE.search(text):
        instead = shown.replace("git:", "git+lfs:", 1)
        way = "" if shown.startswith("git+lfs:") else f": use {instead}, which keeps them in Git LFS"
        return RemoteRefused(f"{shown} refuses files of this size{way}")
    if re.search(r"[Pp]rotected branch", text):
        return RemoteRefused(f"the branch is protected at {shown}: use another one ({address.on_another_branch})")
    if _NO_SPACE.search(text):
        return RemoteError(f"no space left, here or at {shown}: {last_words(text, address)}")
    return None


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
