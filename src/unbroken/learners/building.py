"""Build environments and models from a configuration: the same objects, in the same order, on every leg.

The training is that of a plain Stable-Baselines3 script: `make_vec_env(target, n_envs, seed)`, the vector wrappers, then
`Algorithm(policy, env, seed=seed, **hyperparameters)`.
"""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import signal
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize

from unbroken import logs
from unbroken.capture.environments import CaptureWrapper, Strategy
from unbroken.config import RunConfig
from unbroken.errors import ConfigurationError, UsageError
from unbroken.learners.hyperparameters import constructor_arguments
from unbroken.targets import make_environment, wrapped

_ALGORITHMS = {
    "ppo": ("stable_baselines3", "PPO"),
    "a2c": ("stable_baselines3", "A2C"),
    "dqn": ("stable_baselines3", "DQN"),
    "sac": ("stable_baselines3", "SAC"),
    "td3": ("stable_baselines3", "TD3"),
    "ddpg": ("stable_baselines3", "DDPG"),
    "recurrent_ppo": ("sb3_contrib", "RecurrentPPO"),
    "maskable_ppo": ("sb3_contrib", "MaskablePPO"),
    "tqc": ("sb3_contrib", "TQC"),
    "qrdqn": ("sb3_contrib", "QRDQN"),
    "crossq": ("sb3_contrib", "CrossQ"),
    "trpo": ("sb3_contrib", "TRPO"),
}
# evaluation episodes must not be the training's: SB3 gives copy k the seed `seed + k`
_EVALUATION_SEED_OFFSET = 1_000_000


class EnvironmentFactory:
    """Makes one environment of a target; it travels to worker processes."""

    def __init__(self, target: str, kwargs: dict[str, Any]) -> None:
        self.target = target
        self.kwargs = kwargs

    def __call__(self) -> Any:
        """A new environment. In a worker process Ctrl-C is left to the training process."""
        if multiprocessing.parent_process() is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return make_environment(self.target, self.kwargs)


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """The class of an algorithm's configured name."""
    module, cls = _ALGORITHMS[name]
    found: type[BaseAlgorithm] = getattr(importlib.import_module(module), cls)
    return found


def constructor_defaults(name: str) -> dict[str, Any]:
    """What an algorithm's constructor takes for the hyper-parameters that nobody gives."""
    if name == "ppo_torch":
        from unbroken.learners.ppo import PPOSettings

        return dict(vars(PPOSettings()))
    parameters = inspect.signature(algorithm_class(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _wrapped_for_capture(env: Any, wrappers: list[Any] | None, **words: Any) -> CaptureWrapper:
    """Outside of Monitor, where SB3 puts wrappers, so that it counts what the environment gave; this also in a worker process."""
    return CaptureWrapper(wrapped(env, wrappers), **words)


def build_environment(config: RunConfig, strategy: Strategy = "auto", *, evaluation: bool = False) -> VecEnv:
    """Vector environment of a configuration; for evaluation one in-process copy that does not adapt its normalisation."""
    section = config.environment
    subproc = _evaluates_apart(config) if evaluation else section.vec_env == "subproc"
    seed = (config.seed + (_EVALUATION_SEED_OFFSET if evaluation else 0)) % 2**32
    # SB3's annotation knows no function with arguments of its own
    wrap: Any = _wrapped_for_capture
    venv: VecEnv = make_vec_env(
        EnvironmentFactory(config.target, section.kwargs),
        n_envs=1 if evaluation else section.n_envs,
        seed=seed,
        vec_env_cls=SubprocVecEnv if subproc else DummyVecEnv,
        wrapper_class=wrap,
        wrapper_kwargs={"wrappers": section.wrappers, "strategy": strategy, "replay_limit": section.replay_limit},
    )
    if not subproc and not evaluation:
        _note_whether_alone(config, venv)
    if subproc:
        # SB3 leaves them as they come: an environment that uses them would train differently in every run of one seed
        for k in range(venv.num_envs):
            venv.env_method("seed_process", (seed + k) % 2**32, indices=k)
    if section.normalize is not None and section.frame_stack is not None and not _is_on_policy(config.algo):
        # SB3 stores the observations from before normalisation, and those are not stacked
        raise ConfigurationError(
            f"{config.algo} keeps a replay buffer, which cannot have both environment.normalize and environment.frame_stack"
        )
    if section.normalize is not None:
        try:
            venv = VecNormalize(venv, **section.normalize)
        except TypeError as error:
            raise ConfigurationError(f"environment.normalize: {error}") from error
        if evaluation:
            venv.training, venv.norm_reward = False, False
    if section.frame_stack is not None:
        venv = VecFrameStack(venv, n_stack=section.frame_stack)
    return venv


# targets with a simulator that runs once per process, as far as one was made in this process
_ALONE: set[str] = set()


def _note_whether_alone(config: RunConfig, venv: VecEnv) -> None:
    """Raise ConfigurationError for copies that share a simulator, which would be silently wrong."""
    if not any(venv.env_method("must_be_alone")):
        return
    if venv.num_envs > 1:
        raise ConfigurationError(
            f"{config.target} uses a simulator that runs once per process: give each copy its own with "
            "environment.vec_env=subproc (for SUMO, traci does it too: unset LIBSUMO_AS_TRACI)"
        )
    _ALONE.add(config.target)


def _evaluates_apart(config: RunConfig) -> bool:
    """Whether the process that trains has a simulator that suffers no second one: evaluation then has a worker process."""
    return config.environment.vec_env == "dummy" and config.target in _ALONE


def _is_on_policy(algo: str) -> bool:
    return issubclass(algorithm_class(algo), OnPolicyAlgorithm)


def build_model(config: RunConfig, venv: VecEnv) -> BaseAlgorithm:
    """Model over an environment. Raises UsageError when algorithm and environment do not fit."""
    cls = algorithm_class(config.algo)
    if config.algo == "maskable_ppo" and not venv.has_attr("action_masks"):
        raise UsageError(
            f"maskable_ppo needs the method action_masks(), which {config.target} lacks; give it one, or use ppo"
        )
    if config.device.startswith("cuda") and get_device(config.device).type == "cpu":
        logs.warn_checkpoint(f"device {config.device!r}: there is no usable GPU here; the training runs on the CPU")
    n_actions = venv.action_space.shape[0] if isinstance(venv.action_space, spaces.Box) else None
    arguments = constructor_arguments(cls, config.hyperparameters, n_actions)
    policy = config.policy or _default_policy(config.algo, venv)
    try:
        return cls(policy, venv, seed=config.seed, device=config.device, **arguments)
    except (AssertionError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"{cls.__name__} cannot train on {config.target}: {reason}{_algorithm_hint(reason, venv)}"
        ) from error


def _default_policy(algo: str, venv: VecEnv) -> str:
    if isinstance(venv.observation_space, spaces.Dict):
        kind = "MultiInput"
    else:
        kind = "Cnn" if is_image_space(venv.observation_space) else "Mlp"
    return f"{kind}LstmPolicy" if algo == "recurrent_ppo" else f"{kind}Policy"


def _algorithm_hint(reason: str, venv: VecEnv) -> str:
    if "action space" not in reason:
        return ""
    if isinstance(venv.action_space, spaces.Box):
        return " (for continuous actions try ppo, sac, td3 or tqc)"
    if isinstance(venv.action_space, spaces.MultiDiscrete):
        return " (for several discrete actions at once try ppo, a2c or maskable_ppo)"
    return " (for discrete actions try ppo, dqn or qrdqn)" if isinstance(venv.action_space, spaces.Discrete) else ""
