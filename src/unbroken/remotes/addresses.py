"""Addresses of remotes: shown without secrets, and where this machine keeps what belongs to one."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

_USER = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<user>[^/@?#]*(?:@[^/@?#]*)*)@")
_QUERY = re.compile(r"[?#].*$", re.DOTALL)


def without_secrets(url: str) -> str:
    """The address without what may be a password, a token or a signature: user parts, query and fragment.

    A bare name before `@` stays except in web addresses, where it is a token as often as not.
    """
    if "://" not in url:
        return url
    return _USER.sub(_shown, _QUERY.sub("", url))


def default_workspace(url: str) -> Path:
    """The folder of this user's cache for what a remote needs on this machine; the same for the same address. Not made."""
    digest = hashlib.sha256(without_secrets(url).encode("utf-8", "surrogateescape")).hexdigest()
    return _caches() / "unbroken" / "remotes" / digest[:16]


def _shown(match: re.Match[str]) -> str:
    scheme, user = match["scheme"], match["user"]
    is_secret = ":" in user or scheme.lower().endswith(("http", "https"))
    return f"{scheme}://" if is_secret else f"{scheme}://{user}@"


def _caches() -> Path:
    home = Path("~").expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    if sys.platform == "darwin":
        return home / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
