"""One leg: build the training, restore the newest checkpoint into it, drive it to the target, leave everything behind.

Importing this module imports torch and Stable-Baselines3.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import KVWriter, Logger

from unbroken import logs
from unbroken.capture.objects import class_name
from unbroken.capture.sb3 import ModelSnapshot, describe_schema, finished_episodes, mean_episode_reward
from unbroken.capture.selftest import Verdict, proof_key
from unbroken.capture.vector_environments import coverage
from unbroken.compatibility import require_same_schema
from unbroken.config import SavingConfig
from unbroken.context import current_context, differences, enforce_threads
from unbroken.errors import ConfigurationError, StorageError, UnbrokenError
from unbroken.folder import BEST, BEST_SCORE
from unbroken.keeper import Keeper, SaveSchedule, reason_of
from unbroken.learners.building import build_environment, build_model
from unbroken.learners.continuing import Continuation, make_continuing
from unbroken.learners.evaluation import Evaluation, Score, TrainingBest
from unbroken.learners.hyperparameters import imported
from unbroken.learners.sb3 import KeeperCallback, LeaveTraining, write_export
from unbroken.learners.stored import read_stored
from unbroken.locate import repository_of
from unbroken.metadata import leg_entry, metadata_content
from unbroken.progress import Progress
from unbroken.recording import Recorder, cut_recordings
from unbroken.resolving import Resolved, put_aside
from unbroken.restoring import repeated_steps, say_resumed
from unbroken.retention.policy import KeepEvery, KeepNewest, Policy
from unbroken.stopping import BY_CALLBACK, StopNow, StopRequest, leave_process
from unbroken.store.checkpoint_file import CheckpointFile, read_manifest, write_checkpoint
from unbroken.store.durable import write_json_durably
from unbroken.store.repository import CheckpointRecord


class _LoggerFormat(KVWriter):
    """Sends what SB3's logger dumps to the recorder."""

    def __init__(self, recorder: Recorder, progress: Progress) -> None:
        self._recorder = recorder
        self._progress = progress

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Append one row; a key excluded from "tensorboard" goes to the metrics file only."""
        values = dict(sorted(key_values.items()))
        scalars = {key: value for key, value in values.items() if "tensorboard" not in key_excluded.get(key, ())}
        self._progress.logged(values)
        self._recorder.write(step, values, scalars)

    def close(self) -> None:
        """The recorder belongs to the leg."""


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
        self._model: BaseAlgorithm | None = None
        self._continuation: Continuation
        self._recorder: Recorder | None = None
        self._keeper: Keeper
        self._callback: KeeperCallback
        self._judge: Evaluation | TrainingBest
        self._root: CallbackList
        self._progress = Progress(self.config.total_timesteps, resolved.step)
        self._best_on_disk: Score | None = None
        self._ended_by_callback = False
        self._next_best = 0
        self._verdict = Verdict("auto", False)
        self._missing: list[str] = []

    def build(self, verdict: Verdict) -> None:
        """Build the training as the configuration says and restore the checkpoint into it, if there is one."""
        self._verdict = verdict
        enforce_threads(self.resolved.manifest.get("context"))
        self._context = current_context()
        self._proof_key = proof_key(self.config.target, self.config.environment.kwargs)
        self._say_differences()
        venv = build_environment(self.config, verdict.strategy)
        self._model = build_model(self.config, venv)
        if self.resolved.manifest.get("schema"):
            require_same_schema(self.resolved.manifest["schema"], describe_schema(self._model), self.folder.name)
        users = [_user_callback(place) for place in self.config.callbacks]
        # nothing on disk is touched before here: the training can be built, and the checkpoint fits it
        if self.resolved.fresh:
            put_aside(self.resolved)
        self._best_on_disk = self._read_best()
        cut_recordings(self.folder.path, self.resolved.manifest.get("logs") or {})
        self._recorder = Recorder(self.folder.path)
        self._model.set_logger(Logger(None, [_LoggerFormat(self._recorder, self._progress)]))
        self._build_callbacks(verdict, users)
        self._complete_best_score()
        self._restore()

    def drive(self) -> str:
        """Train to the target or until asked to stop; returns why it ended."""
        assert self._model is not None
        goal = self.config.total_timesteps
        # None stands for the algorithm's own interval
        interval: Any = self.config.log_interval
        try:
            with self._progress.shown():
                self._model.learn(goal - self._model.num_timesteps, self._root, interval, reset_num_timesteps=False)
        except LeaveTraining:
            self.step = self._model.num_timesteps
            return f"stopped early: {self.stop.reason}"
        except StopNow as error:
            return self._stopped_between_cuts(str(error))
        except Exception as error:
            self._keeper.close()
            logs.warn_checkpoint(self._words_between_cuts(type(error).__name__))
            raise
        self.step = self._model.num_timesteps
        return self._finish() if self.step >= goal else self._stopped_by_callback()

    def close(self) -> None:
        """Wait for saves, close environments and files. May be called at any time."""
        if hasattr(self, "_keeper"):
            self._keeper.close()
        if self._model is not None and self._model.env is not None:
            self._model.env.close()
        if self._recorder is not None:
            self._recorder.close()

    def give_up(self) -> None:
        """End the process although a step has not returned: the grace time is over."""
        if hasattr(self, "_keeper"):
            self._keeper.drain(timeout=30.0)
        leave_process(lambda: self._words_between_cuts("the grace time is over"), has_checkpoint=self.has_checkpoint)

    def _build_callbacks(self, verdict: Verdict, users: list[BaseCallback]) -> None:
        assert self._model is not None
        repository = repository_of(self.folder, self.config.scenario)
        saving = self.config.saving
        policies: list[Policy] = [KeepNewest(saving.keep_last)]
        if saving.keep_every is not None:
            policies.append(KeepEvery(saving.keep_every))
        schedule = SaveSchedule(saving.every, saving.seconds)
        assert self._recorder is not None
        self._keeper = Keeper(
            repository, schedule, policies, before_commit=self._recorder.sync, after_commit=self._write_metadata
        )
        self._callback = KeeperCallback(self._keeper, self.stop, self._facts)
        self._callback.on_capture = self._note_missing
        self._judge = self._build_judge(verdict)
        shown = self._progress.callback()
        self._callback.stateless = (shown,)
        self._root = CallbackList([*users, self._judge, shown, self._callback])
        self._continuation = make_continuing(self._model)
        self._continuation.records_calls = False

    def _build_judge(self, verdict: Verdict) -> Evaluation | TrainingBest:
        model = self._model
        assert model is not None
        assert self._recorder is not None
        section = self.config.evaluation
        if section.every == 0:
            return TrainingBest(self._keep_best, lambda: mean_episode_reward(model))
        venv = build_environment(self.config, verdict.strategy, evaluation=True)
        return Evaluation(venv, section.every, section.episodes, self._recorder.write, self._keep_best)

    def _restore(self) -> None:
        record = self.resolved.record
        if record is None or self._model is None:
            return
        started = time.perf_counter()
        path = self.folder.path / record.path
        logs.checkpoint(f"Loading checkpoint {record.name} ...")
        with CheckpointFile(self.folder.backend, record.path) as file:
            stored = read_stored(file)
        gaps = self.resolved.manifest.get("missing") or []
        self._callback.begin_from(self._model, stored, self._root, gaps)
        self._continuation.carry_on(int(stored.state["iteration"]), mid_call=stored.cut == "rollout")
        note = f", leg={self.number}, restored in {time.perf_counter() - started:.2f} s"
        model = self._model
        say_resumed(path, model.num_timesteps, finished_episodes(model), mean_episode_reward(model), note)

    def _finish(self) -> str:
        assert self._model is not None
        if isinstance(self._judge, TrainingBest) or self._judge.last_step < self.step:
            self._next_best = 0
            self._judge.evaluate()
        self._keeper.close()
        final = f"{self.config.scenario}_final.zip"
        exported = self._export(final, {"kind": "final"})
        if not self._callback.save_end():
            raise StorageError(
                "the target is reached, but its checkpoint could not be saved; make room and run the same command again"
            )
        if not exported:
            raise StorageError(
                f"the target is reached, but {final} could not be written; make room and run the same command again"
            )
        logs.checkpoint(
            f"Ready for the next run: {self.folder.path} is at step {self.step:,}; "
            "--steps with a higher target, or --more N, continues"
        )
        return "target reached"

    def _stopped_by_callback(self) -> str:
        """`learn()` came back before the target, as it does when a callback returns False: no final model, but a checkpoint."""
        self._keeper.close()
        self._ended_by_callback = True
        goal = self.config.total_timesteps
        logs.warn_checkpoint(
            f"a callback stopped the training at step {self.step:,}, before its target of {goal:,} steps"
        )
        if not self._callback.save_end():
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
        now = self._model.num_timesteps if self._model is not None else self.step
        return repeated_steps(now, self._last_saved_step() if self.has_checkpoint else None, why)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to go on from: one of this leg, or the one that it began with."""
        return self.resolved.record is not None or self._saved_step() is not None

    def _last_saved_step(self) -> int:
        saved = self._saved_step()
        return self.resolved.step if saved is None else saved

    def _saved_step(self) -> int | None:
        return self._keeper.newest_step if hasattr(self, "_keeper") else None

    def _note_missing(self, snapshot: ModelSnapshot) -> None:
        """Say once what a checkpoint does not hold."""
        for what in snapshot.missing:
            if what not in self._missing:
                self._missing.append(what)
                logs.warn_checkpoint(f"not captured: {what}; a resumed run starts that part anew")

    def _say_differences(self) -> None:
        found = differences(self.resolved.manifest.get("context") or {}, self._context)
        if found:
            logs.checkpoint(f"Note: exactness is not guaranteed on this leg, because {'; '.join(found)}")
            step = self.resolved.step
            self.resolved.lineage += [{"step": step, "field": "context", "difference": line} for line in found]

    def _facts(self, model: BaseAlgorithm) -> dict[str, Any]:
        assert self._recorder is not None
        best = self._judge.best
        return {
            "run": self.folder.name,
            "scenario": self.config.scenario,
            "algorithm": type(model).__name__,
            "score": None if best is None or best.step != model.num_timesteps else best.value,
            "best": None if best is None else {"score": best.value, "step": best.step},
            "best_model": self._best_model(),
            "mean_reward": mean_episode_reward(model),
            "config": self.config.plain(),
            "schema": describe_schema(model),
            "context": self._context,
            "environment_capture": self._capture_report(model),
            "lineage": self.resolved.lineage,
            "ended_by_callback": self._ended_by_callback,
            "parent": self.resolved.stored.get("parent"),
            "legs": self._legs(model.num_timesteps),
            "logs": self._recorder.positions(),
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _best_model(self) -> dict[str, Any] | None:
        """What the best model on disk scored: after a kill it may be ahead of the training's own best, in a fork behind it."""
        best = self._best_on_disk
        return None if best is None else {"score": best.value, "step": best.step}

    def _capture_report(self, model: BaseAlgorithm) -> dict[str, Any]:
        assert model.env is not None
        found = coverage(model.env)
        return {
            "strategy": found[0]["strategy"] if found else self._verdict.strategy,
            "proved": self._verdict.proved,
            "reason": self._verdict.reason,
            "key": self._proof_key,
            "class": class_name(model.env),
        }

    def _legs(self, step: int) -> list[dict[str, Any]]:
        earlier = list(self.resolved.manifest.get("legs") or [])
        return [*earlier, leg_entry(self.number, self._started, self.resolved.step, step)]

    def _write_metadata(self, record: CheckpointRecord, facts: Mapping[str, Any]) -> None:
        self.folder.write_metadata(metadata_content(record, facts))

    def _read_best(self) -> Score | None:
        try:
            manifest = read_manifest(self.folder.backend, BEST)
            return Score(float(manifest["score"]), int(manifest["step"]))
        except (UnbrokenError, OSError, KeyError, TypeError, ValueError):
            return None

    def _complete_best_score(self) -> None:
        """The score beside the best model is written after it: a kill in between leaves an older one."""
        best = self._best_model()
        if best is not None and self.folder.best_score() != best:
            with contextlib.suppress(OSError):
                write_json_durably(self.folder.backend, BEST_SCORE, best)

    def _keep_best(self, score: Score) -> None:
        """Export the best model, unless the one on disk, perhaps of a leg that was killed later, is at least as good."""
        if not score.beats(self._best_on_disk) or score.step < self._next_best:
            return
        facts = {"kind": "best", "score": score.value, "step": score.step}
        if self._export(BEST, facts):
            self._best_on_disk = score
            logs.checkpoint(f"New best model: mean reward {score.value:.2f} at step {score.step:,}")
        elif self.config.evaluation.every == 0:
            # the moving average is offered at every cut, which may be every step: the next save's interval is soon enough
            self._next_best = score.step + (self.config.saving.every or SavingConfig().every or 1)

    def _export(self, path: str, facts: dict[str, Any]) -> bool:
        model = self._model
        assert model is not None
        context = {"run": self.folder.name, "scenario": self.config.scenario, "config": self.config.plain()}
        whole = {"step": model.num_timesteps, "created": time.time(), **context, **facts}

        def fill(writer: Any) -> dict[str, Any]:
            write_export(writer, model)
            return whole

        try:
            write_checkpoint(self.folder.backend, path, fill)
            if path == BEST:
                write_json_durably(self.folder.backend, BEST_SCORE, {"score": facts["score"], "step": facts["step"]})
        except Exception as error:  # noqa: BLE001 - serialising runs the user's code, and no export may end a training
            logs.warn_checkpoint(f"{path} was not written: {reason_of(error)}; training goes on")
            return False
        return True


def _user_callback(place: str) -> BaseCallback:
    made = imported(place)()
    if not isinstance(made, BaseCallback):
        raise ConfigurationError(f"callbacks: {place!r} is not a Stable-Baselines3 callback")
    return made
