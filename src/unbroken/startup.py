"""What makes a process start sooner."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused_collection() -> Iterator[None]:
    """Hold Python's cyclic garbage collector off while heavy packages are imported and a training is built.

    Importing torch makes some hundred thousand objects that all stay, and the collector walks through them again and again:
    near a quarter of the time until the first step. Afterwards it is as it was before. Not for several threads at once:
    the collector is the process's.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
