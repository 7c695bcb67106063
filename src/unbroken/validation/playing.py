"""Episodes of all arms, one after another or in several processes over one cache."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from unbroken import logs
from unbroken.cache.result_cache import ResultCache
from unbroken.validation.comparing import PlayAll, Played, Player

_cache: ResultCache | None = None
_open = contextlib.ExitStack()


@contextlib.contextmanager
def playing(cache: ResultCache, jobs: int, log: Path) -> Iterator[PlayAll]:
    """What plays (arm, seed) pairs: in this process for one job, else in so many processes, whose lines go to `log` too."""
    if jobs == 1:
        with _one_thread():
            yield lambda pairs: [player.play(cache, seed) for player, seed in pairs]
        return
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawning, _begin, (cache.folder, cache.limit_bytes, log)) as pool:

        def play_all(pairs: list[tuple[Player, int]]) -> Iterable[Played]:
            return list(pool.map(_play, *zip(*pairs, strict=True)))

        yield play_all


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """As in the processes of several jobs: the number of threads changes the last bit of a network's answer."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _end_with_parent() -> None:
    """A killed parent sends nothing: its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _begin(folder: Path, limit_bytes: int | None, log: Path) -> None:
    """A worker's first lines: one thread each, so that processes do not fight for cores; signals are the parent's business."""
    import signal

    global _cache
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    _cache = ResultCache(folder, limit_bytes)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _open.enter_context(logs.logging_to(log, console=False))


def _play(player: Player, seed: int) -> Played:
    assert _cache is not None
    return player.play(_cache, seed)
