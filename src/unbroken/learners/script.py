"""Drop-ins for a user's own Stable-Baselines3 script; `unbroken.sb3` is where they are imported from.

    checkpoints = RotatingCheckpointCallback(save_freq=1_000, save_path="checkpoints", name_prefix="cartpole", max_keep=2)
    model = resume_or_create(PPO, "MlpPolicy", env, checkpoints, seed=0)
    model.learn(50_000, callback=checkpoints)

Run again after any interruption, the script continues where its newest checkpoint was made and ends with the same bits.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EventCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from unbroken import logs
from unbroken.capture.callbacks import Callbacks, restore_callbacks
from unbroken.capture.construction import plain_configuration
from unbroken.capture.sb3 import ModelSnapshot, describe_schema, finished_episodes, mean_episode_reward
from unbroken.capture.selftest import Verdict, prove_instances
from unbroken.capture.vector_environments import coverage, make_capturable
from unbroken.compatibility import Verdict as Change
from unbroken.compatibility import changes, require_compatible, require_same_schema
from unbroken.context import current_context, differences, enforce_threads
from unbroken.errors import UsageError
from unbroken.keeper import Keeper, SaveSchedule
from unbroken.learners.continuing import make_continuing
from unbroken.learners.events import cut_event_files, event_positions, sync_event_files
from unbroken.learners.monitors import continue_monitor_files, monitor_positions, sync_monitor_files
from unbroken.learners.sb3 import KeeperCallback, LeaveTraining
from unbroken.learners.stored import Stored, read_stored
from unbroken.metadata import leg_entry, metadata_content
from unbroken.restoring import find_newest, repeated_steps, require_never_saved, say_resumed
from unbroken.retention.policy import KeepNewest
from unbroken.stopping import EXIT_STOPPED, StopNow, StopRequest, stopped_code
from unbroken.store.checkpoint_file import CheckpointFile
from unbroken.store.durable import LocalBackend, write_json_durably
from unbroken.store.lock import ExclusiveLock
from unbroken.store.repository import CheckpointRecord, CheckpointRepository

A = TypeVar("A", bound=BaseAlgorithm)
_ANEW = "choose another name_prefix or save_path"
_WAYS_OUT = f"{_ANEW} to start anew, or give the stored values"


def find_latest_checkpoint(path: str | Path, prefix: str = "rl_model") -> str | None:
    """Path of the newest valid checkpoint `{prefix}_{steps}_steps.zip` in a folder, None if there is none.

    Newest by commit, not by file time. Plain `PPO.load(...)` reads the file. Only reads: files that are damaged or not
    ours are reported and left, as another process may be training here.
    """
    folder = Path(path)
    repository = CheckpointRepository(LocalBackend(folder), prefix, "")
    for record in reversed(repository.records()):
        checked = repository.verified(record)
        if checked.valid:
            return str(folder / record.path)
        logs.warn_checkpoint(f"Skipped {record.name}: {checked.problem}")
    return None


class RotatingCheckpointCallback(KeeperCallback):
    """Saves the whole training state every `save_freq` calls, keeping the newest `max_keep` checkpoints of its prefix.

    Like SB3's CheckpointCallback it counts calls: with n environments, `save_freq` calls are `n * save_freq` steps. It
    saves at the next cut, the start of a rollout, and at the end of `learn()`. Files are
    `{save_path}/{name_prefix}_{steps}_steps.zip`, ordinary SB3 zips; several prefixes may share a folder.
    `save_seconds` saves by time as well. Storage errors warn and never stop training.
    """

    def __init__(
        self,
        save_freq: int,
        save_path: str | Path,
        name_prefix: str = "rl_model",
        max_keep: int = 2,
        verbose: int = 1,
        *,
        save_seconds: float | None = None,
        grace_seconds: float = 30.0,
    ) -> None:
        if save_freq < 1:
            raise UsageError(f"save_freq={save_freq}: give a number of calls of at least 1")
        self.save_freq = save_freq
        self.save_path = Path(save_path)
        self.name_prefix = name_prefix
        self.backend = LocalBackend(self.save_path)
        self.repository = CheckpointRepository(self.backend, name_prefix, "")
        self.verdict = Verdict("auto", False, "no second environment was given")
        self._origin: Mapping[str, Any] = {}
        self._started = time.time()
        self._context: dict[str, Any] = {}
        self._schema: dict[str, Any] = {}
        self._settled: str | None = None
        keeper = Keeper(
            self.repository,
            SaveSchedule(None, save_seconds),
            [KeepNewest(max_keep)],
            before_commit=self._sync_files,
            after_commit=self._write_metadata,
        )
        super().__init__(keeper, StopRequest(grace_seconds), self._facts)
        self.on_capture = self._note_missing
        self.verbose = verbose
        self._missing: list[str] = []
        self._log = contextlib.ExitStack()
        self._lock: ExclusiveLock | None = None
        self._lock_owner = 0
        self._training = False

    def hold(self) -> bool:
        """Lock the prefix for this callback until its process ends; returns whether it was not held before.

        A callback made earlier in this process, as by running a notebook cell again, gives it up unless it is training.
        """
        if self._lock is not None and self._lock_owner == os.getpid():
            return False
        path = self.save_path / f".{self.name_prefix}.lock"
        earlier = _holders.get(os.path.realpath(path))
        if earlier is not None and not earlier._training:
            earlier.let_go()
        lock = ExclusiveLock(path, self.name_prefix)
        lock.acquire()
        self._lock, self._lock_owner = lock, os.getpid()
        # whoever drops the callback without a word has no more use for the lock
        weakref.finalize(self, lock.release)
        _holders[os.path.realpath(path)] = self
        return True

    def let_go(self) -> None:
        """Free the lock; harmless when it is not held."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def metadata_path(self) -> str:
        """Name of the metadata file beside the checkpoints."""
        return f"{self.name_prefix}_training_metadata.json"

    def metadata(self) -> dict[str, Any]:
        """What the metadata file holds, empty if there is none that can be read."""
        try:
            found = json.loads((self.save_path / self.metadata_path).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def adopt(self, manifest: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's manifest: its legs and context belong to this training."""
        self._origin = manifest

    def _note_missing(self, snapshot: ModelSnapshot) -> None:
        """Say once what a checkpoint does not hold."""
        for what in snapshot.missing:
            if what not in self._missing:
                self._missing.append(what)
                logs.warn_checkpoint(f"not captured: {what}; a resumed run starts that part anew")

    def _on_training_start(self) -> None:
        super()._on_training_start()
        if not logs.LOGGER.handlers:
            # used without resume_or_create, which opens the log for each learn()
            self._log.enter_context(_logging(self))

    def _init_callback(self) -> None:
        self.keeper.schedule.every = self.save_freq * self.model.n_envs
        self._context = self._context or current_context(may_use_gpu=self.model.device.type != "cpu")
        self._schema = describe_schema(self.model)

    def _on_training_end(self) -> None:
        continuation = getattr(self.model, "_unbroken", None)
        if continuation is not None and continuation.calls:
            continuation.calls[-1].end = self.model.num_timesteps
        self.save_end()
        self._log.close()

    def _facts(self, model: BaseAlgorithm) -> dict[str, Any]:
        step = model.num_timesteps
        legs = list(self._origin.get("legs") or [])
        return {
            "run": self.name_prefix,
            "scenario": self.name_prefix,
            "algorithm": type(model).__name__,
            "mean_reward": mean_episode_reward(model),
            "config": _configuration(model),
            "schema": self._schema,
            "context": self._context,
            "environment_capture": {
                "strategy": self._strategy(model),
                "proved": self.verdict.proved,
                "reason": self.verdict.reason,
            },
            "lineage": self._origin.get("lineage") or [],
            "legs": [*legs, leg_entry(len(legs) + 1, self._started, int(self._origin.get("step", 0)), step)],
            "logs": self._positions(model),
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _strategy(self, model: BaseAlgorithm) -> str:
        """How the environments are captured; it does not change once it is settled."""
        if self._settled in (None, "auto"):
            found = coverage(model.env) if model.env is not None else []
            self._settled = found[0]["strategy"] if found else "none"
        return self._settled or "none"

    def _positions(self, model: BaseAlgorithm) -> dict[str, int]:
        monitored = monitor_positions(model.env, self.save_path) if model.env is not None else {}
        return {**event_positions(model, self.save_path), **monitored}

    def _sync_files(self) -> None:
        sync_event_files(self.model)
        if self.model.env is not None:
            sync_monitor_files(self.model.env)

    def _write_metadata(self, record: CheckpointRecord, facts: Mapping[str, Any]) -> None:
        write_json_durably(self.backend, self.metadata_path, metadata_content(record, facts))


# by the path of the lock
_holders: weakref.WeakValueDictionary[str, RotatingCheckpointCallback] = weakref.WeakValueDictionary()


def resume_or_create(
    algorithm: type[A],
    policy: Any,
    env: Any,
    checkpoints: RotatingCheckpointCallback,
    *,
    second_env: Callable[[], Any] | None = None,
    **arguments: Any,
) -> A:
    """`algorithm(policy, env, **arguments)`, brought to the newest valid checkpoint of the callback's prefix, if any.

    The model's `learn(total_timesteps)` then counts from where that call began in the first leg: the same script starts,
    continues, and does nothing once it is complete. SIGTERM, SIGINT and SIGUSR1 save at the next cut and exit with 75.
    `second_env` makes a further instance for the self-test of the environment's capture; without it, it is "not proved".
    Environments inside a SubprocVecEnv must be wrapped in `unbroken.sb3.CaptureWrapper` by their factories.
    From here on no other process can train under the prefix, until this one ends. Raises RunLocked when another does,
    and IncompatibleRun when checkpoint and arguments do not fit.
    """
    with _held(checkpoints), _logging(checkpoints):
        if_lost = f"put a good copy back there; to start anew, {_ANEW} or remove {checkpoints.metadata_path}"
        record = find_newest(checkpoints.repository, if_lost)
        if record is None:
            require_never_saved(checkpoints.metadata(), checkpoints.name_prefix, checkpoints.save_path, if_lost)
        model = algorithm(policy, env, **arguments)
        if not isinstance(model, OnPolicyAlgorithm | OffPolicyAlgorithm):
            raise UsageError(f"{algorithm.__name__} has a training loop of its own that offers no place to save at")
        assert model.env is not None
        make_capturable(model.env)
        _prove(checkpoints, second_env)
        continuation = make_continuing(model)
        if record is not None:
            stored = _restore(model, checkpoints, record)
            continuation.calls = _calls(stored)
            continuation.iteration = int(stored.state["iteration"])
            continuation.prepare = lambda callback: _ready(model, callback, checkpoints, stored)
        else:
            continue_monitor_files(model.env, {}, checkpoints.save_path)
            continuation.prepare = lambda callback: _ready(model, callback, checkpoints, None)
        continuation.around = lambda learn: _session(checkpoints, learn)
        continuation.say = lambda message: _say(checkpoints, message)
    return model


def _calls(stored: Stored) -> list[Any]:
    from unbroken.learners.continuing import LearnCall

    calls = stored.state.get("calls")
    if calls is None:
        # saved by the callback in a script that did not use resume_or_create: one call from step 0
        return [LearnCall(0, 0, int(stored.state["model"]["num_timesteps"]) if stored.cut == "end" else None)]
    return [LearnCall(**call) for call in calls]


def _restore(model: BaseAlgorithm, checkpoints: RotatingCheckpointCallback, record: CheckpointRecord) -> Stored:
    logs.checkpoint(f"Loading checkpoint {record.name} ...")
    with CheckpointFile(checkpoints.backend, record.path) as file:
        manifest = dict(file.manifest)
        stored = read_stored(file)
    name = checkpoints.name_prefix
    mixed = _judge(manifest["config"], _configuration(model), name, record.step)
    require_same_schema(manifest["schema"], describe_schema(model), name, ways_out=_WAYS_OUT)
    enforce_threads(manifest.get("context"))
    found = differences(manifest.get("context") or {}, current_context(may_use_gpu=model.device.type != "cpu"))
    if found:
        logs.checkpoint(f"Note: exactness is not guaranteed on this leg, because {'; '.join(found)}")
    checkpoints.adopt({**manifest, "lineage": [*(manifest.get("lineage") or []), *mixed]})
    positions = manifest.get("logs") or {}
    cut_event_files(positions, checkpoints.save_path)
    assert model.env is not None
    continue_monitor_files(model.env, positions, checkpoints.save_path)
    checkpoints.begin_from(model, stored, gaps=manifest.get("missing") or [])
    path = checkpoints.save_path / record.path
    say_resumed(path, model.num_timesteps, finished_episodes(model), mean_episode_reward(model))
    return stored


def _configuration(model: BaseAlgorithm) -> dict[str, Any]:
    """The constructor's plain arguments, before any callback changed them, in the shape of a run's configuration."""
    continuation = getattr(model, "_unbroken", None)
    values = plain_configuration(model) if continuation is None else continuation.construction.plain
    plain = {name: value for name, value in values.items() if name not in ("seed", "verbose", "tensorboard_log")}
    return {
        "target": "script",
        "algo": type(model).__name__,
        "seed": model.seed,
        "total_timesteps": model._total_timesteps,
        "environment": {"n_envs": model.n_envs},
        "hyperparameters": plain,
    }


def _judge(before: dict[str, Any], now: dict[str, Any], name: str, step: int) -> list[dict[str, Any]]:
    found = [change for change in changes(before, now) if change.field != "total_timesteps"]
    require_compatible(found, name, ways_out=_WAYS_OUT)
    risky = [change for change in found if change.verdict is Change.RISKY]
    for change in risky:
        logs.warn_checkpoint(f"{change} changes the training from step {step:,} on; its lineage is now mixed")
    return [{"step": step, "field": c.field, "before": c.stored, "now": c.present} for c in risky]


def _prove(checkpoints: RotatingCheckpointCallback, second_env: Callable[[], Any] | None) -> None:
    if second_env is not None:
        checkpoints.verdict = prove_instances(second_env(), second_env())
    level = logs.checkpoint if checkpoints.verdict.proved or second_env is None else logs.warn_checkpoint
    level(checkpoints.verdict.describe())


def _ready(
    model: BaseAlgorithm, callback: Any, checkpoints: RotatingCheckpointCallback, stored: Stored | None
) -> BaseCallback:
    """The callback to train with: it includes ours, and after an "end" cut has its state back."""
    given = callback if isinstance(callback, list) else [callback] if callback is not None else []
    root = callback if isinstance(callback, BaseCallback) else CallbackList([_as_callback(item) for item in given])
    if checkpoints not in _flattened(root):
        root = CallbackList([root, checkpoints])
    for part in _flattened(root):
        # evaluation environments have generators and normalisation too
        for value in vars(part).values():
            if isinstance(value, VecEnv):
                make_capturable(value)
    if stored is not None and stored.cut == "end":
        for problem in restore_callbacks(model, Callbacks(root, (checkpoints,)), stored.state["callbacks"]):
            logs.warn_checkpoint(f"not restored: {problem}")
    return root


def _as_callback(item: Any) -> BaseCallback:
    if isinstance(item, BaseCallback):
        return item
    from stable_baselines3.common.callbacks import ConvertCallback

    return ConvertCallback(item)


def _flattened(callback: BaseCallback) -> Iterator[BaseCallback]:
    yield callback
    children = callback.callbacks if isinstance(callback, CallbackList) else []
    if isinstance(callback, EventCallback) and callback.callback is not None:
        children = [callback.callback]
    for child in children:
        yield from _flattened(child)


def _session(checkpoints: RotatingCheckpointCallback, learn: Callable[[], Any]) -> Any:
    """Run one `learn()` under lock, log and signal handlers; a stop at a cut becomes exit code 75."""
    checkpoints.hold()
    log = checkpoints.save_path / f"{checkpoints.name_prefix}.log"
    with _logging(checkpoints), logs.recording_tracebacks(log), checkpoints.stop.listening():
        checkpoints._training = True
        try:
            return learn()
        except LeaveTraining:
            logs.checkpoint("Stopped with a valid checkpoint: run the same script again to continue")
            sys.exit(EXIT_STOPPED)
        except StopNow as error:
            checkpoints.keeper.close()
            saved = checkpoints.keeper.newest_step
            logs.checkpoint(repeated_steps(checkpoints.model.num_timesteps, saved, str(error)))
            sys.exit(stopped_code(has_checkpoint=saved is not None))
        finally:
            checkpoints.keeper.close()
            checkpoints._training = False


def _say(checkpoints: RotatingCheckpointCallback, message: str) -> None:
    with _logging(checkpoints):
        logs.checkpoint(message)


@contextlib.contextmanager
def _held(checkpoints: RotatingCheckpointCallback) -> Iterator[None]:
    """Take the lock and keep it, unless what follows fails."""
    taken = checkpoints.hold()
    try:
        yield
    except BaseException:
        if taken:
            checkpoints.let_go()
        raise


@contextlib.contextmanager
def _logging(checkpoints: RotatingCheckpointCallback) -> Iterator[None]:
    with logs.logging_to(checkpoints.save_path / f"{checkpoints.name_prefix}.log", console=checkpoints.verbose > 0):
        yield
