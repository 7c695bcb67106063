"""One leg: build the training, restore the newest checkpoint into it, drive it to the target, leave everything behind.

What trains is a `learners.protocol.Learner`. Making a leg imports the libraries of its algorithm.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from unbroken import logs
from unbroken.capture.environments import Strategy
from unbroken.capture.selftest import Verdict, proof_key
from unbroken.compatibility import require_same_schema
from unbroken.config import RunConfig, SavingConfig
from unbroken.context import current_context, differences, enforce_threads
from unbroken.errors import StorageError, UsageError
from unbroken.exports import Exports
from unbroken.folder import JOURNAL, file_names
from unbroken.keeper import Keeper, SaveSchedule
from unbroken.learners.protocol import Learner, LeaveTraining, Surroundings
from unbroken.locate import repository_of
from unbroken.metadata import leg_entry, metadata_content
from unbroken.progress import Progress
from unbroken.recording import METRICS, Recorder, cut_recordings
from unbroken.resolving import Resolved, put_aside
from unbroken.restoring import repeated_steps, say_resumed
from unbroken.retention.policy import KeepEvery, KeepNewest, Policy
from unbroken.stopping import BY_CALLBACK, StopNow, StopRequest, leave_process
from unbroken.store.checkpoint_file import CheckpointFile
from unbroken.store.repository import CheckpointRecord
from unbroken.tracking.forwarder import Forwarder, trackers_of

# for trackers at the end of a leg: they are the least that it waits for
_PATIENCE_SECONDS, _LEAST_PATIENCE_SECONDS = 60.0, 2.0


def learner_class(algo: str) -> Callable[[RunConfig, Strategy], Learner]:
    """What builds the learner of an algorithm. Imports its libraries, which takes seconds."""
    if algo == "ppo_torch":
        from unbroken.learners.plain_ppo import PPOLearner

        return PPOLearner
    from unbroken.learners.stable_baselines import SB3Learner

    return SB3Learner


class Leg:
    """One process's share of a run. Used once, by the training thread; `give_up` may be called from another."""

    def __init__(self, resolved: Resolved, stop: StopRequest) -> None:
        self.resolved = resolved
        self.config = resolved.config
        self.folder = resolved.folder
        self.stop = stop
        self.step = resolved.step
        self.number = len(resolved.manifest.get("legs") or []) + 1
        self._started = time.time()
        # imported here and not in `build`: the self-test runs meanwhile
        self._learner_class = learner_class(self.config.algo)
        self._learner: Learner | None = None
        self._recorder: Recorder | None = None
        self._forwarder: Forwarder | None = None
        self._keeper: Keeper
        self._exports: Exports
        self._progress = Progress(self.config.total_timesteps, resolved.step)
        self._ended_by_callback = False
        self._verdict = Verdict("auto", False)
        self._missing: list[str] = []
        self._captured: dict[str, Any] | None = None
        # what a tracker's client may do at the end of the process is not waited for then
        self.tracker_hangs = False

    def build(self, verdict: Verdict) -> None:
        """Build the training as the configuration says and restore the checkpoint into it, if there is one."""
        self._verdict = verdict
        enforce_threads(self.resolved.manifest.get("context"))
        self._require_device()
        trackers = trackers_of(self.config.tracking, self.folder.path)
        self._context = current_context(may_use_gpu=self.config.device != "cpu")
        self._proof_key = proof_key(self.config.target, self.config.environment)
        self._say_differences()
        learner = self._learner = self._learner_class(self.config, verdict.strategy)
        self._schema = learner.schema()
        if self.resolved.manifest.get("schema"):
            require_same_schema(self.resolved.manifest["schema"], self._schema, self.folder.name)
        # nothing on disk is touched before here: the training can be built, and the checkpoint fits it
        if self.resolved.fresh:
            put_aside(self.resolved)
        self._exports = self._make_exports(learner)
        cut_recordings(self.folder.path, self._positions())
        self._recorder = Recorder(self.folder.path)
        self._forwarder = Forwarder(self.folder.path, trackers, self.folder.name, self._told_to_trackers())
        self._keeper = self._make_keeper(self._recorder)
        learner.equip(
            Surroundings(
                self._recorder,
                self._keeper,
                self.stop,
                self._progress,
                lambda: self._facts(learner),
                self._exports.keep_best,
                self._note_missing,
                self.folder.path / JOURNAL,
            )
        )
        self._exports.complete_best_score()
        self._restore(learner)

    def _positions(self) -> Mapping[str, int]:
        """Where the checkpoint's recordings end. A fork of a lone file has none of its parent's."""
        stored, step = self.resolved.stored, self.resolved.step
        begins = (stored.get("parent") or {}).get("step") == step and self.resolved.record is not None
        if begins and stored.get("recordings") is False:
            logs.checkpoint(f"The curves before step {step:,} stayed with the parent run: these begin here")
            return {}
        return self.resolved.manifest.get("logs") or {}

    def _require_device(self) -> None:
        """Raise UsageError where a training would begin on another device than asked for; begun on a GPU, it goes on without."""
        import torch

        if self.resolved.record is None and self.config.device.startswith("cuda") and not torch.cuda.is_available():
            raise UsageError(f"device {self.config.device!r}: there is no usable GPU here; choose auto or cpu")

    def drive(self) -> str:
        """Train to the target or until asked to stop; returns why it ended."""
        learner = self._learner
        assert learner is not None
        try:
            with self._progress.shown():
                learner.train()
            reached = learner.step >= self.config.total_timesteps
            if reached:
                # here, for with a journal it can be left and gone on with like the training
                self._exports.try_again_at_once()
                learner.evaluate_at_end()
        except LeaveTraining:
            self.step = learner.step
            return f"stopped early: {self.stop.reason}"
        except StopNow as error:
            return self._stopped_between_cuts(str(error))
        except Exception as error:
            self._keeper.close()
            logs.warn_checkpoint(self._words_between_cuts(type(error).__name__))
            raise
        self.step = learner.step
        return self._finish(learner) if reached else self._stopped_by_callback(learner)

    def close(self) -> None:
        """Wait for saves; close environments, files and trackers, each whatever happens to the others. For any time."""
        with contextlib.ExitStack() as last_first:
            last_first.callback(self._close_trackers)
            if self._recorder is not None:
                last_first.callback(self._recorder.close)
            if self._learner is not None:
                last_first.callback(self._learner.close)
            if hasattr(self, "_keeper"):
                last_first.callback(self._keeper.close)

    def _close_trackers(self) -> None:
        if self._forwarder is None:
            return
        # until the opposite is known, also where somebody does not wait so long
        self.tracker_hangs = True
        patience = max(_LEAST_PATIENCE_SECONDS, min(_PATIENCE_SECONDS, self.stop.seconds_left - 1.0))
        complete = self.step >= self.config.total_timesteps
        self._forwarder.close(complete=complete, patience_seconds=patience)
        self.tracker_hangs = self._forwarder.hangs

    def give_up(self) -> None:
        """End the process although a step has not returned: the grace time is over."""
        if hasattr(self, "_keeper"):
            self._keeper.drain(timeout=30.0)
        leave_process(lambda: self._words_between_cuts("the grace time is over"), has_checkpoint=self.has_checkpoint)

    def _make_exports(self, learner: Learner) -> Exports:
        saving, config = self.config.saving, self.config
        facts = {"run": self.folder.name, "scenario": config.scenario, "config": config.plain()}
        # the moving average is offered at every cut, which may be every step: the next save's interval is soon enough
        patience = (saving.every or SavingConfig().every or 1) if config.evaluation.every == 0 else 0
        names = file_names(config.scenario, config.algo)
        return Exports(self.folder, names, learner.write_model, facts, patience)

    def _make_keeper(self, recorder: Recorder) -> Keeper:
        saving = self.config.saving
        policies: list[Policy] = [KeepNewest(saving.keep_last)]
        if saving.keep_every is not None:
            policies.append(KeepEvery(saving.keep_every))
        return Keeper(
            repository_of(self.folder, self.config.scenario, self.config.algo),
            SaveSchedule(saving.every, saving.seconds),
            policies,
            before_commit=recorder.sync,
            after_commit=self._write_metadata,
        )

    def _restore(self, learner: Learner) -> None:
        record = self.resolved.record
        if record is None:
            return
        started = time.perf_counter()
        path = self.folder.path / record.path
        logs.checkpoint(f"Loading checkpoint {record.name} ...")
        with CheckpointFile(self.folder.backend, record.path) as file:
            learner.restore(file, self.resolved.manifest.get("missing") or [])
        note = f", leg={self.number}, restored in {time.perf_counter() - started:.2f} s"
        if self._keeper.newest_point is not None:
            note += f", journal to timestep={self._keeper.newest_point}"
        say_resumed(path, learner.step, learner.episodes, learner.mean_reward, note)

    def _finish(self, learner: Learner) -> str:
        learner.ended()
        self._keeper.close()
        exported = self._exports.write_final(self.step)
        if not learner.save_end():
            raise StorageError(
                "the target is reached, but its checkpoint could not be saved; make room and run the same command again"
            )
        if not exported:
            raise StorageError(
                f"the target is reached, but {self._exports.final} could not be written; make room and run the same command again"
            )
        self._exports.say_reached(self.step, self.config.total_timesteps)
        return "target reached"

    def _stopped_by_callback(self, learner: Learner) -> str:
        """The training came back before the target, as it does when a callback returns False: no final model, but a checkpoint."""
        learner.ended()
        self._keeper.close()
        self._ended_by_callback = True
        goal = self.config.total_timesteps
        logs.warn_checkpoint(
            f"a callback stopped the training at step {self.step:,}, before its target of {goal:,} steps"
        )
        if not learner.save_end():
            self._keeper.without_last_save(self.step)
            self.step = self._last_saved_step()
        return BY_CALLBACK

    def _stopped_between_cuts(self, why: str) -> str:
        self._keeper.close()
        words = self._words_between_cuts(why)
        logs.checkpoint(words)
        self.step = self._last_saved_step()
        return f"stopped early: {why}"

    def _words_between_cuts(self, why: str) -> str:
        now = self._learner.step if self._learner is not None else self.step
        saved = self._last_saved_step() if self.has_checkpoint else None
        # a step is in the journal before the learner has counted it, and in a replay long before
        return repeated_steps(now if saved is None else max(now, saved), saved, why)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to go on from: one of this leg, or the one that it began with."""
        return self.resolved.record is not None or self._saved_step() is not None

    def _last_saved_step(self) -> int:
        saved = self._saved_step()
        return self.resolved.step if saved is None else saved

    def _saved_step(self) -> int | None:
        if not hasattr(self, "_keeper"):
            return None
        found = [step for step in (self._keeper.newest_step, self._keeper.newest_point) if step is not None]
        return max(found, default=None)

    def _note_missing(self, missing: Sequence[str]) -> None:
        """Say once what a checkpoint does not hold."""
        for what in missing:
            if what not in self._missing:
                self._missing.append(what)
                logs.warn_checkpoint(f"not captured: {what}; a resumed run starts that part anew")

    def _say_differences(self) -> None:
        found = differences(self.resolved.manifest.get("context") or {}, self._context)
        if found:
            logs.checkpoint(f"Note: exactness is not guaranteed on this leg, because {'; '.join(found)}")
            step = self.resolved.step
            entries = [{"step": step, "field": "context", "difference": line} for line in found]
            self.resolved.lineage += [entry for entry in entries if entry not in self.resolved.lineage]

    def _facts(self, learner: Learner) -> dict[str, Any]:
        assert self._recorder is not None
        # after a kill the best on disk may be ahead of the training's own best, in a fork behind it
        best, on_disk = learner.best, self._exports.best
        return {
            "run": self.folder.name,
            "scenario": self.config.scenario,
            "algorithm": learner.algorithm,
            "score": None if best is None or best.step != learner.step else best.value,
            "best": None if best is None else best.plain(),
            "best_model": None if on_disk is None else on_disk.plain(),
            "mean_reward": learner.mean_reward,
            "config": self.config.plain(),
            "schema": self._schema,
            "context": self._context,
            "environment_capture": self._capture_report(learner),
            "lineage": self.resolved.lineage,
            "ended_by_callback": self._ended_by_callback,
            "parent": self.resolved.stored.get("parent"),
            "legs": self._legs(learner.step),
            "logs": self._recorder.positions(),
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _capture_report(self, learner: Learner) -> dict[str, Any]:
        if self._captured is None or self._captured["strategy"] in (None, "auto"):
            # once an environment's first reset has settled it, it stays
            self._captured = learner.environment_capture()
        found = self._captured
        return {
            "strategy": found["strategy"] or self._verdict.strategy,
            "proved": self._verdict.proved,
            "reason": self._verdict.reason,
            "key": self._proof_key,
            "class": found["class"],
        }

    def _legs(self, step: int) -> list[dict[str, Any]]:
        earlier = list(self.resolved.manifest.get("legs") or [])
        return [*earlier, leg_entry(self.number, self._started, self.resolved.step, step)]

    def _write_metadata(self, record: CheckpointRecord, facts: Mapping[str, Any]) -> None:
        self.folder.write_metadata(metadata_content(record, facts))
        if self._forwarder is not None:
            self._forwarder.forward(int(facts["logs"][METRICS]))

    def _told_to_trackers(self) -> dict[str, Any]:
        parent = self.resolved.stored.get("parent")
        return {**self.config.plain(), **({} if parent is None else {"parent": parent})}
