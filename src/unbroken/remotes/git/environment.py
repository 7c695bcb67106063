"""The environment that git runs in: it never asks, and the user's settings decide on access only.

Proxies, certificates, credential helpers and rewritten addresses stay the user's. Hooks, signatures, newline conversion and
whatever else would change what is written or read are switched off for our commands alone, through variables: nothing is
written into any file of the user's, and no password into any file at all.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from unbroken.remotes.addresses import secrets_in
from unbroken.remotes.git.address import Address
from unbroken.remotes.git.refusals import unreadable

REMOTE = "unbroken"

_KEPT = (
    "GIT_SSH",
    "GIT_SSL",
    "GIT_PROXY",
    "GIT_HTTP",
    "GIT_ASKPASS",
    "GIT_CONFIG_",
    "GIT_EXEC_PATH",
    "GIT_AUTHOR_",
    "GIT_COMMITTER_",
    "GIT_ALLOW_PROTOCOL",
)
_SETTINGS = {
    "advice.pushUpdateRejected": "true",
    "color.ui": "false",
    "commit.gpgSign": "false",
    "core.attributesFile": os.devnull,
    "core.autocrlf": "false",
    # larger files are streamed and never compared with each other: memory stays small beside a training
    "core.bigFileThreshold": "8m",
    "core.fsmonitor": "false",
    "core.logAllRefUpdates": "false",
    "core.safecrlf": "false",
    "credential.interactive": "false",
    "fetch.prune": "false",
    "fetch.pruneTags": "false",
    "fetch.recurseSubmodules": "false",
    "fetch.writeCommitGraph": "false",
    "gc.autoDetach": "false",
    "http.lowSpeedLimit": "1",
    "i18n.commitEncoding": "utf-8",
    "init.defaultBranch": "main",
    "lfs.allowincompletepush": "false",
    "lfs.fetchrecentalways": "false",
    "lfs.locksverify": "false",
    "lfs.skipdownloaderrors": "false",
    "lfs.transfer.maxretries": "1",
    "maintenance.auto": "false",
    "push.followTags": "false",
    "push.gpgSign": "false",
    "push.negotiate": "false",
    "push.pushOption": "",
    "push.recurseSubmodules": "no",
    "safe.bareRepository": "all",
}
_PER_TIMEOUT = ("http.lowSpeedTime", "lfs.dialtimeout", "lfs.tlstimeout", "lfs.activitytimeout")


@dataclass(frozen=True)
class Folders:
    """Where a remote works on this machine, below `workspace`, which is ours alone."""

    workspace: Path

    @property
    def clone(self) -> Path:
        """The bare clone."""
        return self.workspace / "clone"

    @property
    def scratch(self) -> Path:
        """Files of the operation that is going on."""
        return self.workspace / "tmp"

    @property
    def lock(self) -> Path:
        """Held by the process that is working here."""
        return self.workspace / "lock"


@dataclass(frozen=True)
class Environment:
    """The variables for every git command of a remote, and the secrets in the user's settings, which git may repeat."""

    variables: dict[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


def git_environment(address: Address, folders: Folders, timeout: float) -> Environment:
    """What git runs in; `timeout` in seconds. Reads the user's settings; raises UsageError where git cannot read them."""
    base = _cleaned(dict(os.environ))
    base["GIT_CEILING_DIRECTORIES"] = os.pathsep.join((str(folders.workspace), str(folders.workspace.parent)))
    user = _user_settings(base, folders.workspace)
    base.update(_never_ask(base, user, timeout))
    base.update(_identity(base, user))
    ours = dict(_SETTINGS)
    ours |= dict.fromkeys(_PER_TIMEOUT, str(max(1, round(timeout))))
    ours |= {f"remote.{REMOTE}.url": address.location, "safe.directory": str(folders.clone)}
    ours["core.hooksPath"] = str(folders.workspace / "no-hooks")
    if "lfs.storage" in user:
        # a store that is shared by clones would be taken for the remote's own, too
        ours["lfs.storage"] = "lfs"
    variables = base | _as_variables(ours, int(base.get("GIT_CONFIG_COUNT") or 0))
    # the address that another one is rewritten to is a part of the key
    return Environment(
        variables, tuple(word for setting in user.items() for text in setting for word in secrets_in(text))
    )


def _cleaned(variables: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in variables.items() if not name.startswith("GIT_") or name.startswith(_KEPT)}
    kept.pop("LANGUAGE", None)
    # GIT_LFS_FORCE_PROGRESS: a transfer that says nothing would count as standing still
    return kept | {"LC_ALL": "C", "GIT_LFS_FORCE_PROGRESS": "1", "GIT_NO_LAZY_FETCH": "1", "GIT_ATTR_NOSYSTEM": "1"}


def _user_settings(variables: dict[str, str], folder: Path) -> dict[str, str]:
    answer = subprocess.run(
        ["git", "config", "--list", "-z"], cwd=folder, env=variables, stdin=subprocess.DEVNULL, capture_output=True
    )
    if answer.returncode:
        raise unreadable(answer.stderr.decode("utf-8", "replace"))
    lines = (line.partition("\n") for line in answer.stdout.decode("utf-8", "replace").split("\0"))
    return {key: value for key, _, value in lines if key}


def _never_ask(variables: dict[str, str], user: dict[str, str], timeout: float) -> dict[str, str]:
    silent = {"GIT_TERMINAL_PROMPT": "0", "GCM_INTERACTIVE": "never", "SSH_ASKPASS_REQUIRE": "never"}
    silent["GIT_ASKPASS"] = variables.get("GIT_ASKPASS", "")
    ssh = variables.get("GIT_SSH_COMMAND") or user.get("core.sshcommand") or "ssh"
    if "GIT_SSH" not in variables and "plink" not in ssh.lower():
        silent["GIT_SSH_COMMAND"] = f"{ssh} -o BatchMode=yes -o ConnectTimeout={max(1, round(timeout))}"
    return silent


def _identity(variables: dict[str, str], user: dict[str, str]) -> dict[str, str]:
    found = {}
    for role in ("AUTHOR", "COMMITTER"):
        for part, default in (("NAME", "unbroken"), ("EMAIL", "unbroken@localhost")):
            keys = (f"{role.lower()}.{part.lower()}", f"user.{part.lower()}")
            name = f"GIT_{role}_{part}"
            found[name] = variables.get(name) or next((user[key] for key in keys if user.get(key)), default)
    return found


def _as_variables(settings: dict[str, str], start: int) -> dict[str, str]:
    variables = {"GIT_CONFIG_COUNT": str(start + len(settings))}
    for number, (key, value) in enumerate(settings.items(), start):
        variables |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return variables
