"""The learner that a leg drives for `--algo ppo-torch`: the PPO of `learners.ppo` in the surroundings of a run.

Evaluation makes its environment anew each time and begins the same episodes: it has no state to carry over.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from unbroken import logs
from unbroken.capture.environments import CaptureWrapper, Strategy, find_capture_wrapper
from unbroken.capture.objects import class_name
from unbroken.capture.rng import seed_generators
from unbroken.capture.state_dicts import StateDictCopies
from unbroken.config import RunConfig
from unbroken.errors import ConfigurationError
from unbroken.exports import Score
from unbroken.keeper import Snapshot, reason_of
from unbroken.learners import ppo_files
from unbroken.learners.hyperparameters import constructor_arguments
from unbroken.learners.ppo import PPO, Copies, PPOSettings
from unbroken.learners.protocol import LeaveTraining, Surroundings
from unbroken.learners.stored import read_stored
from unbroken.stopping import StopNow
from unbroken.store.checkpoint_file import CheckpointFile, CheckpointWriter
from unbroken.targets import make_environment

# evaluation episodes must not be the training's: copy k has the seed `seed + k`
_EVALUATION_SEED_OFFSET = 1_000_000
_WINDOW = 100


class PPOLearner:
    """Fulfils `protocol.Learner`."""

    def __init__(self, config: RunConfig, strategy: Strategy) -> None:
        _require_plain(config)
        self._config = config
        settings = PPOSettings(**constructor_arguments(PPOSettings, config.hyperparameters, None))
        seed_generators(config.seed)
        section = config.environment
        copies = [
            CaptureWrapper(make_environment(config.target, section.kwargs), strategy, section.replay_limit)
            for _ in range(section.n_envs)
        ]
        self._ppo = PPO(Copies(copies, config.seed), settings, seed=config.seed, device=_device(config.device))
        self._tools: Surroundings
        self._best: Score | None = None
        self._last_evaluation = 0
        self._gaps: tuple[str, ...] = ()
        self._copies = StateDictCopies()
        self._gaps_said = False
        self._began = (time.monotonic(), 0)

    @property
    def algorithm(self) -> str:
        """As the protocol says."""
        return "PPOTorch"

    @property
    def step(self) -> int:
        """As the protocol says."""
        return self._ppo.timestep

    @property
    def best(self) -> Score | None:
        """As the protocol says."""
        return self._best

    @property
    def episodes(self) -> int:
        """As the protocol says."""
        return self._ppo.episode

    @property
    def mean_reward(self) -> float | None:
        """As the protocol says, over the last 100."""
        return float(np.mean(self._ppo.episode_rewards[-_WINDOW:])) if self._ppo.episode else None

    def schema(self) -> dict[str, Any]:
        """As the protocol says."""
        observation, action = self._ppo.copies.observation_space, self._ppo.copies.action_space
        parts = {"actor": self._ppo.actor, "critic": self._ppo.critic}
        tensors = {f"{name}.{key}": v for name, part in parts.items() for key, v in part.state_dict().items()}
        return {
            "observation_shape": list(observation.shape or ()),
            "action_shape": list(action.shape or ()),
            "observation_space": str(observation),
            "action_space": str(action),
            "policy_architecture": {name: list(value.shape) for name, value in tensors.items()},
            "algorithm": self.algorithm,
        }

    def environment_capture(self) -> dict[str, Any]:
        """As the protocol says."""
        wrapper = find_capture_wrapper(self._ppo.copies.environments[0])
        assert wrapper is not None
        return {"strategy": wrapper.coverage()["strategy"], "class": class_name(self._ppo.copies)}

    def equip(self, surroundings: Surroundings) -> None:
        """As the protocol says."""
        self._tools = surroundings

    def restore(self, file: CheckpointFile, gaps: Sequence[str]) -> None:
        """As the protocol says."""
        self._gaps, self._gaps_said = tuple(gaps), True
        for gap in self._gaps:
            logs.warn_checkpoint(f"the checkpoint does not hold {gap}: that part starts anew")
        stored = read_stored(file)
        for problem in ppo_files.restore(self._ppo, stored):
            logs.warn_checkpoint(f"not restored: {problem}")
        judged = stored.state["judged"]
        self._last_evaluation = int(judged["last"])
        self._best = None if judged["best"] is None else Score(*judged["best"])
        self._tools.keeper.begins_at(self.step)

    def train(self) -> None:
        """As the protocol says."""
        self._began = (time.monotonic(), self.step)
        self._ppo.learn(self._config.total_timesteps, self._at_cut, self._after_update, self._on_step)

    def evaluate_at_end(self) -> None:
        """As the protocol says."""
        if self._config.evaluation.every == 0:
            self._judge(self.mean_reward)
        elif self._last_evaluation < self.step:
            self._evaluate()

    def ended(self) -> None:
        """As the protocol says; there is no journal."""

    def save_end(self) -> bool:
        """As the protocol says."""
        return self._tools.keeper.save(lambda: self._snapshot("end"), wait=True)

    def write_model(self, writer: CheckpointWriter) -> None:
        """As the protocol says: a `.pt` of the networks."""
        ppo_files.write_model(writer, self._ppo)

    def close(self) -> None:
        """As the protocol says."""
        self._ppo.copies.close()

    def _at_cut(self) -> None:
        if not self._gaps_said:
            self._say_gaps()
        if self._config.evaluation.every == 0:
            self._judge(self.mean_reward)
        if self._tools.keeper.at_cut(self.step, lambda: self._snapshot("rollout"), self._tools.stop):
            raise LeaveTraining

    def _say_gaps(self) -> None:
        """At the start of a training, and not hours later with its first checkpoint: what none of them will hold."""
        self._gaps_said = True
        try:
            self._snapshot("rollout")
        except Exception as error:  # noqa: BLE001 - capturing runs the user's code, and no save may end a training
            logs.warn_checkpoint(f"as it stands now, no checkpoint can be captured: {reason_of(error)}")

    def _on_step(self) -> None:
        self._tools.progress.at(self.step)
        if self._tools.stop.grace_is_over:
            raise StopNow("the grace time is over")

    def _after_update(self, values: dict[str, float]) -> None:
        per_rollout = self._ppo.settings.n_steps * len(self._ppo.copies.environments)
        iteration = self.step // per_rollout
        if iteration % (self._config.log_interval or 1) == 0:
            self._log(iteration, values)
        every = self._config.evaluation.every
        if every and self.step // every > self._last_evaluation // every:
            self._evaluate()

    def _log(self, iteration: int, values: dict[str, float]) -> None:
        began, at_step = self._began
        row: dict[str, Any] = {"time/iterations": iteration, **values}
        row["time/fps"] = int((self.step - at_step) / max(time.monotonic() - began, 1e-9))
        if self._ppo.episode:
            row["rollout/ep_rew_mean"] = self.mean_reward
            row["rollout/ep_len_mean"] = float(np.mean(self._ppo.episode_lengths[-_WINDOW:]))
        self._tools.progress.logged(row)
        self._tools.recorder.write(self.step, dict(sorted(row.items())))

    def _snapshot(self, cut: str) -> Snapshot:
        best = None if self._best is None else [self._best.value, self._best.step]
        judged = {"best": best, "last": self._last_evaluation}
        taken = ppo_files.capture(self._ppo, cut, self._copies, judged=judged)
        self._tools.note_missing(taken.missing)
        facts = {**self._tools.facts(), "missing": list(dict.fromkeys([*self._gaps, *taken.missing]))}
        return Snapshot(self.step, cut, taken.write, facts)

    def _judge(self, mean_reward: float | None) -> None:
        """Offer the present model as the best."""
        if mean_reward is None:
            return
        score = Score(mean_reward, self.step)
        self._tools.keep_best(score)
        if score.beats(self._best):
            self._best = score

    def _evaluate(self) -> None:
        """Play the evaluation's episodes with the most probable actions, record, and judge."""
        self._last_evaluation = self.step
        env = make_environment(self._config.target, self._config.environment.kwargs)
        try:
            played = [self._episode(env, k) for k in range(self._config.evaluation.episodes)]
        finally:
            env.close()
        rewards, lengths = zip(*played, strict=True)
        mean = float(np.mean(rewards))
        values = {
            "eval/mean_reward": mean,
            "eval/std_reward": float(np.std(rewards)),
            "eval/mean_ep_length": float(np.mean(lengths)),
        }
        self._tools.recorder.write(self.step, values)
        self._judge(mean)

    def _episode(self, env: Any, number: int) -> tuple[float, int]:
        observation, _ = env.reset(seed=(self._config.seed + _EVALUATION_SEED_OFFSET + number) % 2**32)
        total, length, over = 0.0, 0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(self._ppo.predict(observation))
            total, length, over = total + float(reward), length + 1, bool(terminated or truncated)
        return total, length


def _require_plain(config: RunConfig) -> None:
    """Refuse what only the learner of Stable-Baselines3 has. Raises ConfigurationError."""
    section = config.environment
    refused = {
        "environment.vec_env": section.vec_env == "subproc",
        "environment.frame_stack": section.frame_stack is not None,
        "environment.normalize": section.normalize is not None,
        "policy": config.policy is not None,
        "callbacks": bool(config.callbacks),
    }
    if given := [name for name, wrong in refused.items() if wrong]:
        raise ConfigurationError(
            f"ppo_torch has no {', '.join(given)}: it steps its copies in this process, as they are; wrap the environment "
            "in a class of your own, or use --algo ppo"
        )


def _device(name: str) -> str:
    """The device to train on: the CPU where there is no GPU, with a word if one was asked for."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        logs.warn_checkpoint(f"device {name!r}: there is no usable GPU here; the training runs on the CPU")
        return "cpu"
    return name
