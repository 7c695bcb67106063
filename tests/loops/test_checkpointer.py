"""`unbroken.Checkpointer` in loops written by hand (A14): what it captures, when it saves, how it leaves."""

import collections
import json
import os
import random
import signal
import subprocess
import sys
import textwrap

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from unbroken import Checkpointer
from unbroken.capture.environments import CaptureWrapper
from unbroken.capture.tracked import Tracked
from unbroken.errors import DamagedFile, IncompatibleRun, RunLocked, UsageError
from unbroken.inspection import compare
from unbroken.store.lock import ExclusiveLock


class Killed(Exception):
    """Leaves the loop between two cuts."""


class Counts(torch.nn.Module):
    """A network that keeps more than its state dict."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)
        self.seen = 0
        self.register_buffer("mean", torch.zeros(4), persistent=False)

    def forward(self, x):
        self.seen += 1
        self.mean += 0.1 * (x.detach() - self.mean)
        return self.linear(x)


class Learner:
    """A plain object of the user's with a container, a generator and a number."""

    def __init__(self):
        self.returns = collections.deque(maxlen=5)
        self.noise = np.random.default_rng(5)
        self.scale = 1.0


def seed_process():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def train(folder, total=60, dies_at=None, make=lambda: gymnasium.make("CartPole-v1"), **words):
    """A hand-written loop that uses everything: returns a digest of all that it did."""
    seed_process()
    ckpt = Checkpointer(folder, **{"save_every": 10, "save_seconds": None, **words})
    env = ckpt.track(env=make())
    model = Counts()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    table, learner, numbers = np.zeros(3), Learner(), np.random.default_rng(3)
    ckpt.track(model=model, optimizer=optimizer, schedule=schedule, table=table, learner=learner, numbers=numbers)
    own = ckpt.state(observation=env.reset(seed=1)[0], episodes=0, trace=[])
    try:
        for step in ckpt.steps(total):
            if step == dies_at:
                raise Killed
            scores = model(torch.as_tensor(own.observation))
            optimizer.zero_grad()
            (scores.square().sum() + torch.rand(()) * scores[0]).backward()
            optimizer.step()
            schedule.step()
            action = int(scores.argmax()) if random.random() < 0.5 else int(np.random.randint(2))
            own.observation, _, terminated, truncated, _ = env.step(action)
            table[step % 3] += numbers.normal() * learner.noise.normal()
            learner.returns.append(step)
            learner.scale *= 1.01
            own.trace.append(float(own.observation.sum()))
            if terminated or truncated:
                own.episodes += 1
                own.observation = env.reset()[0]
            ckpt.save_if_due()
    finally:
        ckpt.close()
    tensors = [value.detach().numpy().copy() for value in model.state_dict().values()]
    return [
        own.trace,
        own.episodes,
        table.tolist(),
        list(learner.returns),
        learner.scale,
        model.seen,
        model.mean.tolist(),
    ] + [value.tolist() for value in tensors]


def newest(folder):
    return max(folder.glob("checkpoints/*_steps.zip"), key=lambda path: int(path.name.split("_")[-2]))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: gymnasium.make("CartPole-v1"), id="by attributes"),
        pytest.param(
            lambda: gymnasium.wrappers.NormalizeObservation(gymnasium.make("CartPole-v1")), id="wrapped by the user"
        ),
    ],
)
def test_a_loop_that_died_continues_with_the_same_bits(tmp_path, make):
    """A14, A6: model, optimizer, schedule, arrays, generators, an object, the loop's own variables, in mid-episode."""
    expected = train(tmp_path / "twin", make=make)
    for dies_at in (17, 35, 38):
        with pytest.raises(Killed):
            train(tmp_path / "hurt", dies_at=dies_at, make=make)
    assert train(tmp_path / "hurt", make=make) == expected
    assert len(expected[0]) == 60
    compared = compare(tmp_path, str(newest(tmp_path / "twin")), str(newest(tmp_path / "hurt")))
    assert compared.identical, compared.text()


@pytest.mark.parametrize("part", ["model", "table", "learner", "numbers", "schedule"])
def test_the_comparison_would_see_a_part_that_is_not_restored(tmp_path, monkeypatch, part):
    """A14: the test above can fail."""
    real = Tracked._fill
    monkeypatch.setattr(Tracked, "_fill", lambda self, name, *rest: [] if name == part else real(self, name, *rest))
    expected = train(tmp_path / "twin")
    with pytest.raises(Killed):
        train(tmp_path / "hurt", dies_at=35)
    if part == "schedule":
        train(tmp_path / "hurt")
        assert not compare(tmp_path, str(newest(tmp_path / "twin")), str(newest(tmp_path / "hurt"))).identical
    else:
        assert train(tmp_path / "hurt") != expected


def vectors(copies, **words):
    return lambda: SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * copies, **words)


def drive_vectors(folder, make, dies_at=None, total=240):
    ckpt = Checkpointer(folder, save_every=40, save_seconds=None)
    envs = make()
    assert ckpt.track(envs=envs) is envs
    own = ckpt.state(observations=envs.reset(seed=3)[0], trace=[])
    rng = ckpt.track(rng=np.random.default_rng(0))
    try:
        for step in ckpt.steps(total, by=4):
            if dies_at is not None and step >= dies_at:
                raise Killed
            own.observations, rewards, terminated, truncated, _ = envs.step(rng.integers(2, size=envs.num_envs))
            own.trace.append(
                [float(own.observations.sum()), float(rewards.sum()), bool((terminated | truncated).any())]
            )
            ckpt.save_if_due()
    finally:
        ckpt.close()
    return own.trace


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(vectors(4), id="next step"),
        pytest.param(vectors(4, autoreset_mode="SameStep"), id="same step"),
        pytest.param(vectors(4, copy=False), id="shared observations"),
        pytest.param(
            lambda: gymnasium.wrappers.vector.RecordEpisodeStatistics(
                gymnasium.wrappers.vector.NormalizeObservation(vectors(4)())
            ),
            id="vector wrappers",
        ),
        pytest.param(
            lambda: gymnasium.make_vec("CartPole-v1", 4, vectorization_mode="vector_entry_point"), id="one object"
        ),
    ],
)
def test_vector_environments_in_mid_episode(tmp_path, make):
    """A14, A6: each copy where it was, those that are to be reset at the next step included."""
    expected = drive_vectors(tmp_path / "twin", make)
    assert any(ended for _, _, ended in expected[:20])
    for dies_at in (80, 124, 164, 200):
        with pytest.raises(Killed):
            drive_vectors(tmp_path / "hurt", make, dies_at=dies_at)
    assert drive_vectors(tmp_path / "hurt", make) == expected


def test_workers_are_refused_with_the_reason(tmp_path):
    """A14: named, not guessed."""
    envs = AsyncVectorEnv([lambda: gymnasium.make("CartPole-v1")])
    try:
        with pytest.raises(UsageError, match="use SyncVectorEnv"):
            Checkpointer(tmp_path / "run").track(envs=envs)
    finally:
        envs.close()


def test_a_vector_environment_that_was_reset_before_is_named(tmp_path, capsys):
    """A14: its copies are in episodes that nobody has seen begin."""
    ckpt = Checkpointer(tmp_path / "run", save_every=1)
    envs = vectors(2)()
    envs.reset(seed=0)
    ckpt.track(envs=envs)
    for _ in ckpt.steps(2):
        ckpt.save_if_due()
    assert "not captured: envs: environment 1: its state (reset and step" in capsys.readouterr().out


def test_a_capture_wrapper_below_another_is_refused(tmp_path):
    """A14: the wrapper above it would not be captured."""
    env = gymnasium.wrappers.NormalizeObservation(CaptureWrapper(gymnasium.make("CartPole-v1")))
    with pytest.raises(UsageError, match="outermost"):
        Checkpointer(tmp_path / "run").track(env=env)


def drive_sb3(folder, dies_at=None):
    ckpt = Checkpointer(folder, save_every=20, save_seconds=None)
    venv = VecNormalize(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * 2))
    ckpt.track(venv=venv)
    venv.seed(3)
    own = ckpt.state(observations=venv.reset(), trace=[])
    rng = ckpt.track(rng=np.random.default_rng(0))
    try:
        for step in ckpt.steps(120):
            if step == dies_at:
                raise Killed
            own.observations, rewards, _, _ = venv.step(rng.integers(2, size=2))
            own.trace.append([float(own.observations.sum()), float(rewards.sum())])
            ckpt.save_if_due()
    finally:
        ckpt.close()
    return own.trace


def test_vector_environments_of_stable_baselines3(tmp_path):
    """A14: with their normalisation."""
    expected = drive_sb3(tmp_path / "twin")
    with pytest.raises(Killed):
        drive_sb3(tmp_path / "hurt", dies_at=73)
    assert drive_sb3(tmp_path / "hurt") == expected


@pytest.mark.parametrize(("thing", "words"), [(3, "ckpt.state"), ((1, 2), "ckpt.state"), (len, "state_dict")])
def test_what_cannot_be_tracked_is_refused(tmp_path, thing, words):
    """A14: with what to do instead."""
    with pytest.raises(UsageError, match=words):
        Checkpointer(tmp_path / "run").track(thing=thing)


def test_gaps_are_named_once(tmp_path, capsys):
    """A14: an iterator cannot be captured; neither can an environment that is not used as it came back."""
    ckpt = Checkpointer(tmp_path / "run", save_every=1)
    holder = Learner()
    holder.items = iter([1, 2, 3])
    env = gymnasium.make("CartPole-v1")
    ckpt.track(holder=holder, env=env)
    env.reset(seed=0)
    for _ in ckpt.steps(5):
        ckpt.save_if_due()
    out = capsys.readouterr().out
    assert out.count("not captured: holder.items") == 1
    assert out.count("reset and step what track() returned") == 1
    metadata = json.loads((tmp_path / "run" / "training_metadata.json").read_text())
    assert len(metadata["not_captured"]) == 2


def loop(folder, total=20, **words):
    ckpt = Checkpointer(folder, **{"save_every": 5, "save_seconds": None, **words})
    own = ckpt.state(count=0)
    for _ in ckpt.steps(total):
        own.count += 1
        yield ckpt, own
        ckpt.save_if_due()


def test_tiers_retention_and_metadata(tmp_path):
    """A8, A9: rolling by interval, the best by the score reported, the final one; hyper-parameters and legs."""
    for k, (ckpt, _) in enumerate(loop(tmp_path / "run", keep_every=10, config={"lr": 0.1, "seed": 4, "odd": print})):
        ckpt.report([1.0, 7.0, 3.0][k % 3])
        ckpt.log(loss=k, train__kl=0.5)
    run = tmp_path / "run"
    assert sorted(int(p.name.split("_")[-2]) for p in run.glob("checkpoints/*.zip")) == [10, 15, 20]
    assert json.loads((run / "best_model" / "best_model.json").read_text()) == {"score": 7.0, "step": 1}
    assert (run / "run_final.zip").exists()
    metadata = json.loads((run / "training_metadata.json").read_text())
    assert metadata["total_timesteps_completed"] == 20
    assert metadata["target_reached"] is True
    assert metadata["hyperparameters"] == {"lr": 0.1}
    assert (metadata["seed"], metadata["best_score"], len(metadata["legs"])) == (4, 7.0, 1)
    rows = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert rows[3] == {"step": 3, "loss": 3, "train/kl": 0.5}


def test_rows_of_repeated_steps_are_cut(tmp_path):
    """A16: one continuous curve."""
    for ckpt, own in loop(tmp_path / "run"):
        ckpt.log(count=own.count)
        if own.count == 13:
            ckpt.close()
            break
    for ckpt, own in loop(tmp_path / "run"):
        ckpt.log(count=own.count)
    rows = [json.loads(line) for line in (tmp_path / "run" / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(20))


def test_a_damaged_newest_is_skipped_and_a_lone_one_refused(tmp_path, capsys):
    """A7."""
    for _ in loop(tmp_path / "run"):
        pass
    files = sorted((tmp_path / "run" / "checkpoints").glob("*.zip"))
    files[-1].write_bytes(files[-1].read_bytes()[:-50])
    assert len(list(loop(tmp_path / "run"))) == 5
    assert "Skipped" in capsys.readouterr().out
    for path in (tmp_path / "run" / "checkpoints").glob("*.zip"):
        path.write_bytes(b"PK\x03\x04 torn")
    for words in ("no checkpoint can be used", "had reached step"):
        with pytest.raises(DamagedFile, match=words):
            list(loop(tmp_path / "run"))


def test_another_network_or_another_name_is_refused(tmp_path):
    """A5: with the difference."""

    def once(**things):
        ckpt = Checkpointer(tmp_path / "run")
        ckpt.track(**things)
        list(ckpt.steps(1))

    once(model=torch.nn.Linear(2, 2))
    with pytest.raises(IncompatibleRun, match=r"model.weight.*\[2, 2\] -> \[3, 2\]"):
        once(model=torch.nn.Linear(2, 3))
    with pytest.raises(IncompatibleRun, match="net"):
        once(net=torch.nn.Linear(2, 2))


def test_a_changed_hyper_parameter_is_named(tmp_path, capsys):
    """A5: it may change the training."""
    list(loop(tmp_path / "run", total=10, config={"lr": 0.1}))
    list(loop(tmp_path / "run", total=20, config={"lr": 0.2}))
    assert "hyperparameters.lr: 0.1 -> 0.2 changes the training from step 10 on" in capsys.readouterr().out


def test_one_process_at_a_time(tmp_path):
    """A10: another process holds the lock; the same process takes over, as a notebook cell that is run again."""
    first = loop(tmp_path / "run")
    next(first)
    second = loop(tmp_path / "run")
    next(second)
    del first, second
    with ExclusiveLock(tmp_path / "run" / ".lock"), pytest.raises(RunLocked):
        next(loop(tmp_path / "run"))


def test_a_proof_on_a_second_environment(tmp_path, capsys):
    """A6: as for SB3 scripts."""
    list(loop(tmp_path / "run", total=1, second_env=lambda: gymnasium.make("CartPole-v1")))
    assert "exact by its attributes (self-test passed)" in capsys.readouterr().out


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    """Promise 6: resume reads tensors with weights_only and descriptions."""
    train(tmp_path / "run", total=20)
    real = torch.load
    seen = []

    def strict(*args, **words):
        seen.append(words.get("weights_only"))
        return real(*args, **words)

    monkeypatch.setattr(torch, "load", strict)
    monkeypatch.setattr("pickle.load", None)
    monkeypatch.setattr("pickle.loads", None)
    train(tmp_path / "run", total=40)
    assert seen
    assert set(seen) == {True}


SCRIPT = """
    import sys, time
    from unbroken import Checkpointer
    ckpt = Checkpointer(sys.argv[1], save_every=5, save_seconds=None, grace=float(sys.argv[2]), deadline=sys.argv[3] or None)
    own = ckpt.state(count=0)
    for step in ckpt.steps(10_000):
        own.count += 1
        time.sleep(0.01)
        if step == 12:
            print("READY", flush=True)
        if len(sys.argv) < 5:
            ckpt.save_if_due()
"""


def start(folder, grace="30", deadline="", *more):
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder), grace, deadline, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)


def until_ready(process):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "READY" in line:
            return lines
    raise AssertionError("".join(lines))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_at_the_next_cut_and_exits_75(tmp_path, number):
    """A11."""
    with start(tmp_path / "run") as process:
        until_ready(process)
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait(30) == 75, rest
    assert "Stopped with a valid checkpoint" in rest
    assert int(newest(tmp_path / "run").name.split("_")[-2]) >= 13


def test_the_deadline_exits_75_in_time(tmp_path):
    """A11: with a checkpoint of where it stopped."""
    with start(tmp_path / "run", "30", "4s") as process:
        rest = process.stdout.read()
        assert process.wait(30) == 75, rest
    assert "the deadline is near" in rest


@pytest.mark.parametrize("saved", [True, False])
def test_a_second_ctrl_c_leaves_at_once(tmp_path, saved):
    """A11: 75 promises a checkpoint, 1 says that there is none; a loop without cuts ends when the grace time is over."""
    with start(tmp_path / "run", *(("30", "") if saved else ("0.2", "", "no cuts"))) as process:
        until_ready(process)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(30) == (75 if saved else 1), rest
    if not saved:
        assert "stopped before the first checkpoint" in rest
