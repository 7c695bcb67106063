"""What `unbroken sync` does: from words to a sync, with its lines on the console and in the run."""

from __future__ import annotations

import os
from pathlib import Path

from unbroken import logs
from unbroken.config import check_name, seconds
from unbroken.errors import UsageError
from unbroken.folder import RunFolder
from unbroken.remotes.opening import open_remote
from unbroken.syncing.following import StopSwitch, follow
from unbroken.syncing.syncing import Pair, sync

_LOG = "logs/sync.log"


def run_sync(runs_dir: Path, run: str, url: str, name: str | None = None, every: str | None = None) -> int:
    """Sync a run with the remote at `url`, where it is called `name` (default: the same); with `every`, such as "30s", follow it.

    Returns the exit code. Raises what `sync` and `follow` do, and UsageError or RemoteRefused for the remote's address.
    """
    pair = Pair(RunFolder(runs_dir, run), open_remote(url), check_name(name or run))
    interval = None if every is None else seconds(every)
    if interval is not None and interval <= 0:
        raise UsageError(f"--every {every}: give a time above 0, such as 30s")
    # a run that is not here yet has no place for a log
    log = pair.folder.path / _LOG if pair.folder.path.is_dir() else Path(os.devnull)
    with logs.logging_to(log):
        if interval is None:
            sync(pair)
            return 0
        stop = StopSwitch()
        with stop.listening():
            return follow(pair, interval, stop)
