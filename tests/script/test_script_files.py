"""What SB3 itself writes beside the checkpoints of a user's script, over an interruption (A15, A16)."""

from pathlib import Path

import gymnasium
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from unbroken.sb3 import RotatingCheckpointCallback, resume_or_create

TINY = {"n_steps": 64, "batch_size": 64, "n_epochs": 1, "device": "cpu"}


class Killed(Exception):
    pass


class Stops(BaseCallback):
    """Stands for the kill; what the process had flushed by then is on disk."""

    at = 0

    def _on_step(self):
        if self.num_timesteps == type(self).at:
            self.logger.close()
            raise Killed
        return True


def script(env="CartPole-v1", stops=0, **words):
    """A script's `learn(320)` in the current folder; returns the model."""
    checkpoints = RotatingCheckpointCallback(64, "cp", "x")
    model = resume_or_create(PPO, "MlpPolicy", env, checkpoints, seed=0, **TINY, **words)
    callbacks = [checkpoints, Stops()]
    Stops.at = stops
    if stops:
        with pytest.raises(Killed):
            model.learn(320, callback=callbacks)
    else:
        model.learn(320, callback=callbacks)
    model.env.close()
    return model


def steps_of_rows(folder):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    events = [e for path in sorted(folder.rglob("events.*")) for e in EventFileLoader(str(path)).Load()]
    return sorted(e.step for e in events for v in e.summary.value if v.tag == "rollout/ep_len_mean")


@pytest.mark.parametrize("place", ["tb", "cp/tb"])
def test_a_folder_that_was_moved_still_has_one_row_a_step(tmp_path, monkeypatch, capsys, place):
    """A16: event files are named from where the checkpoint lies."""
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    script(stops=250, tensorboard_log=place)
    assert steps_of_rows(tmp_path / "old") == [64, 128, 192]
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    again = script(stops=270, tensorboard_log=place)
    assert again.num_timesteps == 270
    script(tensorboard_log=place)
    assert steps_of_rows(tmp_path / "new" / place) == [64, 128, 192, 256, 320]
    assert "is missing" not in capsys.readouterr().out


def test_a_curve_that_is_gone_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script(stops=250, tensorboard_log="tb")
    (tmp_path / "tb").rename(tmp_path / "elsewhere")
    script(tensorboard_log="tb")
    assert "is missing: the curves up to the checkpoint are not continued" in capsys.readouterr().out


def test_absolute_names_of_earlier_checkpoints_are_understood(tmp_path):
    from unbroken.learners.events import file_key, file_of_key

    path = tmp_path / "tb" / "events.out.tfevents.1"
    assert file_of_key(str(path), tmp_path / "cp") == path
    assert file_key(path, tmp_path / "cp") == "../tb/events.out.tfevents.1"


def monitored(fresh_file):
    return make_vec_env("CartPole-v1", seed=0, monitor_dir=".", monitor_kwargs={"override_existing": fresh_file})


def episodes(folder):
    """The rows without their wall-clock time."""
    return [line.rpartition(",")[0] for line in (folder / "0.monitor.csv").read_text().splitlines()[1:]]


def test_a_monitor_file_that_is_appended_to_is_continued(tmp_path, monkeypatch, capsys):
    """A16: every episode once, as in an undisturbed training, after two kills."""
    for name in ("twin", "hurt"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "twin")
    script(monitored(True))
    monkeypatch.chdir(tmp_path / "hurt")
    capsys.readouterr()
    for stops in (150, 250, 0):
        script(monitored(not Path("0.monitor.csv").exists()), stops)
    assert episodes(tmp_path / "hurt") == episodes(tmp_path / "twin")
    out = capsys.readouterr().out
    assert "Cut 0.monitor.csv back to the checkpoint" in out
    assert out.count("anew") == 1
    assert "WARNING" not in out


@pytest.mark.parametrize("vector", [False, True])
def test_a_monitor_file_that_is_begun_anew_is_said_up_front(tmp_path, monkeypatch, capsys, vector):
    """Promise 3: before anything is lost, with the way out, and again when it was."""

    def env():
        return VecMonitor(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]), "0") if vector else monitored(True)

    monkeypatch.chdir(tmp_path)
    script(env(), 150)
    out = capsys.readouterr().out
    assert "Note: Stable-Baselines3 began 0.monitor.csv anew; unless told otherwise it does so at every start" in out
    assert "to keep them, give Monitor override_existing=" in out
    script(env())
    assert "WARNING: Stable-Baselines3 began 0.monitor.csv anew: its" in (out := capsys.readouterr().out)
    assert "bytes with the episodes of earlier legs are gone" in out
