"""The undisturbed twin of a cell: an ordinary Stable-Baselines3 script that never heard of unbroken's training.

`python reference.py spec.json` trains, leaves logs and the state at the end of every `learn()`, and then loads the
checkpoints of the other side with plain `Algorithm.load`, to compare their weights with its own.
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import sb3_contrib
import stable_baselines3
import torch
from matrix_callbacks import FinalState
from matrix_worlds import make
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from stable_baselines3.common.callbacks import CallbackList, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

EVALUATION_SEED_OFFSET = 1_000_000


def evaluation_class(spec):
    """SB3's EvalCallback, logging beside the training's logger: it dumps, which would move rows of the training."""

    class Apart(MaskableEvalCallback if spec["class"] == "MaskablePPO" else EvalCallback):
        own = configure(str(Path(spec["out"]) / "evaluation"), ["json"])
        logger = property(lambda self: self.own)

    return Apart


def environment(spec, *, evaluation=False):
    venv = make_vec_env(
        make,
        n_envs=1 if evaluation else spec["n_envs"],
        seed=spec["seed"] + (EVALUATION_SEED_OFFSET if evaluation else 0),
        vec_env_cls=SubprocVecEnv if spec["workers"] == "subproc" and not evaluation else DummyVecEnv,
        env_kwargs=spec["kwargs"],
    )
    if spec["normalize"] is not None:
        venv = VecNormalize(venv, **spec["normalize"])
        if evaluation:
            venv.training, venv.norm_reward = False, False
    if spec["frame_stack"]:
        venv = VecFrameStack(venv, n_stack=spec["frame_stack"])
    return venv


def argument(name, value):
    if name == "action_noise":
        kind = {"normal": NormalActionNoise, "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise}[value["type"]]
        return kind(np.zeros(2), np.full(2, value["sigma"]))
    if name.endswith("_class"):
        module, _, attribute = value.partition(":")
        return getattr(importlib.import_module(module), attribute)
    if name == "train_freq" and isinstance(value, list):
        return tuple(value)
    if isinstance(value, str) and value.startswith("lin_"):
        return LinearSchedule(float(value[4:]), 0.0, 1.0)
    return value


def callbacks(spec):
    made = []
    for place in spec["callbacks"]:
        module, _, name = place.partition(":")
        made.append(getattr(importlib.import_module(module), name)())
    if not any(isinstance(callback, FinalState) for callback in made):
        raise AssertionError("without FinalState there is nothing to compare")
    if spec["evaluation"]:
        made.append(
            evaluation_class(spec)(
                environment(spec, evaluation=True),
                n_eval_episodes=spec["evaluation"]["episodes"],
                eval_freq=spec["evaluation"]["every"] // spec["n_envs"],
                log_path=str(Path(spec["out"]) / "evaluations"),
                verbose=0,
                warn=False,
            )
        )
    return CallbackList(made)


def train(spec):
    cls = getattr(stable_baselines3, spec["class"], None) or getattr(sb3_contrib, spec["class"])
    arguments = {name: argument(name, value) for name, value in spec["hyperparameters"].items()}
    model = cls(spec["policy"], environment(spec), seed=spec["seed"], device="cpu", **arguments)
    model.set_logger(configure(spec["out"], ["json"]))
    listening = callbacks(spec)
    words = {} if spec["log_interval"] is None else {"log_interval": spec["log_interval"]}
    for k, target in enumerate(spec["targets"]):
        model.learn(target - model.num_timesteps, listening, reset_num_timesteps=k == 0, **words)
    return model


def load_checkpoints(model, paths, spec):
    """Plain load of every checkpoint; the newest must hold the weights that the reference ended with."""
    problems = []
    for k, path in enumerate(paths):
        # SB3 loads a HerReplayBuffer's algorithm with an environment only
        env = environment(spec) if "replay_buffer_class" in spec["hyperparameters"] else None
        loaded = type(model).load(path, env, device="cpu")
        if k == len(paths) - 1:
            mine, other = model.policy.state_dict(), loaded.policy.state_dict()
            problems += [f"{path}: {name}" for name in mine if not torch.equal(mine[name], other[name])]
            if loaded.num_timesteps != model.num_timesteps:
                problems.append(f"{path}: is at {loaded.num_timesteps} and not at {model.num_timesteps}")
    return problems


def _is_simulator(module, spec):
    """The traffic environments are in the package, but know nothing of training."""
    allowed = module in ("unbroken", "unbroken.errors") or module.startswith("unbroken.traffic")
    return allowed and spec["kwargs"].get("world") == "traffic"


def main():
    spec = json.loads(Path(sys.argv[1]).read_text())
    model = train(spec)
    problems = load_checkpoints(model, spec["load"], spec)
    problems += sorted(
        name for name in sys.modules if name.split(".")[0] == "unbroken" and not _is_simulator(name, spec)
    )
    model.env.close()
    Path(spec["out"], "problems.json").write_text(json.dumps(problems))


if __name__ == "__main__":
    main()
