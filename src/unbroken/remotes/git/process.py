"""Starts git and sees it end: nothing outlives its caller, and what stands still is stopped."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from unbroken.store.backend import Writer

_TICK = 0.2
_GRACE = 2.0
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Answer:
    """What a command said; `code` is its exit status."""

    code: int
    output: bytes
    errors: str


class StoodStill(Exception):
    """A command was stopped after the agreed time without a word from it."""


@dataclass(frozen=True)
class Place:
    """Where a command runs and with which variables."""

    folder: Path
    variables: dict[str, str]


def run(command: list[str], place: Place, given: bytes = b"", quiet: float | None = None) -> Answer:
    """Run a command to its end, with `given` as its input.

    After `quiet` seconds without output it is stopped, with all that it started, and StoodStill is raised; None waits for
    ever. An exception in the caller, Ctrl-C too, stops it as well.
    """
    with tempfile.TemporaryFile() as source:
        source.write(given)
        source.seek(0)
        process = _start(command, place, source)
        try:
            output, errors = _read(process, quiet)
        except BaseException:
            _stop(process)
            raise
    return Answer(process.returncode, output, errors.decode("utf-8", "replace"))


def stream(command: list[str], place: Place, writer: Writer) -> bool:
    """Pass a command's output on to `writer` as it comes; returns whether the command ended well."""
    process = subprocess.Popen(
        command,
        cwd=place.folder,
        env=place.variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        while chunk := process.stdout.read(_CHUNK):
            writer.write(chunk)
    except BaseException:
        process.kill()
        raise
    finally:
        process.stdout.close()
        process.wait()
    return process.returncode == 0


def _start(command: list[str], place: Place, source: IO[bytes]) -> subprocess.Popen[bytes]:
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP
    return subprocess.Popen(
        command,
        cwd=place.folder,
        env=place.variables,
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        creationflags=flags,
    )


_Said = queue.SimpleQueue[tuple[int, bytes]]


def _read(process: subprocess.Popen[bytes], quiet: float | None) -> tuple[bytes, bytes]:
    said: _Said = queue.SimpleQueue()
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for number, pipe in enumerate((process.stdout, process.stderr)):
        assert pipe is not None
        threading.Thread(target=_listen, args=(pipe, number, said), daemon=True).start()
    is_open, last = 2, time.monotonic()
    while is_open:
        try:
            number, chunk = said.get(timeout=_TICK)
        except queue.Empty:
            # what it has started in the background, a connection of ssh, may hold the pipes for hours
            if process.poll() is not None:
                break
            if quiet is not None and time.monotonic() - last > quiet:
                raise StoodStill from None
            continue
        parts[number].append(chunk)
        is_open, last = is_open - (not chunk), time.monotonic()
    process.wait()
    return b"".join(parts[0]), b"".join(parts[1])


def _listen(pipe: IO[bytes], number: int, said: _Said) -> None:
    # only this thread closes the pipe: it may read on after the command has ended
    with pipe:
        while chunk := os.read(pipe.fileno(), _CHUNK):
            said.put((number, chunk))
    said.put((number, b""))


def _stop(process: subprocess.Popen[bytes]) -> None:
    # asked first: git then removes its lock files and half files
    for number in (signal.SIGTERM, None):
        _signal_all(process, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)


def _signal_all(process: subprocess.Popen[bytes], number: signal.Signals | None) -> None:
    if sys.platform == "win32":
        force = [] if number else ["/F"]
        subprocess.run(["taskkill", *force, "/T", "/PID", str(process.pid)], capture_output=True)
        if not number:
            process.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number or signal.SIGKILL)
