"""Many environments in one process, advanced by one kernel call: a `VecEnv` of Stable-Baselines3."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from unbroken.traffic.environments import TrafficEnv
from unbroken.traffic.tasks.base import checked_actions


class BatchedVecEnv(VecEnv):
    """`n_envs` copies of a traffic environment in one batch.

    Row by row what `n_envs` environments alone would give for the same seeds and actions, bit for bit. All episodes have the same
    length, so all end at the same step. Infos hold "episode" (return, length) and "terminal_observation" then, and no more.
    """

    def __init__(self, env_class: type[TrafficEnv], n_envs: int, **kwargs: Any) -> None:
        self.env = env_class(**kwargs)
        self.task = env_class.task_class(
            self.env.scenario, n_envs, self.env.task.horizon.measured, self.env.task.horizon.drain
        )
        self._generators = [np.random.default_rng(seed) for seed in np.random.SeedSequence().spawn(n_envs)]
        self._returns = np.zeros(n_envs)
        self._begun = False
        self._actions: NDArray[Any] = np.zeros((n_envs, *self.task.action_space.shape))
        super().__init__(n_envs, self.env.observation_space, self.env.action_space)

    def reset(self) -> VecEnvObs:
        """New episodes everywhere. Seeds set by `seed` are used once, as those of environments' `reset`."""
        for b, seed in enumerate(self._seeds):
            if seed is not None:
                self._generators[b] = gymnasium.utils.seeding.np_random(seed)[0]
        self._reset_seeds()
        self._begin()
        return self.task.observe()

    def _begin(self) -> None:
        self._begun = True
        self.task.begin(self._generators)
        self._returns[:] = 0.0

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for `step_wait`."""
        if not self._begun:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        self._actions = checked_actions(self.task.action_space, self.num_envs, actions)

    def step_wait(self) -> VecEnvStepReturn:
        """One decision everywhere."""
        rewards = self.task.decide(self._actions)
        self._returns += rewards
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        over = self.task.over
        observations = self.task.observe()
        if over:
            for b, info in enumerate(infos):
                info["terminal_observation"] = observations[b]
                info["TimeLimit.truncated"] = True
                info["episode"] = {"r": float(self._returns[b]), "l": self.task.n_decisions, "t": 0.0}
            self._begin()
            observations = self.task.observe()
        return observations, rewards.astype(np.float32), np.full(self.num_envs, over), infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Legal choices, shape (n_envs, sum of the parts' sizes)."""
        return self.task.masks()

    def get_state(self) -> dict[str, Any]:
        """Everything that changes, for all environments."""
        states = [generator.bit_generator.state for generator in self._generators]
        own = {"generators": states, "returns": self._returns.copy(), "begun": self._begun, "seeds": list(self._seeds)}
        return {"task": self.task.get_state(), **own}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where `get_state` was called."""
        self.task.set_state(state["task"])
        for generator, own in zip(self._generators, state["generators"], strict=True):
            generator.bit_generator.state = own
        self._returns = np.array(state["returns"])
        self._begun, self._seeds = bool(state["begun"]), list(state["seeds"])

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """What all copies share (spaces, scenario, render_mode, ...), or `action_masks` as a function of each."""
        if attr_name == "action_masks":
            return [functools.partial(self._mask_of, b) for b in self._chosen(indices)]
        if attr_name in ("task", "np_random"):
            raise AttributeError(f"copies of a batch have no {attr_name} of their own; see BatchedVecEnv.task")
        return [getattr(self.env, attr_name) for _ in self._chosen(indices)]

    def _mask_of(self, b: int) -> NDArray[np.bool_]:
        return np.asarray(self.task.masks()[b])

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Copies of a batch share everything that could be set: refused."""
        raise NotImplementedError(f"{attr_name} cannot be set in copies of a batch; make another one")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """`action_masks` of the chosen environments; other methods are those of single environments and are not offered."""
        if method_name != "action_masks" or method_args or method_kwargs:
            raise NotImplementedError(f"a batch has no {method_name} of single environments")
        masks = self.task.masks()
        return [masks[b] for b in self._chosen(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Environments of a batch have no wrappers."""
        return [False for _ in self._chosen(indices)]

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Pictures are drawn by single environments."""
        return [None] * self.num_envs

    def _chosen(self, indices: VecEnvIndices) -> Iterable[int]:
        return self._get_indices(indices)
