"""Log lines of syncs, each beginning with `[SYNC]`."""

from __future__ import annotations

import logging

from unbroken import logs


def say(message: str, level: int = logging.INFO) -> None:
    """Log a line."""
    logs.LOGGER.log(level, "[SYNC] %s", message)


def warn(message: str) -> None:
    """Log a line that needs the user's attention."""
    say(f"WARNING: {message}", logging.WARNING)


def objects(count: int, size: int) -> str:
    """`3 objects (1.2 MB)`."""
    return f"{count} {'object' if count == 1 else 'objects'} ({logs.human_size(size)})"
