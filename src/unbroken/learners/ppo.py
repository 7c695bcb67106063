"""Proximal policy optimisation (Schulman et al., 2017, arXiv:1707.06347) in plain PyTorch, to be read from top to bottom.

Separate actor and critic with an optimizer each, generalised advantage estimation, clipping, copies of an environment stepped
one after another, discrete and continuous actions. What an environment step needs is done in numpy: networks of this size
spend more time in PyTorch's dispatch than in arithmetic. Values and log-probabilities are computed in one pass per rollout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from unbroken.capture.environments import CaptureWrapper, find_capture_wrapper
from unbroken.errors import UsageError

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class PPOSettings:
    """Hyper-parameters under Stable-Baselines3's names.

    `n_steps` is per copy of the environment. `learning_rate` may be a function of the remaining progress, from 1 to 0.
    """

    learning_rate: float | Callable[[float], float] = 3e-4
    n_steps: int = 256
    batch_size: int = 64
    n_epochs: int = 10
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.0
    max_grad_norm: float = 0.5
    normalize_advantage: bool = True
    net_arch: Sequence[int] = (64, 64)

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_size", "n_epochs"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise UsageError(f"{name} is a whole number of at least 1, not {getattr(self, name)!r}")

    def rate(self, progress_remaining: float) -> float:
        """The learning rate when this share of the training remains."""
        rate = self.learning_rate
        return rate(progress_remaining) if callable(rate) else float(rate)


def generalized_advantages(
    rewards: np.ndarray, values: np.ndarray, next_values: np.ndarray, ended: np.ndarray, gamma: float, gae_lambda: float
) -> np.ndarray:
    """Advantages after Schulman et al. (2016, arXiv:1506.02438), eq. 16; all arrays are [steps, copies].

    `next_values` are those of the state that follows: 0 after a terminal one, V(last observation) after a truncation. `ended`
    says that an episode ended with the step: nothing flows back over that.
    """
    deltas = rewards + gamma * next_values - values
    decay = gamma * gae_lambda * (1.0 - ended)
    advantages: np.ndarray = np.empty_like(deltas)
    following = np.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        following = deltas[t] + decay[t] * following
        advantages[t] = following
    return advantages


class Copies:
    """Copies of one environment in this process; one whose episode ends is reset within the same step.

    `observations` is float32 [copies, size]: observations are flattened, discrete ones to one-hot vectors.
    """

    def __init__(self, environments: Sequence[gymnasium.Env[Any, Any]], seed: int = 0) -> None:
        # wrapped, so that a checkpoint holds them in the middle of their episodes
        self.environments = [env if find_capture_wrapper(env) else CaptureWrapper(env) for env in environments]
        self.observation_space = self.environments[0].observation_space
        self.action_space = self.environments[0].action_space
        self.observations = np.zeros((len(self.environments), observation_size(self.observation_space)), np.float32)
        self.returns = [0.0] * len(self.environments)
        self.lengths = [0] * len(self.environments)
        self.finished: list[tuple[float, int]] = []
        self._flat = isinstance(self.observation_space, spaces.Box) and len(self.observation_space.shape) == 1
        for k, env in enumerate(self.environments):
            env.action_space.seed(seed + k)
            self.observations[k] = self.flat(env.reset(seed=seed + k)[0])

    def flat(self, observation: Any) -> Any:
        """An observation as numbers in a row."""
        return observation if self._flat else spaces.flatten(self.observation_space, observation)

    def step(self, actions: Sequence[Any], rewards: np.ndarray, ended: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Step every copy, filling `rewards` and `ended`; returns copy and last observation of truncated episodes."""
        truncated_at = []
        for k, env in enumerate(self.environments):
            observation, reward, terminated, truncated, _ = env.step(actions[k])
            rewards[k] = reward
            self.returns[k] += float(reward)
            self.lengths[k] += 1
            ended[k] = terminated or truncated
            if terminated or truncated:
                if not terminated:
                    truncated_at.append((k, np.array(self.flat(observation), np.float32)))
                observation = self._next_episode(k, env)
            self.observations[k] = self.flat(observation)
        return truncated_at

    def close(self) -> None:
        """Close every copy."""
        for env in self.environments:
            env.close()

    def _next_episode(self, k: int, env: gymnasium.Env[Any, Any]) -> Any:
        self.finished.append((self.returns[k], self.lengths[k]))
        self.returns[k], self.lengths[k] = 0.0, 0
        return env.reset()[0]


def network(sizes: Sequence[int], last_gain: float, generator: torch.Generator) -> nn.Sequential:
    """Linear layers with tanh between them, orthogonally initialised."""
    layers: list[nn.Module] = []
    for k in range(len(sizes) - 1):
        linear = nn.Linear(sizes[k], sizes[k + 1])
        last = k == len(sizes) - 2
        nn.init.orthogonal_(linear.weight, last_gain if last else math.sqrt(2), generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)


class Actor(nn.Module):
    """A policy: logits of discrete actions, or means of a Gaussian whose deviation does not depend on the state."""

    def __init__(
        self, size: int, action_space: gymnasium.Space[Any], net_arch: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.discrete = isinstance(action_space, spaces.Discrete)
        outputs = action_size(action_space)
        self.net = network([size, *net_arch, outputs], 0.01, generator)
        if not self.discrete:
            self.log_std = nn.Parameter(torch.zeros(outputs))

    def log_probabilities(self, outputs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [batch] of actions, from what `net` gives for their observations."""
        if self.discrete:
            return outputs.log_softmax(-1).gather(1, actions).squeeze(1)
        scaled = (actions - outputs) * (-self.log_std).exp()
        return -0.5 * scaled.square().sum(-1) - self.log_std.sum() - _HALF_LOG_TAU * outputs.shape[1]

    def entropy(self, outputs: torch.Tensor) -> torch.Tensor:
        """Mean entropy of the policy in nats."""
        if self.discrete:
            logs = outputs.log_softmax(-1)
            return -(logs.exp() * logs).sum(-1).mean()
        return self.log_std.sum() + (0.5 + _HALF_LOG_TAU) * outputs.shape[1]


class FlatAdam:
    """Adam over one vector that holds all parameters of a module, whose gradients lie in another: few, large operations."""

    def __init__(self, module: nn.Module, rate: float, max_grad_norm: float) -> None:
        parameters = list(module.parameters())
        self.vector = nn.Parameter(torch.cat([parameter.detach().reshape(-1) for parameter in parameters]))
        self.gradient = self.vector.grad = torch.zeros_like(self.vector)
        self.max_grad_norm = max_grad_norm
        place = 0
        for parameter in parameters:
            size = parameter.numel()
            # views: the module computes with the vector, and autograd adds into the gradient
            parameter.data = self.vector.data[place : place + size].view_as(parameter)
            parameter.grad = self.gradient[place : place + size].view_as(parameter)
            place += size
        self.adam = torch.optim.Adam([self.vector], rate, eps=1e-5, fused=True)

    def step(self, rate: float) -> None:
        """One step along the gradient, of at most `max_grad_norm`; the gradient is zero afterwards."""
        self.adam.param_groups[0]["lr"] = rate
        self.gradient.mul_((self.max_grad_norm / (self.gradient.norm() + 1e-6)).clamp(max=1.0))
        self.adam.step()
        self.gradient.zero_()

    def load_per_parameter(self, state: Mapping[str, Any]) -> None:
        """Take the moments of an ordinary Adam over the same parameters, in their order, or those of one over the vector.

        Raises KeyError, ValueError or RuntimeError where they do not fit; the optimizer is then as it was.
        """
        held = [state["state"][k] for k in sorted(state["state"])]
        joined = {key: torch.cat([part[key].reshape(-1) for part in held]) for key in ("exp_avg", "exp_avg_sq")}
        if any(len(moments) != len(self.vector) for moments in joined.values()):
            raise ValueError("moments of another number of parameters")
        steps = torch.as_tensor(held[0]["step"], dtype=torch.float32)
        self.adam.load_state_dict({**self.adam.state_dict(), "state": {0: {"step": steps, **joined}}})


class NumpyPolicy:
    """What an actor computes for a few observations, in numpy. It sees the actor's weights of the moment it was made."""

    def __init__(self, actor: Actor) -> None:
        linears = [layer for layer in actor.net if isinstance(layer, nn.Linear)]
        self._layers = [(_array(layer.weight).T, _array(layer.bias)) for layer in linears]

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Logits or means, float32 [copies, actions]."""
        hidden = observations
        for weight, bias in self._layers[:-1]:
            hidden = np.tanh(hidden @ weight + bias)
        weight, bias = self._layers[-1]
        outputs: np.ndarray = hidden @ weight + bias
        return outputs


class Rollout:
    """Memory for one rollout, allocated once: arrays [steps, copies, ...]."""

    def __init__(self, n_steps: int, n_copies: int, size: int, action_space: gymnasium.Space[Any]) -> None:
        discrete = isinstance(action_space, spaces.Discrete)
        self.observations = np.zeros((n_steps + 1, n_copies, size), np.float32)
        self.actions = np.zeros(
            (n_steps, n_copies, 1 if discrete else action_size(action_space)), np.int64 if discrete else np.float32
        )
        self.rewards = np.zeros((n_steps, n_copies), np.float32)
        self.ended = np.zeros((n_steps, n_copies), np.bool_)
        self.truncated: list[tuple[int, int, np.ndarray]] = []


class PPO:
    """A training: networks, optimizers, generator, counters and copies of the environment.

    Between two iterations of `learn` nothing else is state. Raises UsageError for spaces it cannot handle.
    """

    def __init__(
        self, copies: Copies, settings: PPOSettings | None = None, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.settings = settings or PPOSettings()
        self.copies = copies
        self.device = torch.device(device)
        self.rng = np.random.default_rng(seed)
        size = copies.observations.shape[1]
        init = torch.Generator().manual_seed(seed)
        self.actor = Actor(size, copies.action_space, self.settings.net_arch, init).to(self.device)
        self.critic = network([size, *self.settings.net_arch, 1], 1.0, init).to(self.device)
        self.actor_optimizer = FlatAdam(self.actor, self.settings.rate(1.0), self.settings.max_grad_norm)
        self.critic_optimizer = FlatAdam(self.critic, self.settings.rate(1.0), self.settings.max_grad_norm)
        self.timestep = 0
        self.episode_rewards: list[float] = []
        self.episode_lengths: list[int] = []
        self._rollout = Rollout(self.settings.n_steps, len(copies.environments), size, copies.action_space)

    @property
    def episode(self) -> int:
        """Episodes finished so far."""
        return len(self.episode_rewards)

    def learn(
        self,
        total_timesteps: int,
        at_cut: Callable[[], None] = lambda: None,
        after_update: Callable[[dict[str, float]], None] = lambda row: None,
        on_step: Callable[[], None] = lambda: None,
    ) -> PPO:
        """Train until `total_timesteps` environment steps have been taken in all, to the end of a rollout.

        `at_cut` is called where the whole state is consistent, `after_update` with what is worth logging, `on_step` after every
        step of all copies; each may raise to leave.
        """
        while self.timestep < total_timesteps:
            at_cut()
            rate = self.settings.rate(1.0 - self.timestep / total_timesteps)
            self.collect(on_step)
            after_update({"train/learning_rate": rate, **self.update(rate)})
        return self

    def collect(self, on_step: Callable[[], None] = lambda: None) -> None:
        """Fill the rollout with steps of the present policy."""
        policy, noise, rollout, copies = NumpyPolicy(self.actor), self._noise(), self._rollout, self.copies
        rollout.truncated.clear()
        for t in range(self.settings.n_steps):
            rollout.observations[t] = copies.observations
            actions = self._actions(policy(copies.observations), noise[t], rollout.actions[t])
            truncated = copies.step(actions, rollout.rewards[t], rollout.ended[t])
            rollout.truncated += [(t, k, observation) for k, observation in truncated]
            self.timestep += len(copies.environments)
            on_step()
        rollout.observations[-1] = copies.observations
        for reward, length in copies.finished:
            self.episode_rewards.append(reward)
            self.episode_lengths.append(length)
        copies.finished.clear()

    def update(self, learning_rate: float) -> dict[str, float]:
        """Fit actor and critic to the rollout; returns losses and statistics by their names in the log."""
        observations = self._tensor(self._rollout.observations[:-1])
        actions = self._tensor(self._rollout.actions)
        advantages, returns, values = self._advantages()
        with torch.no_grad():
            old = self.actor.log_probabilities(self.actor.net(observations), actions)
        whole = (observations, actions, old, advantages, returns)
        for _ in range(self.settings.n_epochs):
            order = torch.from_numpy(self.rng.permutation(len(old))).to(self.device)
            for batch in zip(*(torch.split(part[order], self.settings.batch_size) for part in whole), strict=True):
                policy_loss, value_loss = self._losses(*batch)
                # neither has a parameter of the other: one pass backwards gives both gradients
                (policy_loss + value_loss).backward()  # type: ignore[no-untyped-call]
                self.actor_optimizer.step(learning_rate)
                self.critic_optimizer.step(learning_rate)
        losses = {"policy_gradient_loss": policy_loss.detach(), "value_loss": value_loss.detach()}
        return {f"train/{name}": float(value) for name, value in {**losses, **self._statistics(*whole, values)}.items()}

    def predict(self, observation: Any) -> Any:
        """The most probable action for one observation, as the environment takes it."""
        outputs = NumpyPolicy(self.actor)(np.asarray(self.copies.flat(observation), np.float32)[None])
        chosen = outputs.argmax(-1) if self.actor.discrete else outputs
        return self._as_environment_takes(chosen)[0]

    def save_with_training_state(
        self,
        path: str | Path,
        timestep: int,
        episode: int,
        episode_rewards: Sequence[float],
        episode_lengths: Sequence[int],
    ) -> None:
        """Write everything to a `.pt` that `torch.load(weights_only=True)` reads, durably: complete or not at all."""
        from unbroken.learners import ppo_files

        ppo_files.save(self, Path(path), timestep, episode, episode_rewards, episode_lengths)

    def load_with_training_state(self, path: str | Path) -> tuple[int, int, list[float], list[int]]:
        """Restore from a `.pt`; returns timestep, episode, and rewards and lengths of the episodes.

        A file of an earlier trainer that holds weights only is loaded as far as it goes, and what it lacks is named. Raises
        DamagedFile for what `weights_only` refuses and IncompatibleRun where the networks differ.
        """
        from unbroken.learners import ppo_files

        return ppo_files.load(self, Path(path))

    def _losses(
        self,
        observations: torch.Tensor,
        actions: torch.Tensor,
        old: torch.Tensor,
        advantages: torch.Tensor,
        returns: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The clipped objective of the actor, with the entropy bonus, and half the squared error of the critic."""
        if self.settings.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        outputs = self.actor.net(observations)
        ratio = (self.actor.log_probabilities(outputs, actions) - old).exp()
        clip = self.settings.clip_range
        policy_loss = -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean()
        if self.settings.ent_coef != 0:
            policy_loss = policy_loss - self.settings.ent_coef * self.actor.entropy(outputs)
        return policy_loss, 0.5 * (self.critic(observations).squeeze(-1) - returns).square().mean()

    def _statistics(
        self,
        observations: torch.Tensor,
        actions: torch.Tensor,
        old: torch.Tensor,
        advantages: torch.Tensor,
        returns: torch.Tensor,
        values: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """How far the update has moved the policy, over the whole rollout."""
        with torch.no_grad():
            outputs = self.actor.net(observations)
            change = self.actor.log_probabilities(outputs, actions) - old
            ratio = change.exp()
            return {
                "entropy_loss": -self.actor.entropy(outputs),
                "approx_kl": (ratio - 1 - change).mean(),
                "clip_fraction": ((ratio - 1).abs() > self.settings.clip_range).float().mean(),
                "explained_variance": 1 - (returns - values).var() / (returns.var() + 1e-8),
            }

    def _advantages(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Advantages, returns and values of the rollout, each [steps * copies]: one pass of the critic over all of it."""
        rollout = self._rollout
        last = [observation for _, _, observation in rollout.truncated]
        flat = rollout.observations.reshape(-1, rollout.observations.shape[-1])
        with torch.no_grad():
            found = _array(self.critic(torch.from_numpy(np.vstack([flat, *last])).to(self.device)).squeeze(-1))
        values = found[: len(flat)].reshape(rollout.observations.shape[:2])
        next_values = np.where(rollout.ended, np.float32(0), values[1:])
        for (t, k, _), value in zip(rollout.truncated, found[len(flat) :], strict=True):
            next_values[t, k] = value
        settings = self.settings
        advantages = generalized_advantages(
            rollout.rewards, values[:-1], next_values, rollout.ended, settings.gamma, settings.gae_lambda
        ).astype(np.float32)
        return self._tensor(advantages), self._tensor(advantages + values[:-1]), self._tensor(values[:-1])

    def _noise(self) -> np.ndarray:
        """What the actions of a rollout are drawn with: the whole randomness of acting, in one call."""
        shape = (self.settings.n_steps, len(self.copies.environments), action_size(self.copies.action_space))
        if self.actor.discrete:
            return self.rng.gumbel(size=shape).astype(np.float32)
        drawn: np.ndarray = self.rng.standard_normal(shape, np.float32) * np.exp(_array(self.actor.log_std))
        return drawn

    def _actions(self, outputs: np.ndarray, noise: np.ndarray, kept: np.ndarray) -> Sequence[Any]:
        """Draw actions, remember them in `kept`, and give them as the environment takes them.

        The greatest of the logits plus Gumbel noise is a draw from their softmax.
        """
        if self.actor.discrete:
            kept[:, 0] = (outputs + noise).argmax(-1)
            return self._as_environment_takes(kept[:, 0])
        np.add(outputs, noise, out=kept)
        return self._as_environment_takes(kept)

    def _as_environment_takes(self, actions: np.ndarray) -> Sequence[Any]:
        space = self.copies.action_space
        if isinstance(space, spaces.Discrete):
            chosen: list[int] = (actions + space.start).tolist() if space.start else actions.tolist()
            return chosen
        assert isinstance(space, spaces.Box)
        clipped: Sequence[Any] = np.clip(actions.reshape(-1, *space.shape), space.low, space.high).astype(space.dtype)
        return clipped

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        """An array [steps, copies, ...] as a tensor [steps * copies, ...] on the training's device."""
        return torch.from_numpy(array.reshape(-1, *array.shape[2:])).to(self.device)


def observation_size(space: gymnasium.Space[Any]) -> int:
    """How many numbers an observation is. Raises UsageError for a space without a fixed number."""
    if not space.is_np_flattenable:
        raise UsageError(f"ppo_torch cannot flatten observations of {space}; use --algo ppo")
    return spaces.flatdim(space)


def action_size(space: gymnasium.Space[Any]) -> int:
    """Number of discrete actions, or of dimensions of a continuous one. Raises UsageError for other spaces."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return math.prod(space.shape)
    raise UsageError(f"ppo_torch takes Discrete and continuous Box actions, not {space}; use --algo ppo")


def _array(tensor: torch.Tensor) -> np.ndarray:
    found: np.ndarray = tensor.detach().cpu().numpy()
    return found
