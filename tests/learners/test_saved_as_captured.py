"""What lies on disk is the training at its cut: later updates never leak into it, however slow the writer, whatever failed (A10).

In real trainings with real files the writing thread is held back from every save until the training waits for it, which is at
the next one: all that lies between two saves happens before a byte of the first is serialised. Every checkpoint must then be
what a second, independent capture at the same cut was, written at once; also when a save in between has failed.
"""

import errno
import threading
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import unbroken
from unbroken.background import BackgroundWriter
from unbroken.capture.comparison import compare_states
from unbroken.capture.replay_rows import row_arrays
from unbroken.checkpointer import _Loop
from unbroken.folder import RunFolder
from unbroken.learners import replay_segments
from unbroken.learners.plain_ppo import PPOLearner
from unbroken.learners.sb3 import KeeperCallback, write_members
from unbroken.learners.stored import read_stored
from unbroken.locate import repository_of
from unbroken.store.checkpoint_file import CheckpointFile
from unbroken.store.durable import LocalBackend
from unbroken.store.memory import MemoryBackend
from unbroken.store.repository import CheckpointRepository
from unbroken.testing.backends import FaultyBackend

WORLDS = Path(__file__).parents[1] / "resume" / "support"
SMALL = {"policy_kwargs": {"net_arch": [8]}}
OFF = {**SMALL, "learning_starts": 30, "batch_size": 8, "train_freq": 1}
DQN = {**OFF, "target_update_interval": 20}
HER = {
    "replay_buffer_class": "stable_baselines3:HerReplayBuffer",
    "replay_buffer_kwargs": {"n_sampled_goal": 2, "goal_selection_strategy": "future"},
}
ECONOMICAL = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
PICTURES = {"policy_kwargs": {"features_extractor_kwargs": {"features_dim": 8}}}


def world(name, policy):
    return {"scenario": "world", "policy": policy, "environment": {"kwargs": {"world": name}}}


# what is trained: target, algorithm, steps between saves, hyperparameters, other settings
TRAININGS = {
    "ppo": ("CartPole-v1", "ppo", 64, {**SMALL, "n_steps": 64, "batch_size": 32, "n_epochs": 2}, {}),
    # the buffer goes round more than once, once in part, and never while the writer is held back
    "dqn, round": ("CartPole-v1", "dqn", 60, {**DQN, "buffer_size": 25}, {}),
    "dqn, partly": ("CartPole-v1", "dqn", 60, {**DQN, "buffer_size": 90}, {}),
    "dqn, never": ("CartPole-v1", "dqn", 60, {**DQN, "buffer_size": 1000}, {}),
    "dqn, economical": ("CartPole-v1", "dqn", 60, {**DQN, **ECONOMICAL, "buffer_size": 90}, {}),
    "dqn, economical and exactly round": ("CartPole-v1", "dqn", 60, {**DQN, **ECONOMICAL, "buffer_size": 60}, {}),
    "dqn, three steps": ("CartPole-v1", "dqn", 60, {**DQN, "n_steps": 3, "buffer_size": 90}, {}),
    "dqn, copies": ("CartPole-v1", "dqn", 60, {**DQN, "buffer_size": 90}, {"environment": {"n_envs": 3}}),
    "sac": ("Pendulum-v1", "sac", 60, {**OFF, "buffer_size": 90}, {}),
    "images": ("matrix_worlds:make", "dqn", 40, {**DQN, **PICTURES, "buffer_size": 50}, world("picture", "CnnPolicy")),
    "her": ("matrix_worlds:make", "dqn", 60, {**DQN, **HER, "buffer_size": 90}, world("goal", "MultiInputPolicy")),
    "ppo-torch": ("CartPole-v1", "ppo_torch", 64, {"n_steps": 64, "batch_size": 32}, {}),
}  # fmt: skip


class Cuts:
    """What was true at every cut: a capture that nothing is shared with, serialised at once, and the rows of the buffer."""

    def __init__(self):
        self.repository = CheckpointRepository(MemoryBackend(), "cut")
        self.rows = {}

    def note(self, step, fill, buffer=None):
        self.repository.save(step, lambda writer: fill(writer) or {})
        self.rows[step] = {} if buffer is None else {name: array.copy() for name, array in row_arrays(buffer).items()}

    def watch(self, monkeypatch):
        """Look at every cut of any training, before the snapshot that is saved is taken."""
        kept = KeeperCallback._snapshot

        def snapshot(callback, cut, *memory, **lasting):
            captured = callback.captured(cut)
            buffer = getattr(callback.model, "replay_buffer", None)
            self.note(captured.step, lambda writer: write_members(writer, captured), buffer)
            return kept(callback, cut, *memory, **lasting)

        monkeypatch.setattr(KeeperCallback, "_snapshot", snapshot)
        for kind in (PPOLearner, _Loop):
            monkeypatch.setattr(kind, "_snapshot", self._twice(kind._snapshot))

    def _twice(self, snapshot):
        def both(owner, cut):
            first = snapshot(owner, cut)
            self.note(first.step, first.fill)
            return snapshot(owner, cut)

        return both


@pytest.fixture
def cuts(monkeypatch):
    found = Cuts()
    found.watch(monkeypatch)
    return found


@pytest.fixture
def released(monkeypatch):
    """Holds every save back until the training waits for it; a list of whether it was let go so, or ran out of time."""
    let_go, gates = [], {}
    submit, drain = BackgroundWriter.submit, BackgroundWriter.drain

    def slow_submit(writer, job):
        gate = threading.Event()

        def held_back():
            let_go.append(gate.wait(30))
            job()

        submit(writer, held_back)
        gates[writer] = gate

    def releasing(writer, timeout=None):
        if writer in gates:
            gates[writer].set()
        return drain(writer, timeout)

    monkeypatch.setattr(BackgroundWriter, "submit", slow_submit)
    monkeypatch.setattr(BackgroundWriter, "drain", releasing)
    return let_go


def contents(file):
    stored = read_stored(file)
    return stored, {"tensors": stored.tensors, "variables": stored.variables, "state": stored.whole_state()}


def check_rows(stored, whole, live):
    """Every row is the live one of the cut, in the place that its count gives it."""
    described = stored.state.get("replay_buffer")
    if described is None:
        return
    rows = whole["state"]["replay_buffer"]["rows"]
    assert set(rows) == set(live)
    size = len(live["rewards"])
    assert len(rows["rewards"]) == min(described["count"], size)
    for name, array in rows.items():
        apart = name not in described["rows"]
        places = ((described["oldest"] if apart else 0) + np.arange(len(array))) % size
        wanted = live[name].copy()
        held = wanted.copy()
        held[places] = array
        # with `optimize_memory_usage` the newest row's next observation lies in the place of the oldest
        if name in described["ahead"]:
            held[described["count"] % size] = described["ahead"][name]
        assert np.array_equal(held, wanted), name


def check_all(repository, cuts):
    """Every checkpoint on disk is what the cut of its step was; returns their steps."""
    steps = []
    for record in repository.records():
        with CheckpointFile(repository.backend, record.path) as file:
            stored, whole = contents(file)
            check_rows(stored, whole, cuts.rows[record.step])
        with CheckpointFile(cuts.repository.backend, f"checkpoints/cut_{record.step}_steps.zip") as file:
            _, wanted = contents(file)
        for state in (whole["state"], wanted["state"]):
            if state.get("replay_buffer"):
                state["replay_buffer"] = state["replay_buffer"]["fields"]
        compared = compare_states(wanted, whole)
        assert compared.identical, f"step {record.step}: {compared.text()}"
        steps.append(record.step)
    return steps


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains for five intervals and returns the run's folder."""
    monkeypatch.syspath_prepend(WORLDS)

    def run(name):
        target, algo, every, hyperparameters, others = TRAININGS[name]
        unbroken.train(
            target,
            algo=algo,
            steps=5 * every,
            runs_dir=tmp_path,
            run="run",
            save_every=every,
            eval_every=2 * every,
            device="cpu",
            settings={"self_test": False, "hyperparameters": hyperparameters, "saving": {"keep_last": 50}, **others},
        )
        return RunFolder(tmp_path, "run")

    return run


@pytest.mark.parametrize("name", TRAININGS)
def test_nothing_that_follows_a_cut_gets_into_its_checkpoint(train, cuts, released, name):
    """A10: networks, optimizers, generators, environments, callbacks, logger, and every row of the replay buffer."""
    steps = check_all(repository_of(train(name)), cuts)
    assert len(steps) >= 4
    assert len(released) >= len(steps)
    assert all(released)


class Failing(FaultyBackend):
    """A run folder's storage that refuses one operation on the files whose names contain `part`; counts the refusals."""

    def __init__(self, root, operation, part, refused):
        super().__init__(LocalBackend(root), self._refuse)
        self.root = root
        self._chosen, self._refused = (operation, part), refused

    def local_path(self, path):
        return self.inner.local_path(path)

    def _refuse(self, operation, path):
        if operation != self._chosen[0] or self._chosen[1] not in path:
            return None
        self._refused.append(path)
        return OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["dqn, never", "dqn, partly", "dqn, round", "dqn, economical"])
@pytest.mark.parametrize(
    ("operation", "step"),
    [("create", "segment"), ("write", "segment"), ("replace", "segment"), ("write", "state"), ("replace", "state")],
)
def test_the_save_after_one_that_failed_holds_all_rows(train, monkeypatch, cuts, released, name, operation, step):
    """A10: a failed save is tried again at the next interval and never remembered as done."""
    refused = []
    # of the rows since the save before, those that were not overwritten
    rows = "95-120" if name == "dqn, round" else "60-120"
    part = f"checkpoint_{rows}." if step == "segment" else "checkpoint_120_steps"
    monkeypatch.setattr(RunFolder, "backend", property(lambda folder: Failing(folder.path, operation, part, refused)))
    repository = repository_of(train(name))
    assert refused
    assert check_all(repository, cuts) == [60, 180, 240, 300]
    assert all(repository.verified(record).valid for record in repository.records())
    assert all(released)


@pytest.mark.parametrize("operation", ["write", "replace", "open"])
def test_a_merge_that_fails_costs_one_save_and_no_row(train, monkeypatch, cuts, released, operation):
    """A10: the segments that were to become one are named until the larger one is safe."""
    refused = []
    part = "checkpoint_60-120." if operation == "open" else "checkpoint_0-180."

    def failing(folder):
        # one refusal: the next save merges the same segments again
        return Failing(folder.path, operation, "nothing" if refused else part, refused)

    monkeypatch.setattr(RunFolder, "backend", property(failing))
    monkeypatch.setattr(replay_segments, "MERGE", 3)
    repository = repository_of(train("dqn, never"))
    assert refused
    assert check_all(repository, cuts) == [60, 120, 240, 300]
    assert all(repository.verified(record).valid for record in repository.records())


def loop(folder):
    """A loop by hand, with parts of every kind that later iterations change in place."""
    torch.manual_seed(0)
    checkpoints = unbroken.Checkpointer(folder, save_every=4, save_seconds=None, keep_last=50)
    env = checkpoints.track(env=gymnasium.make("CartPole-v1"))
    network, memory = torch.nn.Linear(4, 2), np.zeros((7, 4))
    optimizer = torch.optim.Adam(network.parameters())
    checkpoints.track(network=network, optimizer=optimizer, memory=memory, numbers=np.random.default_rng(0))
    own = checkpoints.state(observation=env.reset(seed=0)[0], seen=[], average=torch.zeros(4), by_action={0: [], 1: []})
    for step in checkpoints.steps(20):
        values = network(torch.as_tensor(own.observation))
        action = int(values.argmax())
        optimizer.zero_grad()
        values.square().sum().backward()
        optimizer.step()
        own.observation, _, terminated, truncated, _ = env.step(action)
        memory[step % 7] = own.observation
        own.average += torch.as_tensor(own.observation)
        own.seen.append(step)
        own.by_action[action].append(np.array([step]))
        if terminated or truncated:
            own.observation, _ = env.reset()
        checkpoints.save_if_due()


def test_nothing_that_follows_a_cut_of_a_loop_by_hand_gets_into_its_checkpoint(tmp_path, cuts, released):
    loop(tmp_path / "run")
    steps = check_all(repository_of(RunFolder(tmp_path, "run"), "run", "own"), cuts)
    assert steps == [4, 8, 12, 16, 20]
    assert len(released) >= len(steps)
    assert all(released)
