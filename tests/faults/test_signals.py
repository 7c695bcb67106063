"""Real processes that are asked to end: signals, grace time, deadline, Ctrl-C, two owners of one run (A5, A11)."""

import os
import signal
import sys
import time

import pytest

from unbroken.folder import RunFolder
from unbroken.inspection import verify_checkpoints
from unbroken.locate import repository_of
from unbroken.store.lock import ExclusiveLock
from unbroken.testing.child import TrainingProcess
from unbroken.testing.twin import differences

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

WORLDS = '''
import time
import gymnasium
import numpy as np

class Slow(gymnasium.Env):
    """Counts; every step takes `seconds`, the one numbered `endless` never returns."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, seconds=0.0, endless=0):
        self.seconds, self.endless, self.number = seconds, endless, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.number += 1
        time.sleep(1000.0 if self.number == self.endless else self.seconds)
        return np.full(2, self.number % 7 / 7, np.float32), 1.0, self.number % 50 == 0, False, {}
'''
SMALL = ["--set", "self_test=false", "--set", "hyperparameters.n_steps=64", "--device", "cpu", "--eval-every", "0"]
REPEATED = "steps since step {:,} will be repeated"


@pytest.fixture
def start(tmp_path):
    """Starts `unbroken train ... --run run` in `tmp_path/runs`; whatever is still running is killed at the end."""
    (tmp_path / "worlds.py").write_text(WORLDS)
    started = []

    def start_one(*words, runs="runs"):
        arguments = ["-m", "unbroken", "train", *map(str, words), "--run", "run", "--runs-dir", str(tmp_path / runs)]
        places = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
        started.append(TrainingProcess(arguments, {"PYTHONPATH": os.pathsep.join(places)}))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()


@pytest.fixture
def newest(tmp_path):
    """Step of the newest checkpoint of the run, after every byte of all was verified."""

    def newest_step():
        assert all(row["valid"] for row in verify_checkpoints(tmp_path / "runs", "run"))
        return repository_of(RunFolder(tmp_path / "runs", "run")).records()[-1].step

    return newest_step


def ended(process, code, within=60.0):
    assert process.wait(within) == code, process.last_lines()
    assert "Traceback" not in "\n".join(process.lines)


def group_is_gone(number, within=20.0):
    """Whether no process of the group is left; dead workers disappear when init has noticed them."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            os.killpg(number, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def after_first_save(process):
    assert process.wait_for("[CHECKPOINT] Saved "), process.last_lines()
    return process.acknowledged[-1].step


def test_signals_stop_at_the_next_cut_and_the_end_is_the_twins(start, newest, tmp_path):
    """A5, A11: SIGTERM, SIGUSR1 and SIGINT leave a checkpoint and 75, during the
    imports too; the same command ends with the twin's bits."""
    words = ["CartPole-v1", "--steps", 6000, "--save-every", 500, *SMALL]
    twin = start(*words, runs="twin")
    early = start(*words)
    assert early.wait_for("starting at step 0"), early.last_lines()
    time.sleep(0.3)
    early.signal(signal.SIGTERM)
    ended(early, 75)
    assert newest() == 0
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        leg = start(*words)
        saved = after_first_save(leg)
        leg.signal(number)
        ended(leg, 75)
        stopped = newest()
        assert stopped >= saved
        assert any(f"Stopping at step {stopped:,}: {number.name} received" in line for line in leg.lines)
    last = start(*words)
    ended(last, 0)
    assert last.resumed_at == stopped
    ended(twin, 0)
    assert differences(tmp_path / "runs", tmp_path / "twin", "run") == []


def test_a_late_second_ctrl_c_does_not_change_the_exit_code(start, newest):
    """A11: the last checkpoint is saved, 75 is on its way, and an impatient hand presses Ctrl-C once more."""
    leg = start("CartPole-v1", "--steps", 60000, "--save-every", 500, *SMALL)
    after_first_save(leg)
    leg.signal(signal.SIGINT)
    assert leg.wait_for("Stopping at step"), leg.last_lines()
    stopped = len(leg.lines)
    while leg.running and not any("Saved" in line for line in leg.lines[stopped:]):
        time.sleep(0.001)
    for _ in range(20):
        time.sleep(0.05)
        if leg.running:
            leg.signal(signal.SIGINT)
    ended(leg, 75)
    assert newest() > 0


@pytest.mark.full
def test_between_cuts_grace_and_a_second_ctrl_c_say_what_is_repeated(start, newest):
    """A11: no cut within the grace time, or Ctrl-C twice: 75 at once, and the checkpoint before it is intact."""
    words = ["worlds:Slow", "--steps", 5000, "--save-every", 128, "--grace", "1s", *SMALL]
    words += ["--set", "environment.kwargs.seconds=0.04", "--set", "hyperparameters.n_steps=128"]
    graced = start(*words)
    saved = after_first_save(graced)
    time.sleep(0.5)
    graced.signal(signal.SIGTERM)
    ended(graced, 75)
    assert newest() == saved
    assert any(REPEATED.format(saved) in line and "the grace time is over" in line for line in graced.lines)

    doubled = start(*words, "--grace", "60s")
    assert doubled.wait_for("Resume: timestep"), doubled.last_lines()
    assert doubled.resumed_at == saved
    time.sleep(1.0)
    doubled.signal(signal.SIGINT)
    time.sleep(0.3)
    assert doubled.running
    doubled.signal(signal.SIGINT)
    ended(doubled, 75, within=20)
    assert newest() == saved
    assert any(REPEATED.format(saved) in line and "SIGINT again" in line for line in doubled.lines)


def test_one_owner_at_a_time_and_a_step_that_never_returns(start, newest, tmp_path):
    """A5, A11: a second process is refused with 69; the lock dies with its owner; a blocked step ends with 75."""
    words = ["worlds:Slow", "--steps", 5000, "--save-every", 64, "--grace", "1s", *SMALL]
    words += ["--set", "environment.kwargs.endless=100"]
    owner = start(*words)
    saved = after_first_save(owner)
    second = start(*words)
    ended(second, 69)
    assert second.lines == [
        line for line in second.lines if f"run run is being trained by process {owner.pid} on " in line
    ]
    assert owner.running
    assert owner.kill() == -signal.SIGKILL
    with ExclusiveLock(RunFolder(tmp_path / "runs", "run").lock_path):
        pass

    blocked = start(*words)
    assert blocked.wait_for("Resume: timestep"), blocked.last_lines()
    time.sleep(1.0)
    blocked.signal(signal.SIGTERM)
    ended(blocked, 75)
    assert newest() == saved == 64
    assert any(
        f"Stopping at step 99 without a new checkpoint (the grace time is over): 35 {REPEATED.format(64)}" in line
        for line in blocked.lines
    )


def test_a_stop_before_the_first_checkpoint_does_not_promise_one(start, tmp_path):
    """A11: 75 is for a run that can be resumed; a step that never returns before the first save ends with 1."""
    words = ["worlds:Slow", "--steps", 5000, "--save-every", 64, "--grace", "1s", *SMALL]
    leg = start(*words, "--set", "environment.kwargs.endless=30")
    assert leg.wait_for("starting at step 0"), leg.last_lines()
    until = time.monotonic() + 60
    while not (tmp_path / "runs" / "run" / "run.yaml").exists() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(2.0)
    leg.signal(signal.SIGTERM)
    ended(leg, 1)
    assert any("stopped before the first checkpoint; all " in line for line in leg.lines)
    assert not list((tmp_path / "runs" / "run").glob("checkpoints/*.zip"))


def test_a_deadline_is_met_with_a_checkpoint(start, newest):
    """A11: the leg stops so early that the last save is on disk before the deadline."""
    leg = start("CartPole-v1", "--steps", 10_000_000, "--save-every", 1_000_000, "--deadline", "10s", *SMALL)
    assert leg.wait_for("starting at step 0")
    began = time.monotonic()
    ended(leg, 75)
    assert 3.0 < time.monotonic() - began < 10.5
    assert any(f"Stopping at step {newest():,}: the deadline is near" in line for line in leg.lines)


def test_ctrl_c_in_a_terminal_reaches_worker_processes_too(start, newest):
    """A11: the terminal sends SIGINT to the whole process group, environments in worker processes included."""
    words = [
        "CartPole-v1",
        "--steps",
        6000,
        "--save-every",
        512,
        "--n-envs",
        2,
        *SMALL,
        "--set",
        "environment.vec_env=subproc",
    ]
    leg = start(*words)
    saved = after_first_save(leg)
    os.killpg(leg.pid, signal.SIGINT)
    ended(leg, 75)
    stopped = newest()
    assert stopped >= saved
    assert group_is_gone(leg.pid)
    again = start(*words)
    assert again.wait_for("Resume: timestep"), again.last_lines()
    assert again.resumed_at == stopped
