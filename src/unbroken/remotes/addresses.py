"""Addresses of remotes: shown without secrets, and where this machine keeps what belongs to one."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote

from unbroken.errors import UsageError

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
# bounded: what others say may be a line of a million letters
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://(?:(?![A-Za-z][A-Za-z0-9+.-]{0,30}://)[^\s'\"<>])+")
_END = re.compile(r"[/?#]")
# what is a host beyond doubt: the beginning of a password may look like a name
_HOST = re.compile(r"(?:localhost|\[[0-9A-Fa-f:.]+\]|[\w-]+(?:\.[\w-]+)+)(?::\d{1,5})?")
_PLACE = re.compile(r"[^:]*(?::\d*)?")
_QUERY = re.compile(r"[?#].*$", re.DOTALL)
# shorter ones are parts of ordinary words
_SHORTEST = 4


def without_secrets(url: str) -> str:
    """The address without what may be a password, a token or a signature: user parts, query and fragment.

    A bare name before `@` stays except in web addresses, where it is a token as often as not. Secrets often hold characters that
    they should not: all up to the last `@` goes, unless it is a path beyond doubt.
    """
    user = credentials(url)
    if re.search(r"[?#]", user):
        # the last @ may as well be one of the query
        return url.partition("://")[0] + "://***"
    shown = url.replace(f"://{user}@", "://", 1) if user else url
    return _QUERY.sub("", shown) if "://" in url else shown


def text_without_secrets(text: str) -> str:
    """What another program said, with its addresses as `without_secrets` shows them."""
    return _IN_TEXT.sub(lambda match: without_secrets(match[0]), text)


def credentials(url: str) -> str:
    """What stands before the host in the address and may be a secret; empty for a name alone that is not a web address's."""
    match = _URL.search(url)
    user, at, _ = match["rest"].rpartition("@") if match else ("", "", "")
    if not match or not at:
        return ""
    authority = _END.split(match["rest"], maxsplit=1)[0]
    name, at, host = authority.rpartition("@")
    if _HOST.fullmatch(authority):
        return ""
    if _is_web(match["scheme"]):
        return user
    is_name = ":" not in name and (_HOST.fullmatch(host) or _PLACE.fullmatch(host)) if at else ":" not in authority
    return "" if is_name else user


def secrets_in(url: str) -> tuple[str, ...]:
    """The words of the address that may be shown nowhere, the longest first, as they are written and as they are meant."""
    match, user = _URL.search(url), credentials(url)
    if not match:
        return ()
    words = user.split(":", 1)
    if not _is_web(match["scheme"]):
        # a name, which paths have in them as well
        del words[0]
    query = match["rest"].removeprefix(f"{user}@").partition("?")[2]
    words += [query, *(part.partition("=")[2] for part in query.split("&"))]
    forms = {form for word in words for form in (word, unquote(word), *_END.split(word))}
    return tuple(sorted((form for form in forms if len(form) >= _SHORTEST), key=len, reverse=True))


def expanded(path: str) -> Path:
    """The path with the home folder in the place of `~`; raises UsageError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = re.split(r"[/\\]", path, maxsplit=1)[0]
        raise UsageError(f"{user} is no home folder of this machine: write the whole path, or ./{path}") from None


def default_workspace(url: str) -> Path:
    """The folder of this user's cache for what a remote needs on this machine; the same for the same address. Not made."""
    digest = hashlib.sha256(without_secrets(url).encode("utf-8", "surrogateescape")).hexdigest()
    return _caches() / "unbroken" / "remotes" / digest[:16]


def _is_web(scheme: str) -> bool:
    return scheme.lower().endswith(("http", "https"))


def _caches() -> Path:
    home = Path("~").expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    if sys.platform == "darwin":
        return home / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
