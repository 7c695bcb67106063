"""The learner that a leg drives for every algorithm of Stable-Baselines3 and sb3-contrib."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import KVWriter, Logger

from unbroken import tracing
from unbroken.capture.environments import Strategy
from unbroken.capture.objects import class_name
from unbroken.capture.sb3 import describe_schema, finished_episodes, mean_episode_reward
from unbroken.capture.selftest import proof_key
from unbroken.capture.vector_environments import coverage, vector_layers
from unbroken.config import RunConfig
from unbroken.errors import ConfigurationError
from unbroken.exports import Score
from unbroken.journal.journal import Journal
from unbroken.learners.building import build_environment, build_model
from unbroken.learners.continuing import Continuation, make_continuing
from unbroken.learners.evaluation import Evaluation, TrainingBest
from unbroken.learners.hyperparameters import imported
from unbroken.learners.protocol import Surroundings
from unbroken.learners.sb3 import KeeperCallback, write_export
from unbroken.learners.stored import read_stored
from unbroken.progress import Progress
from unbroken.recording import Recorder
from unbroken.store.checkpoint_file import CheckpointFile, CheckpointWriter


class SB3Learner:
    """Fulfils `protocol.Learner`."""

    def __init__(self, config: RunConfig, strategy: Strategy) -> None:
        self._config = config
        self._strategy = strategy
        venv = build_environment(config, strategy)
        try:
            self._model = build_model(config, venv)
            self._users = [_user_callback(place) for place in config.callbacks]
        except BaseException:
            venv.close()
            raise
        self._callback: KeeperCallback
        self._judge: Evaluation | TrainingBest
        self._root: CallbackList
        self._continuation: Continuation
        self._journal: Journal | None = None

    @property
    def algorithm(self) -> str:
        """As the protocol says."""
        return type(self._model).__name__

    @property
    def step(self) -> int:
        """As the protocol says."""
        return int(self._model.num_timesteps)

    @property
    def best(self) -> Score | None:
        """As the protocol says."""
        return self._judge.best

    @property
    def episodes(self) -> int:
        """As the protocol says."""
        with self._journal.aside() if self._journal is not None else contextlib.nullcontext():
            return finished_episodes(self._model)

    @property
    def mean_reward(self) -> float | None:
        """As the protocol says."""
        return mean_episode_reward(self._model)

    def schema(self) -> dict[str, Any]:
        """As the protocol says."""
        return describe_schema(self._model)

    def environment_capture(self) -> dict[str, Any]:
        """As the protocol says."""
        assert self._model.env is not None
        found = coverage(self._model.env)
        return {"strategy": found[0]["strategy"] if found else None, "class": class_name(self._model.env)}

    def equip(self, surroundings: Surroundings) -> None:
        """As the protocol says: our logger, judge and callbacks around those of the user."""
        model = self._model
        model.set_logger(Logger(None, [_LoggerFormat(surroundings.recorder, surroundings.progress)]))
        self._callback = KeeperCallback(surroundings.keeper, surroundings.stop, lambda _: surroundings.facts())
        self._callback.on_capture = lambda snapshot: surroundings.note_missing(snapshot.missing)
        self._judge = self._build_judge(surroundings)
        shown = _ProgressCallback(surroundings.progress)
        self._callback.stateless = (shown,)
        self._root = CallbackList([*self._users, self._judge, shown, self._callback])
        self._continuation = make_continuing(model)
        self._continuation.records_calls = False
        self._journal = self._callback.journal = self._make_journal(surroundings)

    def restore(self, file: CheckpointFile, gaps: Sequence[str]) -> None:
        """As the protocol says."""
        stored = read_stored(file)
        self._callback.begin_from(self._model, stored, self._root, gaps)
        self._continuation.carry_on(int(stored.state["iteration"]), mid_call=stored.cut == "rollout")
        if self._journal is not None and file.manifest.get("journal"):
            self._journal.resume(file.manifest["journal"], self.step)

    def train(self) -> None:
        """As the protocol says."""
        left = self._config.total_timesteps - self._model.num_timesteps
        # None stands for the algorithm's own interval
        interval: Any = self._config.log_interval
        self._model.learn(left, self._root, interval, reset_num_timesteps=False)

    def evaluate_at_end(self) -> None:
        """As the protocol says."""
        if isinstance(self._judge, TrainingBest) or self._judge.last_step < self.step:
            self._judge.evaluate()

    def ended(self) -> None:
        """As the protocol says."""
        if self._journal is not None:
            self._journal.ended()

    def save_end(self) -> bool:
        """As the protocol says."""
        return self._callback.save_end()

    def write_model(self, writer: CheckpointWriter) -> None:
        """As the protocol says: a plain SB3 zip."""
        write_export(writer, self._model)

    def close(self) -> None:
        """As the protocol says."""
        if self._journal is not None:
            self._journal.close()
        if self._model.env is not None:
            self._model.env.close()

    def _make_journal(self, surroundings: Surroundings) -> Journal | None:
        """The journal of this training, where it saves by time. A trace follows every step by itself."""
        seconds = self._config.saving.seconds
        if seconds is None or tracing.current() is not None:
            return None
        section = self._config.environment
        evaluates = isinstance(self._judge, Evaluation)
        described = [proof_key(self._config.target, section), section.model_dump(mode="json"), evaluates]
        environment = hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16).hexdigest()
        journal = Journal(surroundings.journal, seconds, environment, surroundings.keeper, surroundings.stop)
        watched = [self._model.env, *([self._judge.eval_env] if isinstance(self._judge, Evaluation) else [])]
        for venv in watched:
            assert venv is not None
            journal.watch(list(vector_layers(venv))[-1])
        return journal

    def _build_judge(self, surroundings: Surroundings) -> Evaluation | TrainingBest:
        section = self._config.evaluation
        if section.every == 0:
            return TrainingBest(surroundings.keep_best, lambda: mean_episode_reward(self._model))
        venv = build_environment(self._config, self._strategy, evaluation=True)
        return Evaluation(venv, section.every, section.episodes, surroundings.recorder.write, surroundings.keep_best)


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


class _ProgressCallback(BaseCallback):
    """Tells a Progress where training is; it carries no training state."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def _on_step(self) -> bool:
        self._progress.at(self.num_timesteps)
        return True


def _user_callback(place: str) -> BaseCallback:
    made = imported(place)()
    if not isinstance(made, BaseCallback):
        raise ConfigurationError(f"callbacks: {place!r} is not a Stable-Baselines3 callback")
    return made
