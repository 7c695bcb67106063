"""What `unbroken sync` does: from words to a sync, with its lines on the console and in the run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from unbroken import logs
from unbroken.config import check_name, seconds
from unbroken.errors import UsageError
from unbroken.folder import RunFolder
from unbroken.remotes.opening import open_remote
from unbroken.syncing.following import StopSwitch, follow
from unbroken.syncing.local import LOG
from unbroken.syncing.syncing import Pair, sync

_EVERY = "30s"


@dataclass(frozen=True)
class Words:
    """What the user said: the run, the remote's address, the run's name there (default: the same), and how to follow it."""

    run: str
    url: str
    name: str | None = None
    follow: bool = False
    every: str | None = None


def run_sync(runs_dir: Path, words: Words) -> int:
    """Sync a run with a remote, or follow it, looking for something new every 30 s unless the words say otherwise.

    Returns the exit code. Raises what `sync` and `follow` do, and UsageError or RemoteRefused for the remote's address.
    """
    interval = _interval(words)
    name = words.run if words.name is None else words.name
    pair = Pair(RunFolder(runs_dir, words.run), open_remote(words.url), check_name(name, "name given with --as"))
    # a run that is not here yet has no place for a log
    log = pair.folder.path / LOG if pair.folder.path.is_dir() else Path(os.devnull)
    with logs.logging_to(log):
        if interval is None:
            sync(pair)
            return 0
        stop = StopSwitch()
        with stop.listening():
            return follow(pair, interval, stop)


def _interval(words: Words) -> float | None:
    """Seconds between two looks, None without --follow."""
    if not words.follow:
        if words.every is not None:
            raise UsageError(f"--every {words.every} says how often --follow looks for something new: add --follow")
        return None
    interval = seconds(_EVERY if words.every is None else words.every)
    if interval <= 0:
        raise UsageError(f"--every {words.every}: give a time above 0, such as 30s")
    return interval
