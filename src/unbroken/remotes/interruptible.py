"""Blocking calls of libraries that hear no signal until they return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_PAUSE = 0.1  # s between two looks for a signal


def waited_for(call: Callable[[], T]) -> T:
    """What `call` returns or raises, from a thread of its own, so that the caller's thread hears Ctrl-C meanwhile.

    A call that was left goes on until its process ends; nothing that it does may need to be complete.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_PAUSE)
    if errors:
        raise errors[0]
    return results[0]
