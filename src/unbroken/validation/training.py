"""Trainings of a comparison: each is `unbroken train` in a process of its own, so it survives whatever ends the comparison."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import yaml

from unbroken import logs
from unbroken.errors import RunLocked, StoppedEarly, UnbrokenError
from unbroken.store.durable import LocalBackend, write_bytes_durably
from unbroken.validation.agents import AgentSpec

_SHOWN = ("[PROGRESS]", "Resume:", "Target reached")
_PATIENCE_SECONDS = 120.0  # for a last checkpoint
_PAUSE_SECONDS = 5.0  # between two looks at a run that another process carries


class TrainingFailed(UnbrokenError):
    """A training of a comparison ended without reaching its target."""


class Trainer:
    """Trains runs in `runs_dir`; logs of the processes lie in `folder`. `train` may be called from several threads."""

    def __init__(self, runs_dir: Path, folder: Path) -> None:
        self._runs_dir, self._folder = runs_dir, folder
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self.left = threading.Event()

    def train(self, spec: AgentSpec, run: str) -> None:
        """Start or continue a run and return at its target.

        Raises:
            StoppedEarly: it was stopped before, with a checkpoint. TrainingFailed: anything else; its log says what.
        """
        backend = LocalBackend(self._folder)
        write_bytes_durably(backend, f"{run}.yaml", yaml.safe_dump(spec.config.plain(), sort_keys=False).encode())
        config, log = self._folder / f"{run}.yaml", self._folder / f"{run}.log"
        words = [
            str(config),
            "--run",
            run,
            "--steps",
            str(spec.config.total_timesteps),
            "--runs-dir",
            str(self._runs_dir),
        ]
        logs.LOGGER.info("[VALIDATION] Training %s: unbroken train %s", run, " ".join(words))
        code = self._run([sys.executable, "-m", "unbroken", "train", *words], run, log)
        if code == RunLocked.exit_code:
            logs.LOGGER.info("[VALIDATION] Waiting: %s", _last_line(log).removeprefix("error: "))
        while code == RunLocked.exit_code and not self.left.wait(_PAUSE_SECONDS):
            # the training of a comparison that was killed goes on alone, to the same end
            code = self._run([sys.executable, "-m", "unbroken", "train", *words], run, log)
        if code == StoppedEarly.exit_code or self.left.is_set():
            raise StoppedEarly(f"training {run} was stopped; the same command continues it")
        if code != 0:
            raise TrainingFailed(f"training {run} ended with exit code {code}: {_last_line(log)} (all of it: {log})")

    def stop(self) -> None:
        """Ask all trainings for their last checkpoint and wait for them."""
        self.left.set()
        with self._lock:
            running = list(self._running)
        for process in running:
            _ask_to_stop(process)
        for process in running:
            try:
                process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def _run(self, command: list[str], run: str, log: Path) -> int:
        # one thread, however many trainings there are at a time: their number changes bits
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self._lock:
            if self.left.is_set():
                return StoppedEarly.exit_code
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=environment,
                # on Windows only a group of its own can be sent a signal that a process may answer
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
            self._running.add(process)
        try:
            return _followed(process, log, lambda line: logs.LOGGER.info("[VALIDATION] %s: %s", run, line))
        finally:
            with self._lock:
                self._running.discard(process)


def _ask_to_stop(process: subprocess.Popen[str]) -> None:
    """Send what `unbroken train` answers with a last checkpoint; on Windows `terminate` would end it at once."""
    process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))


def _followed(process: subprocess.Popen[str], log: Path, say: Callable[[str], None]) -> int:
    """Write what a process prints to a file, say the lines that matter, and wait for its end."""
    assert process.stdout is not None
    with process.stdout, log.open("a", encoding="utf-8") as file:
        for line in process.stdout:
            file.write(line)
            file.flush()
            if any(word in line for word in _SHOWN):
                say(line.strip().removeprefix("[CHECKPOINT] ").removeprefix("[PROGRESS] "))
    return process.wait()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it printed nothing"
