"""Who the user is at Kaggle: found where the client looks, without importing the part of it that asks the network or exits."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from unbroken.errors import MissingExtra

WAY_OUT = (
    "set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY, or put kaggle.json into ~/.kaggle (kaggle.com/settings)"
)


@dataclass(frozen=True)
class Credentials:
    """A token, or a user name with a key; `user` may be unknown. The secrets are not part of the text form."""

    user: str = ""
    key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.token or (self.user and self.key))

    def hidden_in(self, text: str) -> str:
        """The text with the secrets blotted out."""
        for secret in (self.token, self.key):
            text = text.replace(secret, "***") if secret else text
        return text


def sdk(module: str) -> Any:
    """A module of Kaggle's client library, which does nothing at import; MissingExtra where it is not installed."""
    try:
        return import_module(f"kagglesdk.{module}")
    except ImportError as error:
        message = "Kaggle datasets need the package kaggle: pip install 'unbroken[kaggle]'"
        raise MissingExtra(message) from error


def find_credentials() -> Credentials:
    """The credentials of this machine, in the client's order: a token, a user name with a key, a login. Empty if there are none."""
    token = _token()
    if token:
        return Credentials(token=token)
    stored = _stored()
    user = os.environ.get("KAGGLE_USERNAME") or str(stored.get("username", ""))
    key = os.environ.get("KAGGLE_KEY") or str(stored.get("key", ""))
    return Credentials(user, key) if user and key else Credentials()


def login(client: Any) -> Credentials:
    """What `kaggle auth login` has left, renewed over `client` if it has run out; errors as any call of the client."""
    found = sdk("kaggle_creds").KaggleCredentials.load(client=client)
    token = found.get_access_token() if found else None
    return Credentials(user=str(found.get_username() or ""), token=token) if token else Credentials()


def _token() -> str:
    try:
        token, _ = sdk("kaggle_env").get_access_token_from_env()
    except OSError:
        # the client asks whether a file has this name, which may be too long for one
        token = os.environ.get("KAGGLE_API_TOKEN", "")
    return str(token or "")


def _stored() -> dict[str, Any]:
    for folder in _folders():
        try:
            content = json.loads((folder / "kaggle.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            return content
    return {}


def _folders() -> list[Path]:
    home = Path("~").expanduser()
    folders = [home / ".kaggle"]
    if sys.platform.startswith("linux"):
        folders.append(Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle")
    return [Path(os.environ["KAGGLE_CONFIG_DIR"])] if os.environ.get("KAGGLE_CONFIG_DIR") else folders
