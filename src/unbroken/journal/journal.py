"""Between two checkpoints: every answer of the environments is noted, and their state is saved every so many seconds.

A leg that resumes gives the training the answers again, up to the last state that is whole, puts that state into the
environments, and goes on. Only slow rollouts are worth it: where cuts come more often than a tenth of the interval, nothing is
noted. Used by the training thread; `committed` may be called from another.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from stable_baselines3.common.vec_env import VecEnv

from unbroken import logs
from unbroken.capture.rng import capture_generators
from unbroken.errors import CaptureError, StorageError
from unbroken.journal.file import Head
from unbroken.journal.pace import Pace
from unbroken.journal.records import question_of, recorded
from unbroken.journal.replaying import JournalUnusable, Replay, captured_environments, steps_to_repeat
from unbroken.journal.segments import Segment, continued, find_chain, remove_followers, remove_others
from unbroken.journal.watching import watch
from unbroken.keeper import Keeper, reason_of
from unbroken.stopping import StopNow, StopRequest
from unbroken.store.durable import LocalBackend, move_aside


class Journal:
    """The journal of one leg, in `folder`; `environment` is a digest of all that the environments' answers depend on."""

    def __init__(self, folder: Path, seconds: float, environment: str, keeper: Keeper, stop: StopRequest) -> None:
        self._folder = folder
        self._environment = environment
        self._keeper = keeper
        self._stop = stop
        self._pace = Pace(seconds)
        self._venvs: list[VecEnv] = []
        self._lock = threading.Lock()
        # from the newest committed checkpoint on; empty while nothing is noted
        self._chain: list[Segment] = []
        self._is_recording = False
        self._begins_here = False
        self._waiting: Replay | None = None
        self._replay: Replay | None = None
        self._save_base: Callable[[], bool] | None = None
        self._never: str | None = None
        self._said: set[str] = set()
        self._step = 0
        keeper.longest_wait = lambda rollout: self._pace.longest_wait(rollout) if self._is_recording else rollout

    def watch(self, base: VecEnv) -> None:
        """Note what this innermost vector environment answers from now on."""
        watch(base, self, len(self._venvs))
        self._venvs.append(base)

    def close(self) -> None:
        """Note nothing more and let go of the files; may be called at any time."""
        self._is_recording = self._begins_here = False
        self._drop()

    # what happens at cuts

    def resume(self, capture_id: str, step: int) -> None:
        """The training has been restored from the checkpoint with this id: look for what followed it."""
        head = Head(capture_id, None, step, self._environment)
        self._step, self._begins_here = step, True
        self._chain = [Segment(self._folder, head, is_committed=True)]
        try:
            chain = find_chain(self._folder, capture_id)
        except OSError as error:
            self._give_up_for_now(f"the journal cannot be read now: {error}")
            return
        if not chain:
            with contextlib.suppress(OSError):
                remove_followers(self._folder, capture_id)
            return
        self._waiting = Replay(chain)
        if any(one.head.environment != self._environment for one in chain):
            logs.warn_checkpoint("the environments are not those of the journal, which is put aside")
            self._put_aside()
            return
        self._keeper.newest_point = int(self._waiting.point["step"])
        self._say_resumed(self._waiting, step)

    def at_cut(self, step: int) -> bool:
        """The training is at a cut; returns whether it lies within what is replayed: nothing can be saved there."""
        self._pace.cut()
        if self._waiting is not None:
            self._replay, self._waiting = self._waiting, None
            self._step = step
            if self._never is not None:
                self._unusable(self._never)
        if self._replay is None:
            self._step = step
            return False
        self._stop_if_asked()
        return True

    def after_cut(self) -> None:
        """The cut is over: decide whether the rollout that begins is noted."""
        begins, self._begins_here = self._begins_here, False
        if self._replay is None and (begins or self._is_recording):
            if not self._is_recording:
                self._pace.noting()
            self._is_recording = self._pace.is_slow and self._never is None
            if not self._is_recording:
                self._drop()
        self._pace.begin()

    def ended(self) -> None:
        """`learn()` and the last evaluation are over. Raises JournalUnusable where the environments have not come so far."""
        if self._replay is not None or self._waiting is not None:
            self._unusable("the training ends before it does")

    def captured(self, step: int) -> str:
        """A capture has been made at this cut; returns the id to be kept in it."""
        assert self._replay is None, "the environments are not where the training is"
        self._save_base = None
        capture_id = secrets.token_hex(8)
        head = Head(capture_id, None, step, self._environment)
        with self._lock:
            if self._is_recording and self._chain:
                head = continued(self._chain[-1].head, capture_id, step, follows=True)
            else:
                self._chain = []
            self._chain.append(Segment(self._folder, head))
        self._begins_here = True
        self._pace.safe()
        return capture_id

    def committed(self, capture_id: str) -> None:
        """The capture with this id is a checkpoint now: what led up to it is needed no more."""
        with self._lock:
            ids = [segment.head.id for segment in self._chain]
            if capture_id in ids:
                for segment in self._chain[: ids.index(capture_id)]:
                    segment.close()
                self._chain = self._chain[ids.index(capture_id) :]
                self._chain[0].is_committed = True
            remove_others(self._folder, self._chain)
            reached = [segment.reaches for segment in self._chain if segment.reaches is not None]
            self._keeper.newest_point = max(reached, default=None)

    def commit_later(self, save: Callable[[], bool]) -> None:
        """Nobody commits the capture just made before `save`, which says whether it could: the first point needs it."""
        self._save_base = save

    # what happens at calls: the part of a listener (see `watching`)

    @property
    def is_replaying(self) -> bool:
        """Whether calls are answered from the journal."""
        return self._replay is not None

    def question(self, arguments: Any) -> str:
        """What identifies a call, as far as anybody will ask."""
        return question_of(arguments) if self._is_recording or self._replay is not None else ""

    def call(self, channel: int, name: str, question: str, run: Callable[[], Any]) -> Any:
        """The result of a call: from the journal, or made and noted."""
        if self._replay is not None:
            return self._answered(channel, name, question)
        if not self._is_recording:
            return run()
        if name == "step":
            return self._stepped(channel, question, run)
        return self._noted(channel, name, question, run)

    def reached(self) -> None:
        """Somebody looks into the environments past all calls: what they see there could not be repeated."""
        reason = (
            "code of this training takes the environments themselves (venv.envs); use env_method, get_attr and set_attr"
        )
        if self._replay is not None:
            self._unusable(reason)
        if self._never is None:
            self._never = reason
            if self._is_recording:
                self._give_up_for_now(reason)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Calls in here are not the training's: they are neither noted nor answered from the journal."""
        before = self._is_recording, self._replay
        self._is_recording, self._replay = False, None
        try:
            yield
        finally:
            self._is_recording, self._replay = before

    def _noted(self, channel: int, name: str, question: str, run: Callable[[], Any]) -> Any:
        try:
            result, record = recorded(channel, name, question, run)
        except Exception:
            self._give_up_for_now(f"{name} has raised")
            raise
        try:
            self._chain[-1].add(record)
        except (CaptureError, OSError) as error:
            self._give_up_for_now(reason_of(error))
        return result

    def _stepped(self, channel: int, question: str, run: Callable[[], Any]) -> Any:
        started = time.monotonic()
        result = self._noted(channel, "step", question, run)
        self._pace.stepped(channel, started)
        if channel == 0:
            self._step += self._venvs[0].num_envs
        if self._is_recording:
            self._leave_or_save()
        return result

    def _leave_or_save(self) -> None:
        if self._pace.is_under_way:
            self._stop.check_deadline(self._pace.seconds_needed)
        if self._stop.reason is not None:
            waited = self._stop.waited_seconds
            if (self._stop.is_urgent or waited >= self._pace.patience(self._stop.grace_seconds)) and self._save_point():
                raise StopNow(self._stop.reason)
        elif self._pace.is_due:
            self._save_point()

    def _save_point(self) -> bool:
        """Make everything up to now durable; returns whether a resumed leg would come here."""
        started = time.monotonic()
        self._pace.safe()
        if not self._base_is_safe():
            return False
        try:
            point = self._point()
        except CaptureError as error:
            self._say_once(
                f"the environments' state cannot be saved between checkpoints now: {error}; a kill repeats all steps since "
                "the last time it could"
            )
            return False
        try:
            self._write(point)
        except (CaptureError, OSError) as error:
            self._give_up_for_now(reason_of(error))
            return False
        self._keeper.newest_point = self._step
        self._pace.saved(started)
        logs.checkpoint(f"Journal: safe up to step {self._step:,}")
        return True

    def _base_is_safe(self) -> bool:
        if self._chain[0].is_committed or self._save_base is None:
            return self._chain[0].is_committed
        return self._save_base() and self._chain[0].is_committed

    def _point(self) -> dict[str, Any]:
        return {
            "step": self._step,
            "generators": capture_generators(),
            "environments": captured_environments(self._venvs),
            "step_seconds": self._pace.step_seconds(len(self._venvs)),
        }

    def _write(self, point: dict[str, Any]) -> None:
        with self._lock:
            for segment in self._chain[:-1]:
                segment.seal()
            self._chain[-1].write_point(point)

    def _give_up_for_now(self, reason: str) -> None:
        self.close()
        self._say_once(
            f"the journal stops until the next checkpoint: {reason}; a kill before it repeats all steps since the last one"
        )

    def _drop(self) -> None:
        """Note nothing more; files stay as long as their checkpoint is the newest."""
        with self._lock:
            for segment in self._chain:
                segment.close()
            self._chain = []
        self._save_base = None

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            logs.warn_checkpoint(message)

    # what happens in a replay

    def _answered(self, channel: int, name: str, question: str) -> Any:
        assert self._replay is not None
        self._stop_if_asked()
        try:
            result = self._replay.answer(channel, name, question)
            if name == "step" and channel == 0:
                self._step += self._venvs[0].num_envs
            if self._replay.left == 0:
                self._replay.arrive(self._venvs)
                self._go_on(self._replay)
        except JournalUnusable as error:
            self._unusable(str(error))
        return result

    def _go_on(self, replay: Replay) -> None:
        """The environments are where they were: what happens from here on is noted behind the point."""
        self._replay, self._is_recording = None, True
        self._pace.arrived()
        try:
            remove_followers(self._folder, replay.chain[-1].head.id)
            with self._lock:
                self._chain = [Segment.resumed(one, is_last=one is replay.chain[-1]) for one in replay.chain]
        except OSError as error:
            self._give_up_for_now(reason_of(error))
        logs.checkpoint(f"Journal: all of it is taken over, going on from step {self._step:,}")

    def _stop_if_asked(self) -> None:
        """Nothing is lost by leaving in a replay: the journal stays as it is."""
        if self._stop.reason is not None:
            raise StopNow(self._stop.reason)

    def _unusable(self, reason: str) -> NoReturn:
        logs.warn_checkpoint(f"the journal cannot be used: {reason}; the leg begins again at the checkpoint")
        self._put_aside()
        raise JournalUnusable(reason)

    def _put_aside(self) -> None:
        """Move what continues the checkpoint to the archive. Raises StorageError if it cannot be moved."""
        replay, self._replay, self._waiting = self._replay or self._waiting, None, None
        self._keeper.newest_point = None
        if replay is None:
            return
        # Windows moves no file that is open
        replay.close()
        with contextlib.suppress(OSError):
            remove_followers(self._folder, replay.chain[-1].head.id)
        backend = LocalBackend(self._folder.parent)
        for one in replay.chain:
            try:
                move_aside(backend, f"{self._folder.name}/{one.path.name}", "archive")
            except OSError as error:
                raise StorageError(f"{one.path} cannot be moved to archive/: {error}; remove it by hand") from error

    def _say_resumed(self, replay: Replay, step: int) -> None:
        end = int(replay.point["step"])
        logs.checkpoint(f"Journal: {end - step:,} steps since the checkpoint come out of it, up to step {end:,}")
        steps, seconds = steps_to_repeat(replay.point, self._venvs)
        if steps:
            logs.checkpoint(
                f"Journal: the environment can only be replayed, so {steps:,} of its steps are made again, "
                f"about {logs.human_seconds(seconds)}; get_state and set_state would spare them"
            )
