"""Exact resume for a training loop written by hand.

    ckpt = Checkpointer("runs/my_run", save_every=10_000)
    env = ckpt.track(env=gymnasium.make("CartPole-v1"))
    ckpt.track(model=model, optimizer=optimizer)
    own = ckpt.state(observation=env.reset(seed=0)[0])
    for step in ckpt.steps(1_000_000):
        ...
        ckpt.save_if_due()

Run again after any interruption, the same script continues from its newest valid checkpoint and ends with the same bits. A
local variable that one iteration leaves to the next must be an attribute of `ckpt.state(...)`: nobody else can see it.
"""

from __future__ import annotations

import contextlib
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unbroken import logs
from unbroken.capture.selftest import Verdict, prove_instances
from unbroken.capture.state_dicts import StateDictCopies, tensor_bytes
from unbroken.capture.tracked import Tracked, Variables, copied
from unbroken.compatibility import Verdict as Change
from unbroken.compatibility import changes, require_compatible, require_same_schema
from unbroken.config import seconds
from unbroken.context import current_context, differences, enforce_threads
from unbroken.errors import StorageError, UsageError
from unbroken.exports import Exports, Score
from unbroken.folder import RunFolder, file_names
from unbroken.keeper import Keeper, SaveSchedule, Snapshot
from unbroken.learners.stored import Stored, read_stored, write_state
from unbroken.locate import repository_of
from unbroken.metadata import leg_entry, metadata_content
from unbroken.recording import Recorder, cut_recordings
from unbroken.restoring import find_newest, repeated_steps, require_never_saved
from unbroken.retention.policy import KeepEvery, KeepNewest, Policy
from unbroken.stopping import EXIT_STOPPED, StopRequest, stopped_code
from unbroken.store.checkpoint_file import CheckpointFile, CheckpointWriter
from unbroken.store.lock import ExclusiveLock
from unbroken.store.repository import CheckpointRecord
from unbroken.traced_loop import LoopTrace

_WAYS_OUT = "give another folder to start anew, or the stored values"
_IF_LOST = "put a good copy back there, or give another folder to start anew"
_RESERVED = frozenset({"pytorch_variables"})


class Checkpointer:
    """Carries a hand-written loop through interruptions; `folder` is the run's folder, such as `runs/my_run`.

    Saves every `save_every` steps of `steps()`, every `save_seconds` seconds, or both, and keeps the newest `keep_last`, and
    with `keep_every` also the multiples of it. With a `deadline` (seconds, or text such as "11h") the script exits
    with 75 in time for a last save. `config` holds hyper-parameters: they go into the metadata, and a change is named on
    resume. `second_env` makes a further environment, on which the capture is proved. `grace` is how long a signal waits
    for a cut. Nothing is read or locked before `steps()`.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        save_every: int | None = 10_000,
        save_seconds: float | None = 300.0,
        keep_last: int = 2,
        keep_every: int | None = None,
        deadline: str | float | None = None,
        grace: str | float = 30.0,
        config: Mapping[str, Any] | None = None,
        second_env: Callable[[], Any] | None = None,
    ) -> None:
        path = Path(folder)
        self.folder = RunFolder(path.parent, path.name)
        self.score: float | None = None
        self._config = dict(config or {})
        self._second_env = second_env
        limit = None if deadline is None else seconds(str(deadline))
        self._stop = StopRequest(seconds(str(grace)), limit, self._interrupted)
        self._tracked = Tracked()
        self._policies: list[Policy] = [KeepNewest(keep_last)]
        if keep_every is not None:
            self._policies.append(KeepEvery(keep_every))
        self._schedule = SaveSchedule(save_every, save_seconds)
        self._session = contextlib.ExitStack()
        self._loop: _Loop | None = None
        self._started = time.time()

    def track(self, **things: Any) -> Any:
        """Track things under names of one's own; returns the thing, or a tuple of them in the order given.

        Anything with `state_dict` and `load_state_dict`, Gymnasium environments and vector environments, numpy arrays and
        generators, tensors, containers, plain objects. An environment must be used as it is returned, and not have been
        reset before. Raises UsageError for what cannot be captured. The generators of the process are always tracked.
        """
        if self._loop is not None:
            raise UsageError("track everything before the loop over steps()")
        if reserved := _RESERVED & things.keys():
            raise UsageError(f"the name {min(reserved)!r} is taken; give another")
        tracked = tuple(self._tracked.add(name, thing) for name, thing in things.items())
        return tracked[0] if len(tracked) == 1 else tracked

    def state(self, **values: Any) -> Any:
        """An object with these attributes, for what one iteration leaves to the next: observations, counters, lists."""
        return self.track(state=Variables(**values))

    def steps(self, total: int, by: int = 1) -> Iterator[int]:
        """The steps from where the training stands to `total`, each worth `by`; everything tracked is restored at the first.

        Yields how many steps are done when an iteration begins. Leaves the process with exit code 75 at a signal or near the
        deadline, after a last save. One loop per Checkpointer. Raises RunLocked, IncompatibleRun, DamagedFile, StorageError.
        """
        if total < 1 or by < 1:
            raise UsageError(f"steps({total}, by={by}): give numbers of at least 1")
        if self._loop is not None:
            raise UsageError(
                "a Checkpointer carries one loop; give a second one a Checkpointer and a folder of its own"
            )
        self._enter()
        try:
            self._loop = _Loop(self, total)
            yield from self._loop.run(by)
        finally:
            self.close()

    def save_if_due(self) -> None:
        """This iteration ends at a cut: a checkpoint that is due is saved when the loop comes back to `steps()`."""
        self._running().at_cut = True

    def report(self, score: float) -> None:
        """The mean episodic reward as the loop measures it now; the tracked modules of the best go to `best_model/`."""
        self.score = float(score)
        self._running().report(self.score)

    def log(self, **values: Any) -> None:
        """Append a row to `logs/metrics.jsonl` and TensorBoard; a resumed run has no row twice. "/" is written "__"."""
        loop = self._running()
        row = {name.replace("__", "/"): value for name, value in values.items()}
        loop.recorder.write(loop.step, row)
        loop.trace.logged(loop.step, row)

    def close(self) -> None:
        """Wait for the last save and free the run; harmless when it is free."""
        self._session.close()

    def _running(self) -> _Loop:
        if self._loop is None:
            raise UsageError("there is no loop yet: this belongs inside 'for step in ckpt.steps(total):'")
        return self._loop

    def _enter(self) -> None:
        """Lock the folder, log into it, and listen to signals."""
        earlier = _holders.get(str(self.folder.path.resolve()))
        if earlier is not None:
            # a notebook cell that is run again
            earlier.close()
        self.folder.prepare()
        self._session.enter_context(ExclusiveLock(self.folder.lock_path, self.folder.name))
        _holders[str(self.folder.path.resolve())] = self
        self._session.enter_context(logs.logging_to(self.folder.log_path))
        self._session.enter_context(self._stop.listening())

    def _interrupted(self, why: str) -> BaseException:
        """What a second Ctrl-C raises inside the loop's body."""
        loop = self._loop
        return SystemExit(1) if loop is None else SystemExit(loop.leave_between_cuts(why))


# by the path of the run: a new Checkpointer in the same process takes over
_holders: weakref.WeakValueDictionary[str, Checkpointer] = weakref.WeakValueDictionary()


class _Loop:
    """The one loop of a Checkpointer: restores, counts, saves at cuts, leaves. Used by the training thread."""

    def __init__(self, owner: Checkpointer, total: int) -> None:
        self.at_cut = False
        self.step = 0
        self._total = total
        self._owner = owner
        self._folder = owner.folder
        self._tracked = owner._tracked
        self._copies = StateDictCopies()
        self.trace = LoopTrace(self._folder.name, self._tracked)
        self._origin: dict[str, Any] = {}
        self._lineage: list[dict[str, Any]] = []
        self._missing: list[str] = []
        self._best: Score | None = None
        self._context: dict[str, Any] = {}
        name = self._folder.name
        facts = {"run": name, "scenario": name, "config": self._configuration()}
        self._exports = Exports(self._folder, file_names(name, None), self._fill_model, facts)
        self._repository = repository_of(self._folder, name, "own")
        record = self._find()
        enforce_threads(self._origin.get("context"))
        self._context = current_context()
        cut_recordings(self._folder.path, self._origin.get("logs") or {})
        self.recorder = Recorder(self._folder.path)
        self._keeper = Keeper(
            self._repository,
            owner._schedule,
            owner._policies,
            before_commit=self.recorder.sync,
            after_commit=self._write_metadata,
        )
        owner._session.callback(self.recorder.close)
        owner._session.callback(self._keeper.close)
        self._verdict = self._prove()
        self._exports.complete_best_score()
        if record is not None:
            self._restore(record)

    def run(self, by: int) -> Iterator[int]:
        """Yield the steps; save and leave at cuts."""
        if self.step >= self._total:
            logs.checkpoint(f"Target reached: {self.step:,} of {self._total:,} steps are done; nothing to do")
            return
        self.trace.began(self.step, self._total)
        while self.step < self._total:
            self.at_cut = False
            yield self.step
            self.step += by
            self.trace.stepped(self.step)
            if self.step < self._total:
                self._between()
        self._finish()

    def report(self, score: float) -> None:
        """Keep the model if it is the best."""
        found = Score(score, self.step)
        self._exports.keep_best(found)
        if found.beats(self._best):
            self._best = found

    def leave_between_cuts(self, why: str) -> int:
        """Wait for the save in progress, say what will be repeated, and give the exit code."""
        self._keeper.close()
        saved = self._keeper.newest_step
        logs.checkpoint(repeated_steps(self.step, saved, why))
        return stopped_code(has_checkpoint=saved is not None)

    def _between(self) -> None:
        stop = self._owner._stop
        due = self._keeper.schedule.is_due(self.step)
        if self.at_cut and self.trace.at_cut(self.step, "rollout", saves=due):
            stop.ask("the trace's limit of steps is reached")
        if self.at_cut and self._keeper.at_cut(self.step, lambda: self._snapshot("rollout"), stop):
            logs.checkpoint("Stopped with a valid checkpoint: run the same script again to continue")
            sys.exit(EXIT_STOPPED)
        if stop.grace_is_over:
            sys.exit(self.leave_between_cuts("the grace time is over"))

    def _finish(self) -> None:
        self.trace.at_cut(self.step, "end")
        self._exports.write_final(self.step)
        if not self._keeper.save(lambda: self._snapshot("end"), wait=True):
            raise StorageError(
                "the target is reached, but its checkpoint could not be saved; make room and run the same script again"
            )

    def _find(self) -> CheckpointRecord | None:
        for name in self._folder.remove_leftovers():
            logs.checkpoint(f"Removed {name}, an unfinished write of a process that was killed")
        record = find_newest(self._repository, _IF_LOST)
        if record is None:
            require_never_saved(self._folder.metadata(), self._folder.name, self._folder.path / "checkpoints", _IF_LOST)
            logs.checkpoint(f"No checkpoint to restore in {self._folder.path / 'checkpoints'}: starting at step 0")
            return None
        with CheckpointFile(self._folder.backend, record.path) as file:
            self._origin = dict(file.manifest)
        self._lineage = [*(self._origin.get("lineage") or []), *self._judge(record.step)]
        require_same_schema(self._origin["schema"], self._schema(), self._folder.name, ways_out=_WAYS_OUT)
        return record

    def _judge(self, step: int) -> list[dict[str, Any]]:
        found = changes(self._origin["config"], self._configuration())
        found = [change for change in found if change.field != "total_timesteps"]
        require_compatible(found, self._folder.name, ways_out=_WAYS_OUT)
        for change in found:
            if change.verdict is Change.RISKY:
                logs.warn_checkpoint(f"{change} changes the training from step {step:,} on; its lineage is now mixed")
        return [{"step": step, "field": c.field, "before": c.stored, "now": c.present} for c in found]

    def _restore(self, record: CheckpointRecord) -> None:
        if found := differences(self._origin.get("context") or {}, self._context):
            logs.checkpoint(f"Note: exactness is not guaranteed on this leg, because {'; '.join(found)}")
        for gap in self._origin.get("missing") or []:
            self._missing.append(gap)
            logs.warn_checkpoint(f"the checkpoint does not hold {gap}: that part starts anew")
        with CheckpointFile(self._folder.backend, record.path) as file:
            stored: Stored = read_stored(file)
        for problem in self._tracked.restore(stored.state, stored.tensors):
            logs.warn_checkpoint(f"not restored: {problem}")
        best = self._origin.get("best")
        self._best = None if best is None else Score(float(best["score"]), int(best["step"]))
        self._owner.score = self._origin.get("mean_reward")
        self.step = record.step
        self._keeper.begins_at(record.step)
        logs.checkpoint(f"Resuming from checkpoint: {self._folder.path / record.path}")
        logs.checkpoint(f"Resume: timestep={record.step}")

    def _prove(self) -> Verdict:
        environments = self._tracked.environments()
        if self._owner._second_env is not None:
            verdict = prove_instances(self._owner._second_env(), self._owner._second_env())
        else:
            verdict = Verdict("auto", False, "no second environment was given")
        if environments or verdict.proved:
            say = logs.checkpoint if verdict.proved or self._owner._second_env is None else logs.warn_checkpoint
            say(verdict.describe())
        return verdict

    def _snapshot(self, kind: str) -> Snapshot:
        taken = self._tracked.capture(self._copies)
        for what in taken.missing:
            if what not in self._missing:
                self._missing.append(what)
                logs.warn_checkpoint(f"not captured: {what}; a resumed run starts that part anew")
        state = {"cut": kind, **taken.state}

        def fill(writer: CheckpointWriter) -> None:
            for name, tensors in taken.tensors.items():
                writer.write_member(f"{name}.pth", tensor_bytes(tensors))
            write_state(writer, state)

        return Snapshot(self.step, kind, fill, self._facts())

    def _fill_model(self, writer: CheckpointWriter) -> None:
        for name, tensors in self._tracked.exported().items():
            writer.write_member(f"{name}.pth", tensor_bytes(copied(tensors)))

    def _facts(self) -> dict[str, Any]:
        best, on_disk = self._best, self._exports.best
        legs = list(self._origin.get("legs") or [])
        begun = int(self._origin.get("step", 0))
        return {
            "run": self._folder.name,
            "scenario": self._folder.name,
            "algorithm": "own loop",
            "score": best.value if best is not None and best.step == self.step else None,
            "best": None if best is None else best.plain(),
            "best_model": None if on_disk is None else on_disk.plain(),
            "mean_reward": self._owner.score,
            "config": self._configuration(),
            "schema": self._schema(),
            "context": self._context,
            "environment_capture": self._capture_report(),
            "missing": list(self._missing),
            "lineage": self._lineage,
            "legs": [*legs, leg_entry(len(legs) + 1, self._owner._started, begun, self.step)],
            "logs": self.recorder.positions(),
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _capture_report(self) -> dict[str, Any]:
        found = self._tracked.environments()
        strategy = found[0].coverage()["strategy"] if found else "none"
        return {"strategy": strategy, "proved": self._verdict.proved, "reason": self._verdict.reason}

    def _configuration(self) -> dict[str, Any]:
        """The loop's configuration in the shape of a run's."""
        plain = {name: value for name, value in self._owner._config.items() if _is_plain(value)}
        return {
            "target": "script",
            "algo": "own loop",
            "seed": plain.pop("seed", None),
            "total_timesteps": self._total,
            "environment": {"n_envs": max(1, len(self._tracked.environments()))},
            "hyperparameters": plain,
        }

    def _schema(self) -> dict[str, Any]:
        observation, action = self._tracked.spaces()
        return {
            "observation_shape": list(getattr(observation, "shape", None) or ()),
            "action_shape": list(getattr(action, "shape", None) or ()),
            "observation_space": str(observation),
            "action_space": str(action),
            "policy_architecture": self._tracked.shapes(),
            "algorithm": "own loop",
        }

    def _write_metadata(self, record: CheckpointRecord, facts: Mapping[str, Any]) -> None:
        self._folder.write_metadata(metadata_content(record, facts))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str | None)
