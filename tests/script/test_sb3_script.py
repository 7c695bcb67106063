"""The drop-ins in a user's own Stable-Baselines3 script, as real scripts and within this process (A15)."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

from unbroken.errors import DamagedFile, IncompatibleRun, RunLocked, UsageError
from unbroken.inspection import compare
from unbroken.learners.script import _holders
from unbroken.sb3 import CaptureWrapper, RotatingCheckpointCallback, find_latest_checkpoint, resume_or_create

EXAMPLE = Path(__file__).parents[2] / "examples" / "sb3_script.py"
RICH = Path(__file__).with_name("rich_script.py")
TINY = {"n_steps": 64, "batch_size": 64, "n_epochs": 1, "device": "cpu"}


@pytest.fixture
def example(tmp_path):
    """The shipped example with a smaller target; nothing else is changed."""
    text = EXAMPLE.read_text(encoding="utf-8")
    assert "total_timesteps=20_000" in text
    path = tmp_path / "example.py"
    path.write_text(text.replace("total_timesteps=20_000", "total_timesteps=3_000"), encoding="utf-8")
    return path


def test_the_example_killed_and_run_again_ends_with_the_same_bits(scripts, example):
    """A15, A6: SIGKILL in mid-training, the same script again, the third start does nothing."""
    assert scripts.run(example, "twin") == 0
    assert scripts.kill(example, "hurt", "Saved cartpole_1024_steps.zip") == -signal.SIGKILL
    assert scripts.run(example, "hurt") == 0
    assert re.search(r"\[CHECKPOINT\] Found [12] checkpoint\(s\) to restore:", scripts.out)
    assert "[CHECKPOINT] Resume: timestep=" in scripts.out
    compared = scripts.assert_identical("twin", "hurt", "cartpole")
    assert compared.leaves > 50
    folder = scripts.root / "hurt"
    before = {path.name: path.read_bytes() for path in (folder / "checkpoints").glob("*.zip")}
    assert scripts.run(example, "hurt") == 0
    assert "learn(3,000) was completed by an earlier leg" in scripts.out
    assert "nothing to do" in scripts.out
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").glob("*.zip")} == before
    assert (
        PPO.load(folder / "cartpole_final", device="cpu").num_timesteps
        == PPO.load(scripts.newest("twin", "cartpole")).num_timesteps
    )
    assert len((EXAMPLE).read_text().splitlines()) <= 12


def test_a_full_script_killed_in_each_learn_call(scripts):
    """A15, A6, A16: EvalCallback, a callback with state, VecNormalize, TensorBoard, two learn() calls."""
    assert scripts.run(RICH, "twin") == 0
    assert "SECOND DONE 896 448" in scripts.out
    assert scripts.kill(RICH, "hurt", "Saved model_256_steps.zip", SLOW=0.002) == -signal.SIGKILL
    assert scripts.kill(RICH, "hurt", "Saved model_768_steps.zip", SLOW=0.002) == -signal.SIGKILL
    assert "FIRST DONE 512" in scripts.out
    assert scripts.run(RICH, "hurt") == 0
    assert "FIRST DONE 768" in scripts.out
    assert "SECOND DONE 896 448" in scripts.out
    assert "WARNING" not in scripts.out
    scripts.assert_identical("twin", "hurt")
    curves = {where: scalars(scripts.root / where / "tb") for where in ("twin", "hurt")}
    assert curves["hurt"] == curves["twin"]
    assert len({point[:2] for point in curves["hurt"]}) == len(curves["hurt"]) > 60
    results = [np.load(scripts.root / where / "evaluations" / "evaluations.npz") for where in ("twin", "hurt")]
    for name in ("timesteps", "results", "ep_lengths"):
        np.testing.assert_array_equal(results[0][name], results[1][name])


def scalars(folder):
    """(tag, step, value) over all event files, without wall-clock values."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    found = []
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag != "time/fps":
                    found.append((value.tag, event.step, float(tensor_util.make_ndarray(value.tensor))))
    return sorted(found)


def test_sigterm_saves_at_the_next_cut_and_exits_75(scripts):
    """A11: run the same script again."""
    with scripts.start(RICH, "asked", SLOW=0.002) as process:
        assert process.wait_for("Saved model_128_steps.zip"), process.last_lines()
        process.signal(signal.SIGTERM)
        assert process.wait(60) == 75
    text = "\n".join(process.lines)
    assert "SIGTERM received: stopping at the next cut" in text
    assert "Stopped with a valid checkpoint: run the same script again to continue" in text
    assert "FIRST DONE" not in text
    newest = scripts.newest("asked")
    assert int(newest.name.split("_")[-2]) >= 256
    verified = subprocess.run(
        [sys.executable, "-m", "unbroken", "checkpoints", "verify", str(newest)], capture_output=True, check=False
    )
    assert verified.returncode == 0


# within this process


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def callback(folder, **words):
    return RotatingCheckpointCallback(**{"save_freq": 64, "save_path": folder, "max_keep": 2, **words})


def steps_of(folder, prefix="rl_model"):
    return sorted(int(path.name.split("_")[-2]) for path in folder.glob(f"{prefix}_*_steps.zip"))


def test_the_callback_alone_rotates_as_a_drop_in(folder, capsys):
    """A15: in a script that does nothing else, with SB3's positional arguments; plain PPO.load reads the files."""
    model = PPO("MlpPolicy", "CartPole-v1", seed=0, **TINY)
    model.learn(320, callback=RotatingCheckpointCallback(128, str(folder), "mine", 2))
    assert steps_of(folder, "mine") == [256, 320]
    assert "Rotated out mine_128_steps.zip (rule: newest 2)" in capsys.readouterr().out
    latest = find_latest_checkpoint(folder, "mine")
    assert latest == str(folder / "mine_320_steps.zip")
    assert PPO.load(latest, env=model.env).num_timesteps == 320


def test_what_the_callback_alone_saved_can_be_resumed(folder, capsys):
    """A15: the script gains resume_or_create later; the environments were not captured, which was said, and begin anew."""
    model = PPO("MlpPolicy", "CartPole-v1", seed=0, **TINY)
    model.learn(192, callback=callback(folder))
    assert "WARNING: not captured: the environments inside" in capsys.readouterr().out
    again = resume_or_create(PPO, "MlpPolicy", "CartPole-v1", callback(folder), seed=0, **TINY)
    assert again.num_timesteps == 192
    again.learn(320)
    assert again.num_timesteps == 320


def test_three_prefixes_share_one_folder(folder):
    """A15: each finds its own, whatever lies beside it; one prefix may begin with another."""
    for prefix, steps in (("a", 64), ("a_b", 128), ("c", 192)):
        PPO("MlpPolicy", "CartPole-v1", seed=0, **TINY).learn(
            steps, callback=callback(folder, name_prefix=prefix, max_keep=1)
        )
    (folder / "a_final_steps.zip").write_bytes(b"")
    for prefix, steps in (("a", 64), ("a_b", 128), ("c", 192)):
        assert find_latest_checkpoint(folder, prefix) == str(folder / f"{prefix}_{steps}_steps.zip")
    assert find_latest_checkpoint(folder, "d") is None
    assert find_latest_checkpoint(folder / "nowhere", "a") is None


def test_the_latest_is_the_newest_valid_by_commit(folder, caplog):
    """A7, user pain 13: not by file time, and never a torn one."""
    PPO("MlpPolicy", "CartPole-v1", seed=0, **TINY).learn(192, callback=callback(folder, max_keep=3))
    os.utime(folder / "rl_model_64_steps.zip", (4_000_000_000, 4_000_000_000))
    newest = folder / "rl_model_192_steps.zip"
    newest.write_bytes(newest.read_bytes()[:-100])
    leftover = folder / ".rl_model_192_steps.zip.0.tmp"
    leftover.write_bytes(b"of a save in progress")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert find_latest_checkpoint(folder) == str(folder / "rl_model_128_steps.zip")
    # it only reads: another process may be training here
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert "Skipped rl_model_192_steps.zip" in caplog.text


def test_two_targets_in_a_row_need_no_change_but_the_number(folder, tmp_path):
    """A4: `learn(total)` counts from where the call began in the first leg; raising it continues."""

    def script(where, total):
        model = resume_or_create(PPO, "MlpPolicy", "CartPole-v1", callback(tmp_path / where), seed=0, **TINY)
        return model.learn(total)

    assert script("one", 128).num_timesteps == 128
    assert script("one", 128).num_timesteps == 128
    assert script("one", 320).num_timesteps == 320
    assert script("two", 128).num_timesteps == 128
    assert script("two", 320).num_timesteps == 320
    newest = [str(tmp_path / where / "rl_model_320_steps.zip") for where in ("one", "two")]
    assert compare(tmp_path, *newest).identical


def test_off_policy_with_its_replay_buffer(folder, tmp_path):
    """A6, user pains 1 and 3: DQN's buffer, epsilon and target network, over an interruption."""

    class Stop(Exception):
        pass

    class Bomb(gymnasium.Wrapper):
        left = None

        def step(self, action):
            if Bomb.left is not None:
                Bomb.left -= 1
                if Bomb.left < 0:
                    raise Stop
            return self.env.step(action)

    def script(where):
        words = {
            "learning_starts": 50,
            "buffer_size": 500,
            "train_freq": 4,
            "target_update_interval": 40,
            "device": "cpu",
        }
        env = Bomb(gymnasium.make("CartPole-v1"))
        return resume_or_create(DQN, "MlpPolicy", env, callback(tmp_path / where), seed=0, **words).learn(400)

    script("twin")
    Bomb.left = 230
    with pytest.raises(Stop):
        script("hurt")
    Bomb.left = None
    model = script("hurt")
    assert model.replay_buffer.pos == 400
    newest = [str(tmp_path / where / "rl_model_400_steps.zip") for where in ("twin", "hurt")]
    compared = compare(tmp_path, *newest)
    assert compared.identical, compared.text()


class Counting(gymnasium.Env):
    """Small and exact; `hidden` makes it draw from a generator that nobody can reach."""

    observation_space = gymnasium.spaces.Box(-10, 10, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, hidden=None):
        self.observation_space = gymnasium.spaces.Box(-10, 10, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.draw = hidden or (lambda: 0.0)
        self.age = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self._seen(), {}

    def step(self, action):
        self.age += 1
        return self._seen(), 1.0, self.age > 20, False, {}

    def _seen(self):
        return np.array([self.np_random.random() + self.draw()], np.float32)


def hidden_generator():
    generator = np.random.default_rng()
    return lambda: generator.random()


@pytest.mark.parametrize(
    ("second", "env", "line"),
    [
        (None, Counting, "environment state: not proved (no second environment was given)"),
        (Counting, Counting, "environment state: exact by its attributes (self-test passed)"),
        (
            lambda: Counting(hidden_generator()),
            lambda: Counting(hidden_generator()),
            "WARNING: environment state: not proved",
        ),
    ],
    ids=["not given", "exact", "hidden generator"],
)
def test_the_self_test_needs_a_second_environment(folder, capsys, second, env, line):
    """Issue 2, Exactness: without one it says "not proved"; with one it proves or warns."""
    resume_or_create(PPO, "MlpPolicy", env(), callback(folder), second_env=second, seed=0, **TINY)
    assert line in capsys.readouterr().out


def test_the_verdict_is_in_the_metadata(folder):
    """A3, A6: recorded beside the checkpoints."""
    import json

    checkpoints = callback(folder, name_prefix="mine")
    resume_or_create(PPO, "MlpPolicy", Counting(), checkpoints, second_env=Counting, seed=0, **TINY).learn(64)
    found = json.loads((folder / "mine_training_metadata.json").read_text())
    assert found["environment_capture"] == {"strategy": "attributes", "proved": True, "reason": ""}
    assert (found["total_timesteps_completed"], found["not_captured"]) == (64, [])


@pytest.mark.parametrize("wrapped", [True, False])
def test_subprocess_environments_with_and_without_the_wrapper(folder, capsys, wrapped):
    """A6: workers are captured where each environment is wrapped; otherwise it says once what is not captured."""
    words = {"wrapper_class": CaptureWrapper} if wrapped else {}
    env = make_vec_env(
        "CartPole-v1", n_envs=2, seed=0, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "fork"}, **words
    )
    try:
        resume_or_create(PPO, "MlpPolicy", env, callback(folder), seed=0, **TINY).learn(256)
        out = capsys.readouterr().out
        # what is not captured begins anew, with a reset of its own
        again = resume_or_create(PPO, "MlpPolicy", env, callback(folder), seed=0, **TINY).learn(512)
        assert again.num_timesteps == 512
    finally:
        env.close()
    said = "the environments inside stable_baselines3.common.vec_env.subproc_vec_env:SubprocVecEnv"
    assert out.count(said) == (0 if wrapped else 1)


def test_workers_without_a_monitor_resume(folder):
    """A worker that is asked for what its environment lacks ends, and would take the training with it."""
    env = SubprocVecEnv([lambda: CaptureWrapper(gymnasium.make("CartPole-v1"))] * 2, start_method="fork")
    try:
        resume_or_create(PPO, "MlpPolicy", env, callback(folder), seed=0, **TINY).learn(256)
        again = resume_or_create(PPO, "MlpPolicy", env, callback(folder), seed=0, **TINY).learn(512)
        assert again.num_timesteps == 512
    finally:
        env.close()


@pytest.mark.parametrize(
    ("algorithm", "words", "named"),
    [
        (PPO, {"n_steps": 32, "batch_size": 32}, "hyperparameters.n_steps: 64 -> 32"),
        (DQN, {}, "algo: 'PPO' -> 'DQN'"),
        (PPO, {"policy_kwargs": {"net_arch": [8]}}, "policy_architecture"),
    ],
)
def test_an_incompatible_change_is_refused_with_the_difference(folder, algorithm, words, named):
    """A8: before anything is restored, with the ways out."""
    resume_or_create(PPO, "MlpPolicy", "CartPole-v1", callback(folder), seed=0, **TINY).learn(64)
    given = {"device": "cpu"} if algorithm is DQN else {**TINY, **words}
    with pytest.raises(IncompatibleRun) as caught:
        resume_or_create(algorithm, "MlpPolicy", "CartPole-v1", callback(folder), seed=0, **given)
    assert named in str(caught.value)
    assert "another name_prefix or save_path" in str(caught.value)


def test_another_environment_is_refused(folder):
    """A8: spaces."""
    resume_or_create(PPO, "MlpPolicy", "CartPole-v1", callback(folder), seed=0, **TINY).learn(64)
    with pytest.raises(IncompatibleRun, match="observation_shape"):
        resume_or_create(PPO, "MlpPolicy", "Acrobot-v1", callback(folder), seed=0, **TINY)


def test_a_risky_change_warns(folder, capsys):
    """A8: the learning rate of the script counts, and the lineage says so."""
    resume_or_create(PPO, "MlpPolicy", "CartPole-v1", callback(folder), seed=0, **TINY).learn(64)
    model = resume_or_create(PPO, "MlpPolicy", "CartPole-v1", callback(folder), seed=0, gamma=0.9, **TINY)
    assert "WARNING: hyperparameters.gamma: 0.99 -> 0.9 changes the training from step 64 on" in capsys.readouterr().out
    assert model.gamma == 0.9


def test_wrong_numbers_are_refused(folder):
    """Issue 2, "Errors"."""
    for words in ({"save_freq": 0}, {"max_keep": 0}):
        with pytest.raises(UsageError):
            callback(folder, **words)


PROBE = """
import sys
from pathlib import Path
from unbroken.store.lock import ExclusiveLock
lock = ExclusiveLock(Path(sys.argv[1]) / ".rl_model.lock", "rl_model")
lock.acquire()
"""


def locked_elsewhere(folder):
    """Whether another process is refused."""
    done = subprocess.run([sys.executable, "-c", PROBE, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "is being trained by process" in done.stderr, done.stderr
    return done.returncode != 0


def test_the_prefix_is_locked_from_resume_or_create_on(folder):
    """A5: before anything in the folder is touched, over several learn() calls, and when a cell is run again."""
    first = resume_or_create(PPO, "MlpPolicy", "CartPole-v1", callback(folder), seed=0, **TINY)
    assert locked_elsewhere(folder)
    first.learn(64)
    first.learn(64, reset_num_timesteps=False)
    assert locked_elsewhere(folder)
    again = resume_or_create(PPO, "MlpPolicy", "CartPole-v1", callback(folder), seed=0, **TINY)
    again.learn(64)
    assert again.learn(128, reset_num_timesteps=False).num_timesteps == 192
    assert locked_elsewhere(folder)


def test_another_process_that_trains_is_not_disturbed(folder):
    """A5: no file is removed, moved or cut before the lock is there."""
    folder.mkdir()
    program = PROBE + "print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", program, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout.readline() == "held\n"
        (folder / "rl_model_64_steps.zip").write_bytes(b"half a checkpoint")
        with pytest.raises(RunLocked, match="is being trained by process"):
            resume_or_create(PPO, "MlpPolicy", "CartPole-v1", callback(folder), seed=0, **TINY)
        assert (folder / "rl_model_64_steps.zip").read_bytes() == b"half a checkpoint"
        other.stdin.close()


def test_a_refused_resume_and_a_forgotten_callback_free_the_prefix(folder):
    """A5: whoever cannot train any more holds nothing."""
    import gc

    resume_or_create(PPO, "MlpPolicy", "CartPole-v1", callback(folder), seed=0, **TINY).learn(64)
    with pytest.raises(IncompatibleRun):
        resume_or_create(DQN, "MlpPolicy", "CartPole-v1", callback(folder), device="cpu")
    assert not locked_elsewhere(folder)
    checkpoints = callback(folder)
    resume_or_create(PPO, "MlpPolicy", "CartPole-v1", checkpoints, seed=0, **TINY)
    assert locked_elsewhere(folder)
    del checkpoints
    gc.collect()
    assert not locked_elsewhere(folder)
    assert os.path.realpath(folder / ".rl_model.lock") not in _holders


def test_a_script_whose_checkpoints_are_lost_does_not_begin_again(folder):
    """A7: the files go to the quarantine at the first start, and the next one still knows that there were some."""
    saved = callback(folder)
    resume_or_create(PPO, "MlpPolicy", "CartPole-v1", saved, **TINY).learn(128, saved)
    for path in folder.glob("*.zip"):
        path.write_bytes(path.read_bytes()[:-50])
    for _ in range(2):
        with pytest.raises(DamagedFile, match=r"remove rl_model_training_metadata.json"):
            resume_or_create(PPO, "MlpPolicy", "CartPole-v1", callback(folder), **TINY)
    assert len(list((folder / "quarantine").glob("*.zip"))) == 2
    (folder / "rl_model_training_metadata.json").unlink()
    assert resume_or_create(PPO, "MlpPolicy", "CartPole-v1", callback(folder), **TINY).num_timesteps == 0
