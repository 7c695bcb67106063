"""Trainings in child processes that are followed line by line and really killed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_SAVED = re.compile(r"\[CHECKPOINT\] Saved .+checkpoint_(\d+)(?:_steps\.zip|\.pt) ")
_RESUMED = re.compile(r"\[CHECKPOINT\] Resume: timestep=(\d+)")


@dataclass(frozen=True)
class Acknowledged:
    """A checkpoint whose commit the child has reported; `seen` is the monotonic time at which its line was read."""

    step: int
    seen: float


class TrainingProcess:
    """A child of this interpreter, `python *arguments`, whose output is read in a thread while it runs.

    Its own session keeps a Ctrl-C in the terminal away from it. Leaving the context kills it. `lines`, `acknowledged`
    and `resumed_at` grow while it runs and are complete after `wait` or `kill`. `folder` is its working folder; `threads` sets
    OMP_NUM_THREADS, None leaves it as it is.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        variables: Mapping[str, str] | None = None,
        *,
        folder: Path | None = None,
        threads: str | None = "1",
    ) -> None:
        self.lines: list[str] = []
        self.acknowledged: list[Acknowledged] = []
        self.resumed_at: int | None = None
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={
                **os.environ,
                **({} if threads is None else {"OMP_NUM_THREADS": threads}),
                "PYTHONIOENCODING": "utf-8",
                **(variables or {}),
            },
            cwd=folder,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the child has not ended yet."""
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the child alone; harmless when it has ended."""
        self._process.send_signal(number)

    def kill(self) -> int:
        """End the child with SIGKILL, if it has not ended before; returns its exit code."""
        self._process.kill()
        return self.wait()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and for the last line; returns the exit code, negative after a signal.

        Raises subprocess.TimeoutExpired.
        """
        code = self._process.wait(timeout)
        self._reader.join(timeout=10.0)
        return code

    def wait_for(self, text: str, timeout: float = 60.0) -> bool:
        """Wait until a line contains `text`; False if the child ended, or time ran out, without it."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            over = not self.running
            if over:
                self.wait()
            if any(text in line for line in list(self.lines)):
                return True
            if over:
                return False
            time.sleep(0.01)
        return False

    def last_lines(self, count: int = 15) -> str:
        """The end of the output, for messages."""
        return "\n".join(self.lines[-count:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.kill()

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        with stream:
            for line in stream:
                self._note(line.rstrip("\n"))

    def _note(self, line: str) -> None:
        if saved := _SAVED.search(line):
            self.acknowledged.append(Acknowledged(int(saved[1]), time.monotonic()))
        elif resumed := _RESUMED.search(line):
            self.resumed_at = int(resumed[1])
        self.lines.append(line)


def logged_step(run: Path) -> int:
    """The step of the newest complete row in a run's metrics file, 0 if there is none; cheap enough to be polled."""
    try:
        with (run / "logs" / "metrics.jsonl").open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 8192))
            complete = file.read().rpartition(b"\n")[0]
        return int(json.loads(complete.rpartition(b"\n")[2])["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
