"""Folders as earlier trainers leave them, made by these trainers themselves; and imports of them within this process."""

import contextlib
import hashlib
import os
import subprocess
import sys

import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import unbroken
from unbroken.importing.importer import import_run
from unbroken.request import make_request


@contextlib.contextmanager
def _one_thread():
    """Networks of this size wait for threads more than they compute; a run keeps the number that it began with."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def one_thread():
    with _one_thread():
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with a folder of each plain Stable-Baselines3 training; read only."""
    root = tmp_path_factory.mktemp("les données d'un élève")
    with _one_thread():
        _train_ppo(root / "ppo à côté")
        _train_dqn(root / "dqn")
        _train_sac(root / "sac")
    return root


def _train_ppo(folder):
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 2), seed=7, n_steps=32, batch_size=32, n_epochs=2,
                policy_kwargs={"net_arch": [16, 16]}, device="cpu")  # fmt: skip
    evaluates = EvalCallback(
        make_vec_env("CartPole-v1"), eval_freq=32, n_eval_episodes=2, verbose=0,
        best_model_save_path=str(folder / "best_model"), log_path=str(folder / "best_model"),
    )  # fmt: skip
    model.learn(384, callback=[CheckpointCallback(32, str(folder), "feux tricolores"), evaluates])
    model.save(folder / "final_model.zip")


def _train_dqn(folder):
    model = DQN("MlpPolicy", "CartPole-v1", seed=0, buffer_size=500, learning_starts=40, learning_rate=1e-3,
                target_update_interval=50, policy_kwargs={"net_arch": [16]}, device="cpu")  # fmt: skip
    model.learn(300, callback=CheckpointCallback(100, str(folder), "dqn", save_replay_buffer=True))


def _train_sac(folder):
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    model = SAC("MlpPolicy", env, seed=0, buffer_size=500, learning_starts=40, batch_size=32,
                policy_kwargs={"net_arch": [16]}, device="cpu")  # fmt: skip
    both = {"save_replay_buffer": True, "save_vecnormalize": True}
    model.learn(200, callback=CheckpointCallback(100, str(folder), "sac", **both))


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def imports(runs):
    """Import a folder: `imports(path, target, start=…, files_only=…, **words of train)`."""

    def run(path, target=None, *, start=None, files_only=False, **words):
        request = make_request(
            target, {"runs_dir": runs, "device": "cpu", **words} if target else {"runs_dir": runs, **words}
        )
        return import_run(path, request, start=start, files_only=files_only)

    return run


@pytest.fixture
def contents():
    """Path, hash and time of change of every file below a folder."""

    def look(folder):
        return {
            path.relative_to(folder).as_posix(): (
                hashlib.sha256(path.read_bytes()).hexdigest(),
                path.stat().st_mtime_ns,
            )
            for path in folder.rglob("*")
            if path.is_file()
        }

    return look


@pytest.fixture
def goes_on(runs):
    """`unbroken train TARGET --run RUN --steps STEPS` within this process, with the settings of `train`'s tests."""

    def run(target, name, steps):
        words = {"runs_dir": runs, "eval_every": 0, "save_every": 64, "settings": {"self_test": False}}
        return unbroken.train(target, run=name, steps=steps, **words)

    return run


@pytest.fixture
def train(runs):
    """`unbroken train` as a process, killed where `kill` names a place of `unbroken.testing.kill_at`."""

    def run(*words, kill=None):
        how = ["-m", "unbroken"] if kill is None else ["-m", "unbroken.testing.kill_at", kill, "--"]
        command = [sys.executable, *how, "train", *map(str, words), "--runs-dir", str(runs)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    return run
