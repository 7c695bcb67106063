"""Log lines: one logger, a console and a file in the run; what concerns checkpoints begins with `[CHECKPOINT]`.

A console that is not UTF-8 gets escapes instead of an exception, and a log file that cannot be written costs lines, not the
training.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from unbroken.errors import UnbrokenError

LOGGER = logging.getLogger("unbroken")


class _QuietFileHandler(logging.FileHandler):
    """A file handler whose write errors are dropped: the console has the line, and the disk may be full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        del record


class _ConsoleHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the standard output of the moment; text that its encoding lacks is escaped."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        text = self.format(record).encode(encoding, "backslashreplace").decode(encoding)
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(text + self.terminator)
            self.stream.flush()


def checkpoint(message: str, level: int = logging.INFO) -> None:
    """Log a line about checkpoints."""
    LOGGER.log(level, "[CHECKPOINT] %s", message)


def warn_checkpoint(message: str) -> None:
    """Log a line about a checkpoint that needs the user's attention."""
    checkpoint(f"WARNING: {message}", logging.WARNING)


@contextlib.contextmanager
def logging_to(
    path: Path, *, console: bool = True, shown: Callable[[logging.LogRecord], bool] | None = None
) -> Iterator[None]:
    """Send log lines to the end of a file for a while, and to the console those that `shown` wants (default: all)."""
    handlers: list[logging.Handler] = [_ConsoleHandler(sys.stdout)] if console else []
    if shown is not None:
        for handler in handlers:
            handler.addFilter(shown)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _QuietFileHandler(path, encoding="utf-8", errors="backslashreplace")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        handlers.append(file)
    level, propagate = LOGGER.level, LOGGER.propagate
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    for handler in handlers:
        LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.setLevel(level)
        LOGGER.propagate = propagate
        for handler in handlers:
            LOGGER.removeHandler(handler)
            with contextlib.suppress(OSError):
                handler.close()


@contextlib.contextmanager
def recording_tracebacks(path: Path) -> Iterator[None]:
    """Write the traceback of an error that nobody expected to the end of a log file, and note the file on the error."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, UnbrokenError | OSError):
            with contextlib.suppress(OSError), path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write("".join(traceback.format_exception(error)))
                error.add_note(f"The traceback is in {path}.")
        raise


def human_size(size: float) -> str:
    """Bytes as people read them: `152.3 KB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def human_seconds(duration: float) -> str:
    """Seconds as people read them: `42 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = round(duration)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
