"""From what was typed to a proof and its reports: the way of the command, and of a notebook."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unbroken.errors import UsageError
from unbroken.proving.proof import Proof, Wish, prove
from unbroken.proving.report import html_report, text_report
from unbroken.proving.stage import Command, script_command, target_command

_TARGET_STEPS = 20_000
_SAVES = 20


@dataclass(frozen=True)
class Reports:
    """Where to leave reports, beside the text."""

    json: Path | None = None
    html: Path | None = None

    def require_writable(self) -> None:
        """Raises UsageError before hours of training rather than after."""
        for path in (self.json, self.html):
            if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
                raise UsageError(f"{path} cannot be written: there is no folder {path.parent} to write into")

    def write(self, proof: Proof) -> None:
        """Write what was asked for."""
        if self.json is not None:
            self.json.write_text(json.dumps(proof.plain(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if self.html is not None:
            self.html.write_text(html_report(proof), encoding="utf-8")


def prove_named(
    name: str,
    arguments: Sequence[str],
    wish: Wish,
    reports: Reports,
    *,
    copied: Sequence[str] = (),
    folder: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Proof:
    """Prove a script or a target, say the report, and leave what was asked for; everything else is removed.

    `folder`, which has to be empty, keeps both trainings. Raises UsageError.
    """
    if wish.kills < 1 or (wish.steps is not None and wish.steps < 1):
        raise UsageError("a proof needs at least one kill and one step")
    reports.require_writable()
    command, wish = _command(name, arguments, wish, copied)
    with _tidy_when_terminated(), _workplace(folder) as place:
        proof = prove(command, wish, place, say)
    say(text_report(proof))
    reports.write(proof)
    return proof


def _command(name: str, arguments: Sequence[str], wish: Wish, copied: Sequence[str]) -> tuple[Command, Wish]:
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise UsageError(f"there is no script {name}")
        return script_command(path, arguments, copied), wish
    steps = wish.steps or _TARGET_STEPS
    words = [*arguments, "--steps", str(steps)]
    for option, value in (("--save-every", max(1, steps // _SAVES)), ("--eval-every", max(1, steps // 4))):
        if option not in arguments:
            words += [option, str(value)]
    return target_command(name, words, copied), Wish(wish.kills, wish.seed, steps)


@contextlib.contextmanager
def _tidy_when_terminated() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does: trainings are ended and copies removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def _workplace(folder: Path | None) -> Iterator[Path]:
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="unbroken-prove-", ignore_cleanup_errors=True) as made:
            yield Path(made).resolve()
        return
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; give the proof a folder of its own")
    yield folder.resolve()


def say_line(line: str) -> None:
    """Print at once, also into a pipe."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
