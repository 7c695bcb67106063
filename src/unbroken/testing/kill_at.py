"""Run the ordinary command line and kill it with SIGKILL at a chosen place (A5, A7, A10).

    python -m unbroken.testing.kill_at checkpoint.write:2,env-step:400 -- train CartPole-v1 --steps 2000

Each `place:n` names the n-th time (default: the first) that the training comes by a place of `PLACES`; whichever of
several is met first kills. The last line on standard error then reads `killed at PLACE`. Production code has no hook: the
functions and the backend are replaced from here, in this process only; environments in worker processes count when their
answers have come.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from unbroken.errors import UsageError
from unbroken.folder import BEST, BEST_SCORE, METADATA, RUN_FILE, RunFolder, file_names
from unbroken.store.backend import Buffer, FileBackend, WritableFile, name_of
from unbroken.store.durable import LocalBackend
from unbroken.testing.backends import WrappingBackend, kill_this_process

_WRITE_STEPS = {
    "create": "before its temporary file exists",
    "write": "half-way through writing its temporary file",
    "sync": "after the last byte, before the fsync",
    "replace": "after the fsync, before it gets its name",
    "sync_folder": "after it has its name, before the fsync of the folder",
}
_SUBJECTS = {
    "checkpoint": ("rolling checkpoint", ("create", "write", "sync", "replace", "sync_folder")),
    "segment": ("segment of replay rows", ("create", "write", "sync", "replace", "sync_folder")),
    "metadata": ("training_metadata.json", ("create", "write", "sync", "replace", "sync_folder")),
    "best": ("best_model.zip", ("write", "sync", "replace", "sync_folder")),
    "best-score": ("best_model.json", ("write", "replace", "sync_folder")),
    "final": ("final export", ("write", "replace", "sync_folder")),
    "run-yaml": ("run.yaml", ("write", "replace", "sync_folder")),
}
_OTHERS = {
    "start": "before the command touches anything",
    "restore": "before or after the state is put into the model",
    "env-step": "in the middle of a rollout and an episode: the environment has stepped, the learner does not know",
    "optimise": "during optimisation, after a gradient step",
    "evaluation": "in the middle of an evaluation episode",
    "capture": "while the state is being captured",
    "encode": "while the captured state is being serialised",
    "retention.before": "before a checkpoint is rotated out",
    "retention.after": "after a checkpoint has been rotated out",
    "collect.before": "before a segment that no checkpoint needs is removed",
    "metrics.half": "half-way through a row of metrics.jsonl",
    "events.before": "after the row of metrics.jsonl, before that of TensorBoard",
    "events.half": "half-way through a TensorBoard record",
    "logs.archive": "on resume, half-way through archiving the tail of a log",
    "logs.archived": "on resume, after the tail is archived, before the log is cut",
    "logs.cut": "on resume, after the log is cut, before its fsync",
    "close": "after everything is written, before the process ends",
}
_PYTORCH = file_names("", "ppo_torch")
_DOCUMENTS = {
    name_of(BEST): "best",
    name_of(_PYTORCH.best): "best",
    _PYTORCH.final: "final",
    name_of(BEST_SCORE): "best-score",
    METADATA: "metadata",
    RUN_FILE: "run-yaml",
}
_CHECKPOINT = re.compile(rf"_steps\.zip$|^{_PYTORCH.prefix}_[0-9]+{re.escape(_PYTORCH.ending)}$")
PLACES: dict[str, str] = {
    **_OTHERS,
    **{
        f"{subject}.{step}": f"{label}: {_WRITE_STEPS[step]}"
        for subject, (label, steps) in _SUBJECTS.items()
        for step in steps
    },
}
"""Every place that an ordinary training comes by, with what is under way there."""
FRESH_PLACES = {"fresh.move": "with --fresh, after a part of the old training has been moved to archive/"}
"""Places that only `--fresh` comes by."""
JOURNAL_PLACES = {
    "journal.before": "before a frame of the journal, with what led up to it in memory only",
    "journal.half": "half-way through a frame of the journal",
    "journal.sync": "after a frame, before its fsync",
}
"""Places that only a training with a slow environment comes by."""


@dataclass(frozen=True)
class Spot:
    """The `nth` time, from 1, that the process comes by `place`."""

    place: str
    nth: int = 1

    def __post_init__(self) -> None:
        known = {**PLACES, **FRESH_PLACES, **JOURNAL_PLACES}
        if self.place not in known or self.nth < 1:
            raise UsageError(f"no place {self.place}:{self.nth} to be killed at; there are {', '.join(known)}")

    @classmethod
    def read(cls, text: str) -> Spot:
        """From `place` or `place:n`. Raises UsageError."""
        place, colon, number = text.partition(":")
        if colon and not number.isdigit():
            raise UsageError(f"{text!r} is not of the form place:n")
        return cls(place, int(number) if colon else 1)

    def __str__(self) -> str:
        return f"{self.place}:{self.nth}"


class Killer:
    """Counts how often each place is passed, over all threads, and kills this process at the first spot that is met."""

    def __init__(self, spots: list[Spot]) -> None:
        self._spots = frozenset((spot.place, spot.nth) for spot in spots)
        self._passed: Counter[str] = Counter()
        self._lock = threading.Lock()

    def reach(self, place: str, last: Callable[[], object] = lambda: None) -> None:
        """Note that `place` is passed; at a chosen spot do `last`, say so, and die."""
        with self._lock:
            self._passed[place] += 1
            chosen = (place, self._passed[place]) in self._spots
        if chosen:
            last()
            os.write(2, f"\nkilled at {place}\n".encode())
            kill_this_process()


class PlacedBackend(WrappingBackend):
    """Tells a Killer which place each operation on a run's files is; `local_path` is that of the local backend inside."""

    def __init__(self, inner: LocalBackend, killer: Killer) -> None:
        super().__init__(inner)
        self._local = inner
        self._killer = killer

    def local_path(self, path: str) -> Any:
        """Where `path` lies on this machine."""
        return self._local.local_path(path)

    @property
    def root(self) -> Any:
        """The folder of the local backend inside."""
        return self._local.root

    def before(self, operation: str, path: str, target: str = "") -> None:
        subject = _subject(path)
        if operation in _WRITE_STEPS and subject is not None:
            self._killer.reach(f"{subject}.{operation}")

    def before_write(self, path: str, data: Buffer, file: WritableFile) -> None:
        half = memoryview(data).cast("B")
        self._killer.reach(f"{_subject(path)}.write", lambda: file.write(half[: half.nbytes // 2]))

    def replace(self, src: str, dst: str) -> None:
        super().replace(src, dst)
        subject = _subject(src)
        if subject is not None:
            # the folder is synced next: killed here, the new name is there and not yet safe
            self._killer.reach(f"{subject}.sync_folder")

    def remove(self, path: str) -> None:
        rotated = _is_checkpoint(path)
        if rotated:
            self._killer.reach("retention.before")
        if path.startswith("replay/") and path.endswith(".zip"):
            self._killer.reach("collect.before")
        super().remove(path)
        if rotated:
            self._killer.reach("retention.after")


def _subject(path: str) -> str | None:
    """Which file a temporary name is for: `.{name}.{pid}-{n}.tmp`."""
    name = name_of(path)
    if not (name.startswith(".") and name.endswith(".tmp")):
        return None
    final = name[1:].rpartition(".")[0].rpartition(".")[0]
    if final in _DOCUMENTS:
        return _DOCUMENTS[final]
    if final.endswith("_final.zip"):
        return "final"
    if path.startswith("replay/"):
        return "segment"
    return "checkpoint" if _is_checkpoint(f"checkpoints/{final}") else None


def _is_checkpoint(path: str) -> bool:
    name = name_of(path)
    return path.startswith("checkpoints/") and not name.startswith(".") and _CHECKPOINT.search(name) is not None


def _after(killer: Killer, place: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which comes by `place` when it returns."""

    def passing(*arguments: Any, **words: Any) -> Any:
        result = function(*arguments, **words)
        killer.reach(place)
        return result

    return passing


def _around(killer: Killer, place: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which comes by `place` before it begins and when it returns."""

    def passing(*arguments: Any, **words: Any) -> Any:
        killer.reach(place)
        return _after(killer, place, function)(*arguments, **words)

    return passing


def install_light(killer: Killer) -> None:
    """Replace what can be replaced without importing torch: backend, log files, the cut of logs, the first touch."""
    from unbroken import folder as run_folder
    from unbroken.store import append

    patched: Any = run_folder
    patched.move_aside = _after(killer, "fresh.move", patched.move_aside)
    patched = RunFolder
    patched.backend = property(lambda folder: PlacedBackend(LocalBackend(folder.path), killer))
    prepare = RunFolder.prepare

    def prepared(folder: RunFolder) -> None:
        killer.reach("start")
        prepare(folder)

    patched.prepare = prepared
    _install_appending(killer, append)


def _install_appending(killer: Killer, append: Any) -> None:
    write, sync, durably = append.AppendFile.write, append.sync_content, append.write_bytes_durably

    def half_row(file: Any, data: bytes) -> int:
        kind = {".jsonl": "metrics", ".journal": "journal"}.get(file.path.suffix, "events")
        killer.reach(f"{kind}.before")
        killer.reach(f"{kind}.half", lambda: write(file, data[: len(data) // 2]))
        return int(write(file, data))

    def archiving(backend: FileBackend, path: str, content: Buffer) -> None:
        durably(_HalfWriting(backend, lambda last: killer.reach("logs.archive", last)), path, content)
        killer.reach("logs.archived")
        cutting.add(threading.get_ident())

    def synced(descriptor: int) -> None:
        # cut_file syncs right after it has truncated; AppendFile.sync, the other user, never follows an archiving
        if threading.get_ident() in cutting:
            cutting.discard(threading.get_ident())
            killer.reach("logs.cut")
        sync(descriptor)

    def synced_frame(file: Any) -> None:
        if file.path.suffix == ".journal":
            killer.reach("journal.sync")
        whole(file)

    whole = append.AppendFile.sync
    cutting: set[int] = set()
    append.AppendFile.write = half_row
    append.AppendFile.sync = synced_frame
    append.write_bytes_durably = archiving
    append.sync_content = synced


class _HalfWriting(WrappingBackend):
    """Calls `reach` before each write with what writes half of it."""

    def __init__(self, inner: FileBackend, reach: Callable[[Callable[[], object]], None]) -> None:
        super().__init__(inner)
        self._reach = reach

    def before_write(self, path: str, data: Buffer, file: WritableFile) -> None:
        half = memoryview(data).cast("B")
        self._reach(lambda: file.write(half[: half.nbytes // 2]))


def install_training(killer: Killer) -> None:
    """Replace what needs torch and Stable-Baselines3; importing the learner imports them."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from unbroken import leg
    from unbroken.capture import sb3 as capture
    from unbroken.capture.environments import CaptureWrapper
    from unbroken.learners import evaluation, stored
    from unbroken.learners import sb3 as learner

    patched: Any = learner
    patched.restore_model = _around(killer, "restore", patched.restore_model)
    patched = stored
    patched.encode = _around(killer, "encode", patched.encode)
    # between the generators and tensors, captured before, and the callbacks, captured after
    patched = capture
    patched._capture_environment = _after(killer, "capture", patched._capture_environment)
    patched = leg.Leg
    patched.close = _after(killer, "close", leg.Leg.close)
    register_optimizer_step_post_hook(lambda optimizer, arguments, words: killer.reach("optimise"))
    _install_stepping(killer, CaptureWrapper, evaluation.Evaluation)


def _install_stepping(killer: Killer, wrapper: Any, judge: Any) -> None:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    evaluating = threading.local()
    step, evaluate = getattr(wrapper, "step"), judge.evaluate  # noqa: B009 - typed as Any on purpose

    def stepping(env: Any, action: Any) -> Any:
        result = step(env, action)
        killer.reach("evaluation" if getattr(evaluating, "now", False) else "env-step")
        return result

    @contextlib.contextmanager
    def marked() -> Iterator[None]:
        evaluating.now = True
        try:
            yield
        finally:
            evaluating.now = False

    def evaluated(callback: Any) -> Any:
        with marked():
            return evaluate(callback)

    wait: Any = SubprocVecEnv.step_wait

    def waiting(venv: Any) -> Any:
        result = wait(venv)
        killer.reach("evaluation" if getattr(evaluating, "now", False) else "env-step")
        return result

    wrapper.step = stepping
    patched: Any = SubprocVecEnv
    patched.step_wait = waiting
    judge.evaluate = evaluated


def run_and_kill(spots: list[Spot], arguments: list[str]) -> None:
    """Run the command line `unbroken *arguments` in this process, to be killed at one of `spots`.

    Torch is imported only once the leg begins, as in the ordinary command.
    """
    from unbroken import run
    from unbroken.cli import main as command

    killer = Killer(spots)
    install_light(killer)
    carry_leg, patched = run._carry_leg, run

    def with_training(resolved: Any, hard_exit: bool) -> Any:
        install_training(killer)
        return carry_leg(resolved, hard_exit)

    patched._carry_leg = with_training
    sys.argv = ["unbroken", *arguments]
    command()


def main() -> None:
    """`python -m unbroken.testing.kill_at SPOT[,SPOT...] -- COMMAND ...`."""
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        sys.exit("usage: python -m unbroken.testing.kill_at PLACE:N[,PLACE:N...] -- train ...")
    try:
        spots = [Spot.read(text) for text in sys.argv[1].split(",")]
    except UsageError as error:
        sys.exit(f"error: {error}")
    run_and_kill(spots, sys.argv[3:])


if __name__ == "__main__":
    main()
