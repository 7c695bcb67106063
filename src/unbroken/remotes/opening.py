"""From what the user typed to a remote."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from unbroken.errors import UsageError
from unbroken.remotes.addresses import default_workspace, expanded, without_secrets
from unbroken.remotes.contract import TIMEOUT, Remote
from unbroken.remotes.object_store_errors import SERVICES

FORMS = {
    "folder": "folder:PATH",
    "git": "git:PATH-or-URL",
    "git+lfs": "git+lfs:PATH-or-URL",
    **{scheme: f"{scheme}://{service.form}" for scheme, service in SERVICES.items()},
    "kaggle-dataset": "kaggle-dataset:OWNER/SLUG",
}
"""How the address of each kind of remote is written, by what stands before its first colon."""
_NAMED = ("folder", "git", "git+lfs", "s3", "gs", "az", "kaggle-dataset")
_MEANT = {
    "file": "folder",
    "dir": "folder",
    "path": "folder",
    "lfs": "git+lfs",
    "gcs": "gs",
    "kaggle": "kaggle-dataset",
}
_WEB = ("http", "https", "ssh")


def open_remote(url: str, *, workspace: Path | None = None, timeout: float = TIMEOUT) -> Remote:
    """The remote at `url`; nothing is asked of it yet.

    `workspace` is where a remote that needs a copy on this machine keeps it (default: a folder of the user's cache that depends
    on the address); it is made when it is needed. `timeout` in s, without a byte or an answer. Raises UsageError for an address
    of no known form, MissingExtra where a package is missing, and RemoteRefused where the environment lacks credentials.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in FORMS:
        raise _unknown(url)
    if not rest.strip("/") and (scheme != "folder" or not rest):
        raise UsageError(f"{without_secrets(url)!r} names no place: write {FORMS[scheme]}")
    if scheme == "folder":
        return _folder(url, rest)
    if scheme in SERVICES:
        return _object_store(url, timeout)
    return _with_workspace(scheme)(url, workspace or default_workspace(_fixed(scheme, rest)), timeout)


def _folder(url: str, path: str) -> Remote:
    from unbroken.remotes.folder import FolderRemote

    return FolderRemote(url, expanded(path))


def _object_store(url: str, timeout: float) -> Remote:
    from unbroken.remotes.object_store import ObjectStoreRemote

    return ObjectStoreRemote(url, timeout=timeout)


def _with_workspace(scheme: str) -> Callable[[str, Path, float], Remote]:
    return {"git": _git, "git+lfs": _git_lfs, "kaggle-dataset": _kaggle}[scheme]


def _git(url: str, workspace: Path, timeout: float) -> Remote:
    from unbroken.remotes.git import GitRemote

    return GitRemote(url, workspace, lfs=False, timeout=timeout)


def _git_lfs(url: str, workspace: Path, timeout: float) -> Remote:
    from unbroken.remotes.git import GitRemote

    return GitRemote(url, workspace, lfs=True, timeout=timeout)


def _kaggle(url: str, workspace: Path, timeout: float) -> Remote:
    from unbroken.remotes.kaggle_dataset import KaggleDatasetRemote

    return KaggleDatasetRemote(url, workspace, timeout=timeout)


def _fixed(scheme: str, rest: str) -> str:
    """The address such that it means the same from every folder."""
    path = expanded(rest) if "://" not in rest else None
    return f"{scheme}:{path.resolve() if path is not None and path.exists() else rest}"


def _unknown(url: str) -> UsageError:
    shown, scheme = without_secrets(url), url.partition(":")[0]
    if _is_path(url):
        return UsageError(f"{shown!r} is a path: write folder:{shown}, or git:{shown} for a repository")
    if scheme in _WEB or (":" in url and "@" in scheme):
        return UsageError(
            f"{shown!r} does not say what is there: write git:{shown} or git+lfs:{shown} for a repository"
        )
    near = _MEANT.get(scheme.lower()) or next(
        iter(difflib.get_close_matches(scheme.lower(), FORMS, n=1, cutoff=0.5)), None
    )
    meant = f" Did you mean {FORMS[near]}?" if near else ""
    known = ", ".join(FORMS[name] for name in _NAMED)
    return UsageError(f"{shown!r} is no remote.{meant} There are {known}.")


def _is_path(url: str) -> bool:
    drive = url[1:2] == ":" and url[:1].isalpha() and url[2:3] in ("\\", "/")
    return drive or url.startswith((".", "/", "~", "\\")) or (bool(url) and Path(url).exists())
