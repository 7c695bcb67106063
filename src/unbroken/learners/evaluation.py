"""Deterministic evaluation during training, and the best model by its score.

Runs where SB3's EvalCallback runs, with the same episodes and numbers, but writes its row itself: EvalCallback dumps the
training's logger, which moves the step under which training values appear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from unbroken.exports import Score as Score


class Evaluation(BaseCallback):
    """Evaluates every `every` environment steps over `episodes` episodes.

    `record(step, values)` receives each result, `on_best` each score: whether its model is the best to keep depends on what
    is on disk, where an export may have failed or a fork has none yet. The best score and the last evaluation's step are
    training state; interval and number of episodes are not and may change from leg to leg.
    """

    CONFIGURED = frozenset({"every", "episodes"})

    def __init__(
        self,
        venv: VecEnv,
        every: int,
        episodes: int,
        record: Callable[[int, dict[str, Any]], None],
        on_best: Callable[[Score], None],
    ) -> None:
        super().__init__()
        self.eval_env = venv
        self.every = every
        self.episodes = episodes
        self.best_value: float | None = None
        self.best_step = 0
        self.last_step = 0
        self._record = record
        self._on_best = on_best

    @property
    def best(self) -> Score | None:
        """The best score so far."""
        return None if self.best_value is None else Score(self.best_value, self.best_step)

    def _on_step(self) -> bool:
        if self.num_timesteps // self.every > self.last_step // self.every:
            self.evaluate()
        return True

    def evaluate(self) -> None:
        """Evaluate now, record, and offer the model as the best."""
        step = self.model.num_timesteps
        self.last_step = step
        rewards, lengths = self._episodes()
        mean = float(np.mean(rewards))
        self._record(
            step,
            {
                "eval/mean_reward": mean,
                "eval/std_reward": float(np.std(rewards)),
                "eval/mean_ep_length": float(np.mean(lengths)),
            },
        )
        score = Score(mean, step)
        self._on_best(score)
        if score.beats(self.best):
            self.best_value, self.best_step = mean, step

    def _episodes(self) -> tuple[list[float], list[int]]:
        if self.model.get_vec_normalize_env() is not None:
            sync_envs_normalization(self.training_env, self.eval_env)
        rewards, lengths = _evaluate_policy(self.model)(
            self.model,
            self.eval_env,
            n_eval_episodes=self.episodes,
            deterministic=True,
            return_episode_rewards=True,
            warn=False,
        )
        return rewards, lengths


class TrainingBest(BaseCallback):
    """The best model by the moving average of training episodes, at cuts; used when evaluation is off."""

    CONFIGURED = frozenset({"_mean_reward"})

    def __init__(self, on_best: Callable[[Score], None], mean_reward: Callable[[], float | None]) -> None:
        super().__init__()
        self.best_value: float | None = None
        self.best_step = 0
        self._on_best = on_best
        self._mean_reward = mean_reward

    @property
    def best(self) -> Score | None:
        """The best score so far."""
        return None if self.best_value is None else Score(self.best_value, self.best_step)

    def evaluate(self) -> None:
        """Offer the model as the best, with its moving average."""
        mean = self._mean_reward()
        if mean is None:
            return
        score = Score(mean, self.model.num_timesteps)
        self._on_best(score)
        if score.beats(self.best):
            self.best_value, self.best_step = score.value, score.step

    def _on_rollout_start(self) -> None:
        self.evaluate()

    def _on_step(self) -> bool:
        return True


def _evaluate_policy(model: Any) -> Callable[..., Any]:
    if type(model).__name__ == "MaskablePPO":
        from sb3_contrib.common.maskable.evaluation import evaluate_policy as masked

        return masked
    from stable_baselines3.common.evaluation import evaluate_policy

    return evaluate_policy
